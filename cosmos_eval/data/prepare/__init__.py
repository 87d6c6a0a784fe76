"""What data sets need and their downloads lack: label maps, and ImageNet's folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from cosmos_eval.data.folders import find_root
from cosmos_eval.data.prepare import imagenet
from cosmos_eval.data.prepare.cityscapes import cityscapes
from cosmos_eval.data.prepare.coco import coco_object, coco_stuff
from cosmos_eval.data.prepare.context import ORIGINALS, context
from cosmos_eval.data.prepare.maps import Counts, Work, execute
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.types import OnProgress, Progress, UsageError, nearest, no_progress

__all__ = ["PREPARATIONS", "Counts", "can_prepare", "prepare"]


class _Preparation(NamedTuple):
    """`make` (data root, threads, progress) prepares a set, `possible` tells whether it can."""

    make: Callable[[str | None, int, OnProgress], Counts]
    possible: Callable[[str | None], bool]


def _label_maps(
    plan: Callable[[str | None], Work], dataset: str, originals: tuple[str, ...] = ()
) -> _Preparation:
    """`plan` lists the work below a data root.

    One of `originals`, which are relative to the set's folder, is enough; they are in the folder
    of the label maps where none is given.
    """
    protocol = SEGMENTATION[dataset]

    def make(data_root: str | None, workers: int, progress: OnProgress) -> Counts:
        progress(Progress("originals", 0, 1))
        work = plan(data_root)
        progress(Progress("originals", 1, 1))
        return execute(work, workers=workers, progress=progress)

    def possible(data_root: str | None) -> bool:
        for original in originals or (protocol.masks,):
            try:
                find_root(protocol, data_root, (protocol.images, original))
            except UsageError:
                continue
            return True
        return False

    return _Preparation(make, possible)


PREPARATIONS: Mapping[str, _Preparation] = {
    "coco_object": _label_maps(coco_object, "coco_object"),
    "coco_stuff": _label_maps(coco_stuff, "coco_stuff"),
    "cityscapes": _label_maps(cityscapes, "cityscapes"),
    "context": _label_maps(context, "context60", ORIGINALS),
    "imagenet": _Preparation(imagenet.organise, imagenet.is_flat),
}


def prepare(
    name: str,
    data_root: str | None,
    *,
    workers: int = 2,
    progress: OnProgress = no_progress,
) -> Counts:
    """Make what a set lacks; what is there and whole is kept.

    A call that was killed is repeated. Raises UsageError for an unknown name, for originals that
    are missing (before anything is written) and for one that is broken, each with the path.
    """
    if name not in PREPARATIONS:
        known = nearest(name, list(PREPARATIONS))
        raise UsageError(f"nothing is known to prepare as {name!r}; known: {known}")
    return PREPARATIONS[name].make(data_root, workers, progress)


def can_prepare(name: str, data_root: str | None) -> bool:
    """Whether what it is made from is there; no original is read."""
    return PREPARATIONS[name].possible(data_root)
