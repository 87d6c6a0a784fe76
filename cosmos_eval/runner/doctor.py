"""Whether data sets are whole on the disk, and what mends them. Imports no torch by itself."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_eval.data.images import ADVICE
from cosmos_eval.data.prepare import can_prepare
from cosmos_eval.protocols import is_embedded, known_protocols
from cosmos_eval.runner.plan import data_folder
from cosmos_eval.tasks import evaluator_of, find_protocol, task_of
from cosmos_eval.types import (
    ClassificationProtocol,
    LabelMapProtocol,
    OnProgress,
    Progress,
    Protocol,
    RetrievalProtocol,
    RunOptions,
    SelectionProtocol,
    UsageError,
)

if TYPE_CHECKING:
    from cosmos_eval.tasks.label_maps import Survey


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found of a data set.

    Counts (`expected` is of images; `items` are those of a selection set), `labels` (lowest and
    highest class found, as the files have them) and `classes` (what they may be) are None where
    they were not looked at. `faults` are a line each; `remedy` is the command or the page that
    mends them, None where nothing has to be or can be said.
    """

    dataset: str
    task: str
    whole: bool
    faults: tuple[str, ...] = ()
    remedy: str | None = None
    folder: str | None = None
    expected: int | None = None
    images: int | None = None
    expected_captions: int | None = None
    captions: int | None = None
    expected_items: int | None = None
    items: int | None = None
    label_maps: int | None = None
    mask_suffix: str | None = None
    labels: tuple[int, int] | None = None
    classes: tuple[int, int] | None = None
    note: str = ""


def choose(names: Sequence[str], options: RunOptions) -> list[Protocol]:
    """The data sets of these names and YAML files; all known ones for no name.

    Raises UsageError for unknown names, a data root that does not exist, and none where a named
    data set needs one.
    """
    known = known_protocols().values()
    protocols = [find_protocol(name) for name in names] if names else list(known)
    if names or options.data_root is not None:
        for protocol in protocols:
            data_folder(protocol, options)
    return protocols


def examine_all(
    protocols: Sequence[Protocol], options: RunOptions, watch: Callable[[str, Progress], None]
) -> Iterator[Diagnosis]:
    """Look at every data set, without loading a model or writing anything."""
    for protocol in protocols:
        yield examine(protocol, options, partial(watch, protocol.dataset))


def examine(protocol: Protocol, options: RunOptions, progress: OnProgress) -> Diagnosis:
    """Look at a data set: a task of this package file by file, another as before a run."""
    name, task = protocol.dataset, task_of(protocol)
    if is_embedded(protocol) and not Path(str(protocol.root)).is_dir():
        return Diagnosis(
            dataset=name, task=task, whole=True, note="embedded: the first run makes it"
        )
    try:
        if isinstance(protocol, LabelMapProtocol):
            return _of_label_maps(protocol, options, progress)
        if isinstance(protocol, RetrievalProtocol):
            return _of_retrieval(protocol, options)
        if isinstance(protocol, SelectionProtocol):
            return _of_selection(protocol, options)
        if isinstance(protocol, ClassificationProtocol):
            return _of_classification(protocol, options)
        evaluator_of(protocol).check(protocol, options)
    except UsageError as error:
        faults = _named_apart(protocol, [str(error).partition(ADVICE)[0]])
        remedy = _remedy(protocol, options)
        return Diagnosis(dataset=name, task=task, whole=False, faults=faults, remedy=remedy)
    folder = protocol.root or options.data_root
    return Diagnosis(dataset=name, task=task, whole=True, folder=folder)


def _of_label_maps(
    protocol: LabelMapProtocol, options: RunOptions, progress: OnProgress
) -> Diagnosis:
    from cosmos_eval.tasks.label_maps import survey

    found = survey(protocol, options, progress)
    first = int(protocol.reduce_zero_label)
    return Diagnosis(
        dataset=protocol.dataset,
        task=task_of(protocol),
        whole=not found.faults,
        faults=tuple(fault.text for fault in found.faults),
        remedy=_remedy(protocol, options, found) if found.faults else None,
        folder=str(found.root),
        expected=found.expected,
        images=found.images,
        label_maps=found.masks,
        mask_suffix=protocol.mask_suffix,
        labels=found.labels,
        classes=(first, first + len(protocol.class_names) - 1),
    )


def _of_retrieval(protocol: RetrievalProtocol, options: RunOptions) -> Diagnosis:
    from cosmos_eval.tasks.retrieval import survey

    found = survey(protocol, options)
    return Diagnosis(
        dataset=protocol.dataset,
        task="retrieval",
        whole=not found.faults,
        faults=found.faults,
        remedy=protocol.download if found.faults else None,
        folder=str(found.folder),
        expected=protocol.n_images or found.listed,
        images=found.images,
        expected_captions=protocol.n_captions or found.captions,
        captions=found.captions,
    )


def _of_selection(protocol: SelectionProtocol, options: RunOptions) -> Diagnosis:
    from cosmos_eval.tasks.selection import survey

    found = survey(protocol, options)
    return Diagnosis(
        dataset=protocol.dataset,
        task="select",
        whole=not found.faults,
        faults=_named_apart(protocol, found.faults),
        remedy=protocol.download if found.faults else None,
        folder=str(found.folder),
        expected=found.listed,
        images=found.images,
        expected_items=protocol.n_items or found.items,
        items=found.items,
    )


def _of_classification(protocol: ClassificationProtocol, options: RunOptions) -> Diagnosis:
    from cosmos_eval.tasks.classification import survey

    found = survey(protocol, options)
    return Diagnosis(
        dataset=protocol.dataset,
        task="cls",
        whole=not found.faults,
        faults=_named_apart(protocol, found.faults),
        remedy=protocol.download if found.faults else None,
        folder=str(found.folder),
        expected=protocol.n_images or found.listed,
        images=found.images,
    )


def _named_apart(protocol: Protocol, faults: Sequence[str]) -> tuple[str, ...]:
    """Faults without the data set's name, which is printed before each."""
    return tuple(fault.removeprefix(f"{protocol.dataset}: ") for fault in faults)


def _remedy(protocol: Protocol, options: RunOptions, found: Survey | None = None) -> str | None:
    """The command that makes what is wrong, where it can be made; else the page it comes from."""
    if isinstance(protocol, LabelMapProtocol) and protocol.preparation:
        kinds = {fault.kind for fault in found.faults} if found else set()
        made_here = kinds <= {"label maps", "unreadable", "labels"}
        if made_here and can_prepare(protocol.preparation, options.data_root):
            root = shlex.quote(str(options.data_root))
            return f"cosmos-eval data prepare {protocol.preparation} --data-root {root}"
    if isinstance(protocol, ClassificationProtocol):
        return _remedy_of_classification(protocol, options)
    return protocol.download


def _remedy_of_classification(protocol: ClassificationProtocol, options: RunOptions) -> str | None:
    from cosmos_eval.tasks.classification import can_fetch

    root = shlex.quote(str(options.data_root))
    if protocol.class_list == "imagenet1k" and can_prepare("imagenet", options.data_root):
        return f"cosmos-eval data prepare imagenet --data-root {root}"
    if can_fetch(protocol) and options.data_root is not None:
        return f"cosmos-eval run --dataset {protocol.dataset} --data-root {root} --download"
    return protocol.download
