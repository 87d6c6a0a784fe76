"""One room a task, each with `check` (data present and consistent) and `measure`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cosmos_eval.types import (
    ClassificationProtocol,
    Figures,
    Measurement,
    OnProgress,
    Protocol,
    RetrievalProtocol,
    RunOptions,
    Samples,
    SegmentationProtocol,
    SelectionProtocol,
    Task,
)

if TYPE_CHECKING:
    # At run time it would import torch.
    from cosmos_eval.encoder import Encoder

_TASKS: dict[type[Protocol], Task] = {
    RetrievalProtocol: "retrieval",
    ClassificationProtocol: "cls",
    SegmentationProtocol: "seg",
    SelectionProtocol: "select",
}


class Room(NamedTuple):
    """A task's functions; the protocols are of the task's own kind.

    `check` raises UsageError where the data are missing or inconsistent, before any model is
    loaded. `measure` yields a measurement a protocol, in their order; protocols of one call must
    have the same `image_pass`, and their images are encoded once. What it keeps of an unfinished
    run it removes when it is asked to go on after the last: by then the results are stored.
    """

    check: Callable[[Any, RunOptions], None]
    measure: Callable[[Encoder, Sequence[Any], RunOptions, OnProgress], Iterator[Measurement]]
    image_pass: Callable[[Any, RunOptions], Hashable]


def task_of(protocol: Protocol) -> Task:
    """The task that a protocol belongs to."""
    return _TASKS[type(protocol)]


def room_of(protocol: Protocol) -> Room:
    """The functions of a protocol's task."""
    match task_of(protocol):
        case "retrieval":
            from cosmos_eval.tasks import retrieval

            return _one_by_one(retrieval.check, retrieval.measure)
        case "cls":
            from cosmos_eval.tasks import classification

            return _one_by_one(classification.check, classification.measure)
        case "select":
            from cosmos_eval.tasks import selection

            return _one_by_one(selection.check, selection.measure)
        case "seg":
            from cosmos_eval.tasks import segmentation

            return Room(segmentation.check, segmentation.measure_together, segmentation.image_pass)


def recompute(task: Task, samples: Samples, seed: int) -> Figures:
    """All figures of a stored result from its samples: the function that measuring itself uses.

    Raises KeyError, ValueError or IndexError for samples that are not those of such a task.
    """
    match task:
        case "retrieval":
            from cosmos_eval.tasks import retrieval

            return retrieval.recompute(samples, seed)
        case "cls":
            from cosmos_eval.tasks import classification

            return classification.recompute(samples, seed)
        case "select":
            from cosmos_eval.tasks import selection

            return selection.recompute(samples, seed)
        case "seg":
            from cosmos_eval.tasks import segmentation

            return segmentation.recompute(samples, seed)


def fetch(protocol: Protocol, options: RunOptions) -> None:
    """Download a data set below the data root where it is missing and that is known how.

    Raises UsageError where it fails. Other sets are left as they are: `check` says where they are
    expected.
    """
    if isinstance(protocol, ClassificationProtocol):
        from cosmos_eval.tasks import classification

        classification.fetch(protocol, options)


def _one_by_one(
    check: Callable[[Any, RunOptions], None],
    measure: Callable[[Encoder, Any, RunOptions, OnProgress], Measurement],
) -> Room:
    """The room of a task whose protocols share no images."""

    def measure_each(
        encoder: Encoder, protocols: Sequence[Any], options: RunOptions, progress: OnProgress
    ) -> Iterator[Measurement]:
        for protocol in protocols:
            yield measure(encoder, protocol, options, progress)

    return Room(check, measure_each, lambda protocol, _: protocol.dataset)
