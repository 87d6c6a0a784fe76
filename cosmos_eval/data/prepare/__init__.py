"""Make what downloads of data sets lack: label maps, and ImageNet's class folders."""

from contextlib import suppress

from cosmos_eval.data.folders import find_root
from cosmos_eval.data.prepare import imagenet
from cosmos_eval.data.prepare.label_maps import ORIGINALS, Counts, context, execute, translated
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.types import OnProgress, Progress, UsageError, nearest, no_progress

# Data sets whose label maps are made, by the name of their preparation.
_LABEL_MAPS = {
    **{name: SEGMENTATION[name] for name in ("coco_object", "coco_stuff", "cityscapes")},
    "context": SEGMENTATION["context60"],
}


def prepare(
    name: str, data_root: str | None, *, workers: int = 2, progress: OnProgress = no_progress
) -> Counts:
    """Make the files that a set lacks; an interrupted call can be repeated. Raises UsageError."""
    if name == "imagenet":
        return imagenet.organise(data_root, progress)
    if name not in _LABEL_MAPS:
        known = nearest(name, (*_LABEL_MAPS, "imagenet"))
        raise UsageError(f"nothing is known to prepare as {name!r}; known: {known}")
    protocol = _LABEL_MAPS[name]
    progress(Progress("originals", 0, 1))
    try:
        work = context(data_root) if name == "context" else translated(protocol, data_root)
    except UsageError as error:
        raise UsageError(f"{error}; download: {protocol.download}") from error
    progress(Progress("originals", 1, 1))
    return execute(work, len(protocol.class_names), workers=workers, progress=progress)


def can_prepare(name: str, data_root: str | None) -> bool:
    """Tell whether what a set is made from is there; no original is read."""
    if name == "imagenet":
        return imagenet.is_flat(data_root)
    protocol = _LABEL_MAPS[name]
    # One of the originals is enough; where they lie beside the label maps, it is their folder.
    for original in ORIGINALS if name == "context" else (protocol.masks,):
        with suppress(UsageError):
            return bool(find_root(protocol, data_root, (protocol.images, original)))
    return False
