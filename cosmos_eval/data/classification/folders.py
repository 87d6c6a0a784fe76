"""One folder a class, by torchvision's ImageFolder rules, and ImageNet's places. No torch."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cosmos_eval.data.classification.names import class_differences
from cosmos_eval.data.classification.types import ClassData, make_data
from cosmos_eval.data.images import FolderWalk, data_path, folder_entries
from cosmos_eval.data.sources import ImageFile
from cosmos_eval.protocols.classification import CLASS_LISTS, ClassList
from cosmos_eval.types import ClassificationProtocol, RunOptions, UsageError

# torchvision/datasets/folder.py, IMG_EXTENSIONS (compared by a test).
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

# ImageNet's 50,000 validation images without folders: as ILSVRC2012_img_val.tar names them, and
# with the class at the end, as in val_images.tar.gz of huggingface.co/datasets/ILSVRC/imagenet-1k,
# which datasets/README.md of github.com/ExplainableML/cosmos lays out.
_FLAT = re.compile(r"(ILSVRC2012_val_\d{8})(?:_(n\d{8}))?\.JPEG")
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


class FlatImage(NamedTuple):
    """One of ImageNet's validation images outside class folders.

    `name` is the file's own. `usual` is the name that ILSVRC2012_img_val.tar gives the image,
    `wordnet_id` its class where the file name ends in it.
    """

    name: str
    usual: str
    wordnet_id: str | None


def flat_images(folder: Path) -> list[FlatImage]:
    """List ImageNet's validation images that lie in the folder itself, sorted by name."""
    matches = (_FLAT.fullmatch(entry.name) for entry in folder_entries(folder))
    return sorted(FlatImage(match[0], f"{match[1]}.JPEG", match[2]) for match in matches if match)


def read_folders(folder: Path, protocol: ClassificationProtocol, options: RunOptions) -> ClassData:
    """List the images of every class; none is decoded.

    Raises UsageError for another layout, a class without images, folders that are not the
    protocol's classes, folders that cannot be read, and a folder that is reached twice by a link.
    """
    class_list = CLASS_LISTS.get(protocol.class_list or "")
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    if protocol.class_list == "imagenet1k" and (flat := flat_images(folder)):
        _require_sorted(folder, flat, protocol.root or options.data_root)
        return _read_flat(folder, flat, protocol)
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


def must_be_sorted(folder: Path, flat: Sequence[FlatImage]) -> bool:
    """Tell whether any image does not name its class, or others are in class folders already."""
    has_folders = any(_WORDNET_ID.fullmatch(entry.name) for entry in folder_entries(folder))
    return bool(flat) and (has_folders or any(image.wordnet_id is None for image in flat))


def _require_sorted(folder: Path, flat: Sequence[FlatImage], root: str | None) -> None:
    if must_be_sorted(folder, flat):
        raise UsageError(
            f"{folder} holds {len(flat)} images outside class folders, the first {flat[0].name}: "
            "one folder a class is made by `cosmos-eval data prepare imagenet --data-root "
            f"{shlex.quote(str(root))}`"
        )


def _read_flat(
    folder: Path, flat: Sequence[FlatImage], protocol: ClassificationProtocol
) -> ClassData:
    """Read images that name their class, under the names and in the order of class folders."""
    images = sorted((str(image.wordnet_id), image.usual, image.name) for image in flat)
    classes = sorted({wordnet_id for wordnet_id, _, _ in images})
    _require_list(
        protocol, folder, classes, CLASS_LISTS["imagenet1k"], "classes in the names of its images"
    )
    numbers = {wordnet_id: number for number, wordnet_id in enumerate(classes)}
    return make_data(
        classes,
        [(f"{wordnet_id}/{usual}", ImageFile(folder / name)) for wordnet_id, usual, name in images],
        [numbers[wordnet_id] for wordnet_id, _, _ in images],
    )


def _require_list(
    protocol: ClassificationProtocol,
    folder: Path,
    classes: Sequence[str],
    expected: ClassList,
    what: str = "class folders",
) -> None:
    found = hashlib.sha256("\n".join(classes).encode()).hexdigest()
    if expected.classes_sha256 not in (None, found):
        raise UsageError(
            f"{folder} has {len(classes)} {what}, which are not the {expected.n_classes} "
            f"{expected.classes} of {protocol.class_list}{class_differences(protocol, classes)}"
        )
