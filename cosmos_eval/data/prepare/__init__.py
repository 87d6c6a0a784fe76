"""Make files that downloads of data sets lack: label maps, and ImageNet's class folders."""

from cosmos_eval.data.folders import download_page, find_root
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

# Names of preparations that make label maps. The first ones only replace values of originals that
# lie beside the label maps; each of the others has a function of its own.
_TRANSLATED = ("coco_object", "coco_stuff", "cityscapes")
_LABEL_MAPS = (*_TRANSLATED, "context", "context459", label_maps.ADE20K_847)


def _find_protocol(name: str) -> LabelMapProtocol:
    """Return the protocol of the data set whose label maps a preparation makes."""
    if name in set_names():
        return read_set(name)
    return SEGMENTATION["context60" if name == "context" else name]


def prepare(
    name: str, data_root: str | None, *, workers: int = 2, progress: OnProgress = no_progress
) -> Counts:
    """Make the files that the download of a data set lacks, and count them.

    A call that was interrupted can be repeated: files that are there already are kept.

    Args:
        name: The name of the preparation: `imagenet` makes class folders, and others such as
            `coco_stuff` make label maps.
        data_root: The folder that the user named with --data-root.
        workers: The number of threads that make label maps.
        progress: Called with the number of files that are done.

    Raises:
        UsageError: If the name is unknown, and if originals are missing or damaged.
    """
    if name == "imagenet":
        return imagenet.move_into_class_folders(data_root, progress)
    if name not in _LABEL_MAPS:
        nearest_names = nearest(name, (*_LABEL_MAPS, "imagenet"))
        raise UsageError(f"nothing is known to prepare as {name!r}; nearest: {nearest_names}")

    protocol = _find_protocol(name)
    progress(Progress("originals", 0, 1))
    try:
        work = _list_work(name, data_root)
    except UsageError as error:
        # A missing folder's error names the page already.
        page = "" if str(error).endswith(download_page(protocol)) else download_page(protocol)
        raise UsageError(f"{error}{page}") from error
    progress(Progress("originals", 1, 1))

    return execute(work, len(protocol.class_names), workers=workers, progress=progress)


def _list_work(name: str, data_root: str | None) -> Work:
    """Return which label maps a preparation makes, and how.

    Raise UsageError if originals are missing.
    """
    if name in _TRANSLATED:
        return label_maps.list_translated_maps(SEGMENTATION[name], data_root)
    if name == "context":
        return label_maps.list_context_maps(data_root)
    if name == "context459":
        return label_maps.list_context_459_maps(data_root)
    return label_maps.list_ade20k_847_files(data_root)


def can_prepare(name: str, data_root: str | None) -> bool:
    """Return whether the originals from which a preparation makes files exist.

    Originals are only looked for and not read.

    Args:
        name: The name of the preparation, such as `coco_stuff`.
        data_root: The folder that the user named with --data-root.
    """
    if name == "imagenet":
        return imagenet.is_flat(data_root)

    protocol = _find_protocol(name)
    # Each alternative is a tuple of paths, all of which must exist.
    alternatives: list[tuple[str, ...]]
    if name == label_maps.ADE20K_847:
        alternatives = [(label_maps.ADE20K_ORIGINALS,)]
    elif name.startswith("context"):
        # One of the originals is enough.
        alternatives = [(protocol.images, original) for original in label_maps.ORIGINALS]
    else:
        # The originals lie beside the label maps.
        alternatives = [(protocol.images, protocol.masks)]

    for required_paths in alternatives:
        try:
            find_root(protocol, data_root, required_paths)
        except UsageError:
            # A path is missing, or no folder is named. The paths of another alternative may exist.
            continue
        return True
    return False
