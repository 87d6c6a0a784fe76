"""Whether data sets are whole on the disk, and what mends them. Imports no torch by itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cosmos_eval.data.folders import ADVICE, Survey, remedy_of
from cosmos_eval.protocols import is_embedded, known_protocols
from cosmos_eval.runner.plan import require_data_root
from cosmos_eval.runner.suites import read_suite
from cosmos_eval.tasks import find_protocol, task_named, task_of
from cosmos_eval.types import OnProgress, Protocol, RunOptions, UsageError


@dataclass(frozen=True, kw_only=True)
class Diagnosis(Survey):
    """What was found of a data set; `whole` where it has no faults."""

    dataset: str
    task: str
    whole: bool
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


def examine(protocol: Protocol, options: RunOptions, progress: OnProgress) -> Diagnosis:
    """Survey a data set file by file, or check it as before a run where its task has no survey."""
    dataset, task = protocol.dataset, task_of(protocol)
    diagnosed = partial(Diagnosis, dataset=dataset, task=task)
    if is_embedded(protocol) and not Path(str(protocol.root)).is_dir():
        return diagnosed(whole=True, note="embedded: the first run makes it")
    known = task_named(task)
    try:
        if known.survey is not None:
            found = known.survey(protocol, options, progress)
        else:
            known.check(protocol, options, known.open_data(protocol, options))
            found = Survey(folder=protocol.root or options.data_root)
    except UsageError as error:
        found = Survey(faults=(str(error),), remedy=remedy_of(protocol))
    # The name is printed before each fault, and the advice is to call the doctor.
    texts = (fault.partition(ADVICE)[0] for fault in found.faults)
    faults = tuple(text.removeprefix(f"{dataset}: ") for text in texts)
    return diagnosed(whole=not faults, **vars(replace(found, faults=faults)))
