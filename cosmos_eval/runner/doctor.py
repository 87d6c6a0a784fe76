"""Check whether data sets on the disk are complete, and say how to mend them.

Imports no torch by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cosmos_eval.data.folders import ADVICE, Survey, remedy_of
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageSource, archive_notes, image_sources
from cosmos_eval.protocols import is_embedded, known_protocols
from cosmos_eval.protocols.languages import with_all_languages
from cosmos_eval.runner.plan import require_data_root
from cosmos_eval.runner.suites import read_suite
from cosmos_eval.tasks import find_protocol, task_named
from cosmos_eval.types import OnProgress, Progress, Protocol, RunOptions, UsageError


@dataclass(frozen=True, kw_only=True)
class Diagnosis(Survey):
    """The survey of a data set, and the verdict."""

    dataset: str
    task: str
    # True if the data set has no faults.
    whole: bool
    # The number of images that could be decoded; None if images were not to be decoded.
    decoded: int | None = None


def choose(names: Sequence[str], suite: str | None, options: RunOptions) -> list[Protocol]:
    """Return the protocols of the data sets to examine.

    Args:
        names: Names of data sets, and YAML files of a user's own.
        suite: The name or file of a suite, whose data sets are added.
        options: Their `data_root` is the folder of the data sets. It must exist if data sets that
            need it are named.

    Returns:
        The data sets of the names, then of the suite. Without both, all known data sets.

    Raises:
        UsageError: For unknown names, and if the data root is missing.
    """
    protocols = [find_protocol(name) for name in with_all_languages(names)]
    if suite is not None:
        protocols += read_suite(suite, with_models=False).protocols
    needs_data_root = bool(protocols) or options.data_root is not None
    if not protocols:
        protocols = list(known_protocols().values())
    if needs_data_root:
        for protocol in protocols:
            require_data_root(protocol, options)
    return protocols


def examine(
    protocol: Protocol, options: RunOptions, progress: OnProgress, *, decode: bool | None = None
) -> Diagnosis:
    """Survey the files of a data set, and decode its images if no file is missing.

    Args:
        protocol: The protocol of the data set.
        options: The data root, and how many threads decode images.
        progress: Is called with how many files have been looked at.
        decode: True if images are decoded. None: only the images of a user's own data set.

    Returns:
        The counts, and the faults with what mends them. A data set that cannot be read has one
        fault, the error.
    """
    task = task_named(protocol.task)
    if is_embedded(protocol) and not Path(str(protocol.root)).is_dir():
        note = "embedded: the first run makes it"
        return Diagnosis(dataset=protocol.dataset, task=task.name, whole=True, note=note)
    if decode is None:
        is_data_set_of_user = protocol.root is not None
        decode = is_data_set_of_user

    n_decoded: int | None = None
    try:
        survey = task.survey(protocol, options, progress)
        if not survey.faults and _has_archives(protocol):
            notes = archive_notes(task.open_data(protocol, options))
            if survey.note:
                notes.append(survey.note)
            survey = replace(survey, note="; ".join(notes))
        if not survey.faults and decode:
            images = image_sources(task.open_data(protocol, options))
            image_faults = _decode_all(images, task.decode, options, progress)
            n_decoded = len(images) - len(image_faults)
            survey = replace(survey, faults=_first_and_count(image_faults))
    except UsageError as error:
        survey = Survey(faults=(str(error),), remedy=remedy_of(protocol))

    faults = tuple(_without_name_and_advice(fault, protocol.dataset) for fault in survey.faults)
    survey = replace(survey, faults=faults)
    return Diagnosis(
        dataset=protocol.dataset,
        task=task.name,
        whole=not faults,
        decoded=n_decoded,
        **vars(survey),
    )


def _without_name_and_advice(fault: str, dataset: str) -> str:
    """Return a fault without the data set's name and without the advice to call the doctor.

    The doctor prints the name before the fault. For example, "pets: 3 of 5 images; see `cosmos-eval
    data doctor pets`" becomes "3 of 5 images".
    """
    fault_without_advice = fault.partition(ADVICE)[0]
    return fault_without_advice.removeprefix(f"{dataset}: ")


def _first_and_count(faults: Sequence[str]) -> tuple[str, ...]:
    """Return the first fault with the number of the other ones; empty without faults.

    `["a.jpg is cut off", "b.jpg is empty", ...]` becomes `("a.jpg is cut off (and 7 more)",)`.
    """
    if len(faults) > 1:
        return (f"{faults[0]} (and {len(faults) - 1} more)",)
    return tuple(faults)


def _has_archives(protocol: Protocol) -> bool:
    """Return whether a data set may be read from zip files or tars."""
    archives = getattr(protocol, "archives", ())
    return bool(archives) or getattr(protocol, "layout", None) == "webdataset"


def _decode_all(
    images: Sequence[ImageSource],
    decode: Callable[[Any], Any],
    options: RunOptions,
    progress: OnProgress,
) -> list[str]:
    """Decode images, and return a fault for each image that cannot be decoded.

    Args:
        images: The images of a data set.
        decode: The task's function that decodes an image. It raises UsageError for a damaged one.
        options: Their `workers` is the number of threads.
        progress: Is called after each image.
    """

    def fault_of(image: ImageSource) -> str:
        """Return why an image cannot be decoded; empty if it can."""
        try:
            decode(image)
        except UsageError as error:
            return str(error)
        return ""

    faults = []
    image_faults = prefetch(images, fault_of, workers=options.workers)
    for n_done, fault in enumerate(image_faults, start=1):
        if fault:
            faults.append(fault)
        progress(Progress("decode", n_done, len(images)))
    return faults
