"""Make what downloads of data sets lack: label maps, and ImageNet's class folders."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from cosmos_eval.data.folders import find_root
from cosmos_eval.data.prepare import imagenet, label_maps
from cosmos_eval.data.prepare.label_maps import Counts, Work, execute
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.protocols.sets import read_set, set_names
from cosmos_eval.types import (
    LabelMapProtocol,
    OnProgress,
    Progress,
    UsageError,
    nearest,
    no_progress,
)

# How the label maps of sets are made, by the name of their preparation.
_WORKS: Mapping[str, Callable[[str | None], Work]] = {
    **{
        name: partial(label_maps.translated, SEGMENTATION[name])
        for name in ("coco_object", "coco_stuff", "cityscapes")
    },
    "context": label_maps.context,
    "context459": label_maps.context_459,
    label_maps.ADE20K_847: label_maps.ade20k_847,
}


def _protocol(name: str) -> LabelMapProtocol:
    if name in set_names():
        return read_set(name)
    return SEGMENTATION["context60" if name == "context" else name]


def prepare(
    name: str, data_root: str | None, *, workers: int = 2, progress: OnProgress = no_progress
) -> Counts:
    """Make the files that a set lacks; an interrupted call can be repeated. Raises UsageError."""
    if name == "imagenet":
        return imagenet.organise(data_root, progress)
    if name not in _WORKS:
        known = nearest(name, (*_WORKS, "imagenet"))
        raise UsageError(f"nothing is known to prepare as {name!r}; known: {known}")
    protocol = _protocol(name)
    progress(Progress("originals", 0, 1))
    try:
        work = _WORKS[name](data_root)
    except UsageError as error:
        raise UsageError(f"{error}; download: {protocol.download}") from error
    progress(Progress("originals", 1, 1))
    return execute(work, len(protocol.class_names), workers=workers, progress=progress)


def can_prepare(name: str, data_root: str | None) -> bool:
    """Tell whether what a set is made from is there; no original is read."""
    if name == "imagenet":
        return imagenet.is_flat(data_root)
    protocol = _protocol(name)
    # One of the originals is enough; where they lie beside the label maps, it is their folder.
    originals = label_maps.ORIGINALS if name.startswith("context") else (protocol.masks,)
    needed = [(protocol.images, original) for original in originals]
    for parts in [(label_maps.ADE20K_ORIGINALS,)] if name == label_maps.ADE20K_847 else needed:
        with suppress(UsageError):
            return bool(find_root(protocol, data_root, parts))
    return False
