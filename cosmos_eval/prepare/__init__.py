"""Label maps that data sets need and their downloads lack, made from what the downloads hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from cosmos_eval.prepare._maps import Counts, Work, carry_out
from cosmos_eval.prepare.cityscapes import cityscapes
from cosmos_eval.prepare.coco import coco_object, coco_stuff
from cosmos_eval.prepare.context import ORIGINALS, context
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.tasks.layouts import find_root
from cosmos_eval.types import (
    OnProgress,
    Progress,
    SegmentationProtocol,
    UsageError,
    nearest,
    no_progress,
)

__all__ = ["PREPARATIONS", "Counts", "can_prepare", "prepare"]


class _Preparation(NamedTuple):
    """What lists the work below a data root, for which set, and where its originals lie.

    One of `originals`, which are relative to the set's folder, is enough.
    """

    plan: Callable[[str | None], Work]
    protocol: SegmentationProtocol
    originals: tuple[str, ...]


def _beside(plan: Callable[[str | None], Work], dataset: str) -> _Preparation:
    """A preparation whose originals lie in the folder of the label maps."""
    protocol = SEGMENTATION[dataset]
    return _Preparation(plan, protocol, (protocol.masks,))


PREPARATIONS: Mapping[str, _Preparation] = {
    "coco_object": _beside(coco_object, "coco_object"),
    "coco_stuff": _beside(coco_stuff, "coco_stuff"),
    "cityscapes": _beside(cityscapes, "cityscapes"),
    "context": _Preparation(context, SEGMENTATION["context60"], ORIGINALS),
}


def prepare(
    name: str,
    data_root: str | None,
    *,
    workers: int = 2,
    progress: OnProgress = no_progress,
) -> Counts:
    """Make the label maps of a set; those that are there and whole are kept.

    A call that was killed is repeated. Raises UsageError for an unknown name, for originals that
    are missing (before anything is written) and for one that is broken, each with the path.
    """
    if name not in PREPARATIONS:
        known = nearest(name, list(PREPARATIONS))
        raise UsageError(f"nothing is known to prepare as {name!r}; known: {known}")
    progress(Progress("originals", 0, 1))
    work = PREPARATIONS[name].plan(data_root)
    progress(Progress("originals", 1, 1))
    return carry_out(work, workers=workers, progress=progress)


def can_prepare(name: str, data_root: str | None) -> bool:
    """Whether the folders of images and of originals are there; nothing is read."""
    _, protocol, originals = PREPARATIONS[name]
    for original in originals:
        try:
            find_root(protocol, data_root, (protocol.images, original))
        except UsageError:
            continue
        return True
    return False
