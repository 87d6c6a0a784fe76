"""Make files that downloads of data sets lack: label maps, and ImageNet's class folders."""

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

# Names of preparations of label maps: those that are translated from originals beside them, and
# those that have a function of their own.
_TRANSLATED = ("coco_object", "coco_stuff", "cityscapes")
_LABEL_MAPS = (*_TRANSLATED, "context", "context459", label_maps.ADE20K_847)


def _protocol_of(name: str) -> LabelMapProtocol:
    """Return the protocol of the set whose label maps a preparation makes."""
    if name in set_names():
        return read_set(name)
    return SEGMENTATION["context60" if name == "context" else name]


def prepare(
    name: str, data_root: str | None, *, workers: int = 2, progress: OnProgress = no_progress
) -> Counts:
    """Make the files that a set lacks. An interrupted call can be repeated.

    Raise UsageError for an unknown name, and if originals are missing or damaged.
    """
    if name == "imagenet":
        return imagenet.organise(data_root, progress)
    if name not in _LABEL_MAPS:
        nearest_names = nearest(name, (*_LABEL_MAPS, "imagenet"))
        raise UsageError(f"nothing is known to prepare as {name!r}; known: {nearest_names}")
    protocol = _protocol_of(name)
    progress(Progress("originals", 0, 1))
    try:
        work = _list_work(name, data_root)
    except UsageError as error:
        raise UsageError(f"{error}; download: {protocol.download}") from error
    progress(Progress("originals", 1, 1))
    return execute(work, len(protocol.class_names), workers=workers, progress=progress)


def _list_work(name: str, data_root: str | None) -> Work:
    """List the label maps that a preparation makes. Raise UsageError if originals are missing."""
    if name in _TRANSLATED:
        return label_maps.list_translated_maps(SEGMENTATION[name], data_root)
    if name == "context":
        return label_maps.list_context_maps(data_root)
    if name == "context459":
        return label_maps.list_context_459_maps(data_root)
    return label_maps.list_ade20k_847_files(data_root)


def can_prepare(name: str, data_root: str | None) -> bool:
    """Return whether the originals of a set exist, without reading them."""
    if name == "imagenet":
        return imagenet.is_flat(data_root)
    protocol = _protocol_of(name)
    alternatives: list[tuple[str, ...]]
    if name == label_maps.ADE20K_847:
        alternatives = [(label_maps.ADE20K_ORIGINALS,)]
    elif name.startswith("context"):
        # One of the originals is enough.
        alternatives = [(protocol.images, original) for original in label_maps.ORIGINALS]
    else:
        # The originals lie beside the label maps.
        alternatives = [(protocol.images, protocol.masks)]
    for required in alternatives:
        try:
            find_root(protocol, data_root, required)
        except UsageError:
            continue
        return True
    return False
