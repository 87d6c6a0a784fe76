"""One folder a class, by torchvision's ImageFolder rules, and ImageNet's places. No torch."""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path

import numpy as np

from cosmos_eval.protocols.classification import CLASS_LISTS, ClassList
from cosmos_eval.sources import ImageFile
from cosmos_eval.tasks.classification._names import class_differences
from cosmos_eval.tasks.classification._types import ClassData, make_data
from cosmos_eval.tasks.images import FolderWalk, data_path, folder_entries
from cosmos_eval.types import ClassificationProtocol, RunOptions, UsageError

# torchvision/datasets/folder.py, IMG_EXTENSIONS (compared by a test).
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

# As ILSVRC2012_img_val.tar names its 50,000 images, which it holds without folders.
_FLAT = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG")
_WORDNET_ID = re.compile(r"n\d{8}")


def find_folder(protocol: ClassificationProtocol, options: RunOptions) -> Path:
    """The set's folder: the first of its usual places that is there.

    Raises UsageError that names where it was looked for.
    """
    places = (protocol.folder, *protocol.usual_folders)
    if len(places) == 1 or not (protocol.root or options.data_root):
        return data_path(protocol, options, protocol.folder)
    root = Path(str(protocol.root or options.data_root))
    for place in places:
        if (root / place).is_dir() and (place != "." or _holds_imagenet(root)):
            return root / place
    listed = ", ".join(str(root / place) for place in places)
    raise UsageError(f"{protocol.dataset}: expected one of {listed}, none of which is there")


def flat_images(folder: Path) -> list[str]:
    """ImageNet's validation images that lie in the folder itself, by name, sorted."""
    return sorted(entry.name for entry in folder_entries(folder) if _FLAT.fullmatch(entry.name))


def read_folders(folder: Path, protocol: ClassificationProtocol, options: RunOptions) -> ClassData:
    """List the images of every class; none is decoded.

    Raises UsageError for another layout, a class without images, folders that are not the
    protocol's classes, folders that cannot be read, and a folder that is reached twice by a link.
    """
    class_list = CLASS_LISTS.get(protocol.class_list or "")
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    if protocol.class_list == "imagenet1k":
        _refuse_flat(folder, protocol.root or options.data_root)
    classes = _class_folders(folder, class_list)
    if class_list is not None:
        _require_list(protocol, folder, classes, class_list)
    walk = FolderWalk(folder)
    images = [_images(folder / name, walk) for name in classes]
    for name, found in zip(classes, images, strict=True):
        if not found:
            raise UsageError(f"class folder {folder / name} has no images ({', '.join(SUFFIXES)})")
    named = [
        (path.relative_to(folder).as_posix(), ImageFile(path)) for found in images for path in found
    ]
    labels = np.repeat(np.arange(len(classes)), [len(found) for found in images])
    return make_data(classes, named, labels)


def _holds_imagenet(folder: Path) -> bool:
    names = (entry.name for entry in folder_entries(folder))
    return any(_WORDNET_ID.fullmatch(name) or _FLAT.fullmatch(name) for name in names)


def _class_folders(folder: Path, class_list: ClassList | None) -> tuple[str, ...]:
    found = sorted(entry.name for entry in folder_entries(folder) if entry.is_dir())
    if not found:
        raise UsageError(f"{folder} has no class folders: the layout is {folder}/CLASS/IMAGE")
    if class_list is not None and class_list.numeric:
        # What is no number is found out by the list's hash.
        found.sort(key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0))
    return tuple(found)


def _images(folder: Path, walk: FolderWalk) -> list[Path]:
    """Images at any depth, in ImageFolder's order."""
    return [
        Path(parent, name)
        for parent, names in sorted(walk.files(folder))
        for name in sorted(names)
        if name.lower().endswith(SUFFIXES)
    ]


def _refuse_flat(folder: Path, root: str | None) -> None:
    flat = flat_images(folder)
    if flat:
        raise UsageError(
            f"{folder} holds {len(flat)} images outside class folders, the first {flat[0]}: one "
            f"folder a class is made by `cosmos-eval data prepare imagenet --data-root "
            f"{shlex.quote(str(root))}`"
        )


def _require_list(
    protocol: ClassificationProtocol, folder: Path, classes: tuple[str, ...], expected: ClassList
) -> None:
    found = hashlib.sha256("\n".join(classes).encode()).hexdigest()
    if expected.classes_sha256 not in (None, found):
        raise UsageError(
            f"{folder} has {len(classes)} class folders, which are not the {expected.n_classes} "
            f"{expected.classes} of {protocol.class_list}{class_differences(protocol, classes)}"
        )
