"""An image folder by torchvision's ImageFolder rules: one folder a class. Imports no torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.protocols.classification import CLASS_LISTS
from cosmos_eval.sources import ImageFile, ImageSource
from cosmos_eval.tasks.images import data_path
from cosmos_eval.types import ClassificationProtocol, RunOptions, UsageError, nearest

# torchvision/datasets/folder.py, IMG_EXTENSIONS (compared by a test).
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class FolderData(NamedTuple):
    """Sorted class folders and their images; `labels` (N,) numbers the folders from 0.

    `names` are paths below the root.
    """

    folders: tuple[str, ...]
    names: tuple[str, ...]
    images: tuple[ImageSource, ...]
    labels: NDArray[np.int64]


def open_data(protocol: ClassificationProtocol, options: RunOptions) -> FolderData:
    """List the images of every class; none is decoded.

    Raises UsageError for a missing folder, another layout, a class without images, and folders
    that are not the protocol's classes.
    """
    root = data_path(protocol, options, protocol.folder)
    folders = _class_folders(root)
    _require_classes(protocol, root, folders)
    images = [_images(root / folder) for folder in folders]
    for folder, found in zip(folders, images, strict=True):
        if not found:
            raise UsageError(f"class folder {root / folder} has no images ({', '.join(SUFFIXES)})")
    paths = [path for found in images for path in found]
    labels = np.repeat(np.arange(len(folders)), [len(found) for found in images])
    kept = _limited(labels, options.limit)
    return FolderData(
        folders=folders,
        names=tuple(paths[i].relative_to(root).as_posix() for i in kept),
        images=tuple(ImageFile(paths[i]) for i in kept),
        labels=labels[kept],
    )


def _class_folders(root: Path) -> tuple[str, ...]:
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder")
    folders = tuple(sorted(entry.name for entry in os.scandir(root) if entry.is_dir()))
    if not folders:
        raise UsageError(f"{root} has no class folders: the layout is {root}/CLASS/IMAGE")
    return folders


def _images(folder: Path) -> list[Path]:
    """Images at any depth, in ImageFolder's order."""
    return [
        Path(parent, name)
        for parent, _, names in sorted(os.walk(folder, followlinks=True))
        for name in sorted(names)
        if name.lower().endswith(SUFFIXES)
    ]


def _require_classes(
    protocol: ClassificationProtocol, root: Path, folders: tuple[str, ...]
) -> None:
    """The folders must be exactly those that the protocol names, where it names any."""
    if protocol.class_list is not None and protocol.class_names:
        raise UsageError(f"{protocol.dataset}: give class_names or class_list, not both")
    if protocol.class_list is not None:
        _require_list(protocol, root, folders)
    elif protocol.class_names:
        known = list(protocol.class_names)
        for folder in folders:
            if folder not in known:
                raise UsageError(
                    f"class folder {root / folder} has no name in the protocol of "
                    f"{protocol.dataset}; nearest: {nearest(folder, known)}"
                )
        for name in known:
            if name not in folders:
                raise UsageError(f"{protocol.dataset}: expected class folder {root / name}")


def _require_list(protocol: ClassificationProtocol, root: Path, folders: tuple[str, ...]) -> None:
    name = str(protocol.class_list)
    if name not in CLASS_LISTS:
        known = nearest(name, list(CLASS_LISTS))
        raise UsageError(f"{protocol.dataset}: unknown class list '{name}'; known: {known}")
    expected = CLASS_LISTS[name]
    if hashlib.sha256("\n".join(folders).encode()).hexdigest() != expected.folders_sha256:
        raise UsageError(
            f"{root} has {len(folders)} class folders, which are not the {expected.n_folders} "
            f"{expected.folders} of {name}; the first found is {folders[0]}"
        )


def _limited(labels: NDArray[np.int64], limit: int | None) -> NDArray[np.int64]:
    """Numbers of the images to measure: the first of every class, then the second, ..."""
    first_of_class = np.searchsorted(labels, labels)
    turn = np.arange(len(labels)) - first_of_class
    return np.sort(np.lexsort((labels, turn))[:limit])
