"""One room a task, each with `check` (data present and consistent) and `measure`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from cosmos_eval.types import (
    ClassificationProtocol,
    Measurement,
    Progress,
    Protocol,
    RetrievalProtocol,
    RunOptions,
    SegmentationProtocol,
    Task,
)

if TYPE_CHECKING:
    # At run time it would import torch.
    from cosmos_eval.encoder import Encoder

_TASKS: dict[type[Protocol], Task] = {
    RetrievalProtocol: "retrieval",
    ClassificationProtocol: "cls",
    SegmentationProtocol: "seg",
}


class Room(NamedTuple):
    """A task's two functions; the protocol is of the task's own kind.

    `check` raises UsageError where the data are missing or inconsistent, before any model is
    loaded.
    """

    check: Callable[[Any, RunOptions], None]
    measure: Callable[[Encoder, Any, RunOptions, Callable[[Progress], None]], Measurement]


def task_of(protocol: Protocol) -> Task:
    """The task that a protocol belongs to."""
    return _TASKS[type(protocol)]


def room_of(protocol: Protocol) -> Room:
    """The functions of a protocol's task; importing them imports torch, for seg also mmseg."""
    match task_of(protocol):
        case "retrieval":
            from cosmos_eval.tasks import retrieval

            return Room(retrieval.check, retrieval.measure)
        case "cls":
            from cosmos_eval.tasks import classification

            return Room(classification.check, classification.measure)
        case "seg":
            from cosmos_eval.tasks import segmentation

            return Room(segmentation.check, segmentation.measure)
