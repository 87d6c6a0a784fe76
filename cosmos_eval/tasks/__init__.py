"""The tasks, in one table: what each is and where its room is, a package below this one.

A room checks data, measures, and computes figures from stored samples again. It is imported when
that is asked for, and imports torch only to measure. Other packages bring tasks of their own by
entry points of the group `cosmos_eval.tasks`, which name a `Task`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from cosmos_eval.tasks import installed as _installed
from cosmos_eval.types import (
    ClassificationProtocol,
    Figures,
    LocalisationProtocol,
    Measurement,
    Mistakes,
    OnProgress,
    Part,
    Protocol,
    RetrievalProtocol,
    RunOptions,
    Samples,
    SegmentationProtocol,
    SelectionProtocol,
    UsageError,
    nearest,
)

if TYPE_CHECKING:
    # At run time they would import torch or take long.
    from cosmos_eval.data.folders import Survey
    from cosmos_eval.models.encoder import Encoder
    from cosmos_eval.stats.paired import Compare, PairedDifference


class Task(NamedTuple):
    """What the commands know of a task before they need its functions.

    `protocol` is the type of its protocols; a user's YAML file of this `kind` sets their fields.
    `evaluator` is the module whose `EVALUATOR` holds the functions. `headlines` are the metrics
    that tables show and what their columns are called, `decisive` those that a comparison of models
    is about.
    `checked` says what `data doctor` looks at, `seconds` about how long a sample takes ViT-B/16 on
    two busy CPU cores (as measured on 48 scenes, for seg on 6 photographs of voc20's usual size).
    """

    protocol: type[Protocol]
    evaluator: str
    headlines: Mapping[str, str]
    decisive: tuple[str, ...]
    checked: str
    seconds: float


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "retrieval": Task(
            protocol=RetrievalProtocol,
            evaluator="cosmos_eval.tasks.retrieval",
            headlines={
                "image_to_text_R@1": "image to text R@1",
                "text_to_image_R@1": "text to image R@1",
            },
            decisive=("image_to_text_R@1", "text_to_image_R@1"),
            checked="captions and their number, and that every image is there; none is decoded",
            seconds=0.4,
        ),
        "cls": Task(
            protocol=ClassificationProtocol,
            evaluator="cosmos_eval.tasks.classification",
            headlines={"acc1": "acc1"},
            decisive=("acc1",),
            checked="class folders or lists, and how many images are there; none is decoded",
            seconds=0.4,
        ),
        "seg": Task(
            protocol=SegmentationProtocol,
            evaluator="cosmos_eval.tasks.segmentation",
            headlines={"mIoU": "mIoU", "mIoU_things": "mIoU things", "mIoU_stuff": "mIoU stuff"},
            decisive=("mIoU",),
            checked="every file, the size of every image, every pixel of every label map",
            seconds=2.0,
        ),
        "select": Task(
            protocol=SelectionProtocol,
            evaluator="cosmos_eval.tasks.selection",
            headlines={
                "accuracy": "accuracy",
                "mean_subset_accuracy": "mean over subsets",
                "text_score": "text score",
                "image_score": "image score",
                "group_score": "group score",
            },
            decisive=("accuracy",),
            checked="captions, numbers of items, and that every image is there; none is decoded",
            seconds=0.4,
        ),
        "loc": Task(
            protocol=LocalisationProtocol,
            evaluator="cosmos_eval.tasks.localisation",
            headlines={
                "attention_mass": "attention mass",
                "mass_over_area": "mass / area",
                "mass_over_other_names": "mass / other names",
                "pointing_game": "pointing game",
                "AUC": "AUC",
            },
            decisive=("attention_mass", "AUC"),
            checked="every file, the size of every image, every pixel of every label map",
            seconds=0.4,
        ),
    }
)
"""The tasks of this package by name, in the order of tables."""


def own_pass(protocol: Any, options: RunOptions) -> Hashable:
    """The `image_pass` of a task whose data sets share no images."""
    return protocol.dataset


def whole(protocol: Any, options: RunOptions) -> None:
    """Return None: the `part` of a task that knows no number of samples."""


class Evaluator(NamedTuple):
    """A task's functions; the protocols are of the task's own kind.

    `check` raises UsageError where the data are missing or inconsistent, before any model is
    loaded. `measure` yields a measurement a protocol, in their order; protocols of one call must
    have the same `image_pass`, and their images are encoded once. What it keeps of an unfinished
    run it removes when it is asked to go on after the last: by then the results are stored.

    `recompute` gives all figures from stored samples and a seed, as measuring itself does.
    `differences` compares two results of the same samples, metric by metric, A minus B; `truth`
    names the arrays that are the same for every model, which both must have alike. `together`
    prepares several such results to be compared two by two, by their places, without the metrics
    that are named; it spares drawing a bootstrap anew for every pair. `mistakes` tells which
    classes a model takes for which. `part` gives the number of samples of a known
    data set where some are missing, with options that allow this, else None. `survey` counts what
    is on the disk and lists all faults; without it, `data doctor` calls `check`. The functions of
    samples raise KeyError, ValueError or IndexError for samples that are not those of such a task.
    """

    check: Callable[[Any, RunOptions], None]
    measure: Callable[[Encoder, Sequence[Any], RunOptions, OnProgress], Iterator[Measurement]]
    recompute: Callable[[Samples, int], Figures]
    differences: Callable[[Samples, Samples], Mapping[str, PairedDifference]]
    truth: tuple[str, ...]
    image_pass: Callable[[Any, RunOptions], Hashable] = own_pass
    together: Callable[[Sequence[Samples], Collection[str]], Compare] | None = None
    mistakes: Callable[[Samples], Mistakes] | None = None
    part: Callable[[Any, RunOptions], Part | None] = whole
    survey: Callable[[Any, RunOptions, OnProgress], Survey] | None = None


def one_by_one(
    measure: Callable[[Encoder, Any, RunOptions, OnProgress], Measurement],
) -> Callable[[Encoder, Sequence[Any], RunOptions, OnProgress], Iterator[Measurement]]:
    """The `measure` of a task whose data sets are measured one after the other."""

    def measure_each(
        encoder: Encoder, protocols: Sequence[Any], options: RunOptions, progress: OnProgress
    ) -> Iterator[Measurement]:
        for protocol in protocols:
            yield measure(encoder, protocol, options, progress)

    return measure_each


class _Known(Mapping[str, Task]):
    """The tasks of this package, then those of others, which are loaded when they are looked up."""

    def __getitem__(self, name: str) -> Task:
        return TASKS[name] if name in TASKS else _load(name)

    def __iter__(self) -> Iterator[str]:
        yield from TASKS
        yield from _entries()

    def __len__(self) -> int:
        return len(TASKS) + len(_entries())

    def __contains__(self, name: object) -> bool:
        return name in TASKS or name in _entries()


def known_tasks() -> Mapping[str, Task]:
    """All tasks by name, this package's own first. A look-up raises UsageError for a broken one."""
    return _Known()


def _entries() -> Mapping[str, EntryPoint]:
    return _installed.entries(tuple(TASKS))


@cache
def _load(name: str) -> Task:
    """A task that another package brings. Raises KeyError where none does."""
    entry = _entries()[name]
    return _installed.loaded(entry, Task, entry.load)


def packages_of(task: str) -> dict[str, str]:
    """The package that brings a task and its version; empty for a task of this package."""
    return {} if task in TASKS else _installed.versions(_entries()[task])


def task_named(name: str) -> Task:
    """A task by its name. Raises UsageError with the nearest known names."""
    known = known_tasks()
    if name not in known:
        raise UsageError(
            f"unknown task '{name}'; known: {nearest(name, list(known))}; "
            "others are brought by packages, which must be installed"
        )
    return known[name]


def task_of(protocol: Protocol) -> str:
    """The name of the task that a protocol belongs to."""
    known = known_tasks()
    for name in known:
        if known[name].protocol is type(protocol):
            return name
    raise UsageError(f"{type(protocol).__name__} is the protocol of no task")


def evaluator_named(task: str) -> Evaluator:
    """The functions of a task. Raises UsageError as `task_named` does, and for a broken one."""
    place = task_named(task).evaluator

    def load() -> Evaluator:
        evaluator: Evaluator = import_module(place).EVALUATOR
        return evaluator

    return load() if task in TASKS else _installed.loaded(_entries()[task], Evaluator, load)


def evaluator_of(protocol: Protocol) -> Evaluator:
    """The functions of a protocol's task."""
    return evaluator_named(task_of(protocol))


def part_of(protocol: Protocol, options: RunOptions) -> Part | None:
    """The number of samples of a known data set that is not complete, where that is allowed.

    None for a complete set, and without `options.allow_partial`. Raises UsageError as the task's
    `check` does.
    """
    return evaluator_of(protocol).part(protocol, options) if options.allow_partial else None


def find_protocol(name_or_file: str, family: str | None = None) -> Protocol:
    """A known data set by its name, or the one that a YAML file describes.

    `family` chooses among the protocols of a known data set; None is its usual one. Raises
    UsageError with the nearest known names, or what is wrong in the file.
    """
    from cosmos_eval.data.user_yaml import read_protocol
    from cosmos_eval.protocols import find_known  # which makes images

    if Path(name_or_file).suffix not in (".yaml", ".yml"):
        return find_known(name_or_file, family)
    if family is not None:
        raise UsageError(f"{name_or_file} states its own protocol: leave --protocol out")
    known = known_tasks()
    return read_protocol(Path(name_or_file), list(known), lambda kind: known[kind].protocol)


def fetch(protocol: Protocol, options: RunOptions) -> None:
    """Download a data set below the data root where it is missing and that is known how.

    Raises UsageError where it fails. Other sets are left as they are: `check` says where they are
    expected.
    """
    if isinstance(protocol, ClassificationProtocol):
        from cosmos_eval.tasks import classification

        classification.fetch(protocol, options)
