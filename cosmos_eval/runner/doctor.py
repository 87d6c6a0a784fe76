"""Whether data sets are whole on the disk, and what mends them. Imports no torch by itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cosmos_eval.data.folders import ADVICE, Survey, remedy_of
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageSource, archive_notes, image_sources
from cosmos_eval.protocols import is_embedded, known_protocols
from cosmos_eval.runner.plan import require_data_root
from cosmos_eval.runner.suites import read_suite
from cosmos_eval.tasks import find_protocol, task_named
from cosmos_eval.types import OnProgress, Progress, Protocol, RunOptions, UsageError


@dataclass(frozen=True, kw_only=True)
class Diagnosis(Survey):
    """What was found of a data set; `whole` where it has no faults. `decoded` images were decoded,
    None where none was to be."""

    dataset: str
    task: str
    whole: bool
    decoded: int | None = None
    note: str = ""


def choose(names: Sequence[str], suite: str | None, options: RunOptions) -> list[Protocol]:
    """Return the data sets of these names and YAML files, then those of a suite; without either,
    all known ones.

    Raises UsageError for unknown names and for a data root that is missing.
    """
    protocols = [*map(find_protocol, names)]
    if suite is not None:
        protocols += read_suite(suite, with_models=False).protocols
    is_named, protocols = bool(protocols), protocols or [*known_protocols().values()]
    if is_named or options.data_root is not None:
        for protocol in protocols:
            require_data_root(protocol, options)
    return protocols


def examine(
    protocol: Protocol, options: RunOptions, progress: OnProgress, *, decode: bool | None = None
) -> Diagnosis:
    """Survey a data set file by file.

    If nothing else is wrong, every image is decoded: of a user's own data set, or of any data set
    if `decode` is true, or of none if it is false.
    """
    dataset, task = protocol.dataset, task_named(protocol.task)
    if is_embedded(protocol) and not Path(str(protocol.root)).is_dir():
        note = "embedded: the first run makes it"
        return Diagnosis(dataset=dataset, task=task.name, whole=True, note=note)
    if decode is None:
        decode = protocol.root is not None
    n_decoded, note = None, ""
    try:
        survey = task.survey(protocol, options, progress)
        if not survey.faults and _has_archives(protocol):
            note = "; ".join(archive_notes(task.open_data(protocol, options)))
        if not survey.faults and decode:
            sources = image_sources(task.open_data(protocol, options))
            faults_of_images = _decode_all(sources, task.decode, options, progress)
            n_decoded = len(sources) - len(faults_of_images)
            survey = replace(survey, faults=_first_of(faults_of_images))
    except UsageError as error:
        survey = Survey(faults=(str(error),), remedy=remedy_of(protocol))
    faults = tuple(_without_name_and_advice(fault, dataset) for fault in survey.faults)
    return Diagnosis(
        dataset=dataset,
        task=task.name,
        whole=not faults,
        decoded=n_decoded,
        note=note,
        **vars(replace(survey, faults=faults)),
    )


def _without_name_and_advice(fault: str, dataset: str) -> str:
    """Return a fault without the data set's name, which is printed before it, and the advice to
    call the doctor."""
    return fault.partition(ADVICE)[0].removeprefix(f"{dataset}: ")


def _first_of(faults: Sequence[str]) -> tuple[str, ...]:
    """Return the first fault with the number of the others; empty if there are none."""
    if len(faults) > 1:
        return (f"{faults[0]} (and {len(faults) - 1} more)",)
    return tuple(faults)


def _has_archives(protocol: Protocol) -> bool:
    archives = getattr(protocol, "archives", ())
    return bool(archives) or getattr(protocol, "layout", None) == "webdataset"


def _decode_all(
    sources: Sequence[ImageSource],
    decode: Callable[[Any], Any],
    options: RunOptions,
    progress: OnProgress,
) -> list[str]:
    """Decode images, and return the faults of those that cannot be decoded."""

    def fault_of(source: ImageSource) -> str:
        try:
            decode(source)
        except UsageError as error:
            return str(error)
        return ""

    faults = []
    for done, fault in enumerate(prefetch(sources, fault_of, workers=options.workers), start=1):
        faults += [fault] if fault else []
        progress(Progress("decode", done, len(sources)))
    return faults
