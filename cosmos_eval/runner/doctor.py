"""Whether data sets are whole on the disk, and what mends them. Imports no torch by itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cosmos_eval.data.folders import ADVICE, Survey, remedy_of
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.sources import ImageSource, archive_notes, image_sources
from cosmos_eval.protocols import is_embedded, known_protocols
from cosmos_eval.runner.plan import require_data_root
from cosmos_eval.runner.suites import read_suite
from cosmos_eval.tasks import find_protocol, task_named, task_of
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
    """Survey a data set file by file, or check it as before a run where its task has no survey.
    Where nothing else is wrong, `decode` every image (None: of a user's own set)."""
    dataset, task = protocol.dataset, task_of(protocol)
    diagnosed = partial(Diagnosis, dataset=dataset, task=task)
    if is_embedded(protocol) and not Path(str(protocol.root)).is_dir():
        return diagnosed(whole=True, note="embedded: the first run makes it")
    known = task_named(task)
    decoded, note = None, ""
    try:
        if known.survey is not None:
            found = known.survey(protocol, options, progress)
        else:
            known.check(protocol, options, data := known.open_data(protocol, options))
            n_images = len(image_sources(data)) or None
            folder = protocol.root or options.data_root
            found = Survey(folder=folder, expected=n_images, images=n_images)
        if not found.faults and _has_archives(protocol):
            note = "; ".join(archive_notes(known.open_data(protocol, options)))
        if not found.faults and (protocol.root is not None if decode is None else decode):
            sources = image_sources(known.open_data(protocol, options))
            broken = _undecodable(sources, known.decode, options, progress)
            decoded = len(sources) - len(broken)
            more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
            found = replace(found, faults=tuple(f"{fault}{more}" for fault in broken[:1]))
    except UsageError as error:
        found = Survey(faults=(str(error),), remedy=remedy_of(protocol))
    # The name is printed before each fault, and the advice is to call the doctor.
    texts = (fault.partition(ADVICE)[0] for fault in found.faults)
    faults = tuple(text.removeprefix(f"{dataset}: ") for text in texts)
    survey = vars(replace(found, faults=faults))
    return diagnosed(whole=not faults, decoded=decoded, note=note, **survey)


def _has_archives(protocol: Protocol) -> bool:
    archives = getattr(protocol, "archives", ())
    return bool(archives) or getattr(protocol, "layout", None) == "webdataset"


def _undecodable(
    sources: Sequence[ImageSource],
    decode: Callable[[Any], Any],
    options: RunOptions,
    progress: OnProgress,
) -> list[str]:
    """Decode images; return what is wrong with those that cannot be."""

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
