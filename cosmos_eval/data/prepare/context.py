"""Pascal-Context's label maps of 59 classes and background, and its lists of images.

From `trainval_merged.json` of the Detail API (github.com/zhanghang1989/detail-api), as
MMSegmentation's tools/dataset_converters/pascal_context.py makes them, or where there is no such
file from the original `trainval/*.mat` (cs.stanford.edu/~roozbeh/pascal-context): both number the
same 459 categories.
"""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.folders import find_root
from cosmos_eval.data.prepare.label_maps import Label, Work
from cosmos_eval.data.readers import read_json
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.types import UsageError

_PROTOCOL = SEGMENTATION["context60"]
_CATEGORIES = 459
# The categories of the 59 classes, in the classes' order (both are alphabetical): `_mapping` in
# MMSegmentation's converter. All others are background.
_CLASSES = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98),
    *(104, 105, 113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295),
    *(296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440),
    *(445, 454, 458),
)
_CLASS_OF = np.zeros(_CATEGORIES + 1, np.uint8)
_CLASS_OF[list(_CLASSES)] = np.arange(1, len(_CLASSES) + 1)

_ANNOTATION = "trainval_merged.json"
_MATLAB = "trainval"
ORIGINALS = (_ANNOTATION, _MATLAB)
"""Beside the images, in the order in which they are preferred."""

_PHASES = ("train", "val")

# Warning filters belong to the process, not to a thread.
_filters = threading.Lock()


class _Picture(NamedTuple):
    name: str
    phase: str
    size_hw: tuple[int, int]
    segments: list[tuple[int, Mapping[str, Any]]]  # categories and their codes


def context(data_root: str | None) -> Work:
    """List label maps of training and validation images, then `train.txt` and `val.txt`."""
    root = find_root(_PROTOCOL, data_root, (_PROTOCOL.images,))
    path, folder = root / _ANNOTATION, root / _MATLAB
    lists = {phase: (root / str(_PROTOCOL.split)).with_name(f"{phase}.txt") for phase in _PHASES}
    masks, suffix = root / _PROTOCOL.masks, _PROTOCOL.mask_suffix
    if path.is_file():
        pictures = _read_annotation(path)
        names = {phase: [p.name for p in pictures if p.phase == phase] for phase in _PHASES}
        maps = {masks / f"{p.name}{suffix}": partial(_draw, p, path) for p in pictures}
    elif folder.is_dir():
        names = {phase: _listed(root, path) for phase, path in lists.items()}
        originals = {
            masks / f"{name}{suffix}": folder / f"{name}.mat"
            for name in itertools.chain.from_iterable(names.values())
        }
        for target, original in originals.items():
            if not (original.is_file() or target.is_file()):
                raise UsageError(f"{original} is missing")
        maps = {target: partial(_read_matlab, original) for target, original in originals.items()}
    else:
        raise UsageError(f"{path} is missing")
    texts = {phase: "".join(f"{name}\n" for name in sorted(own)) for phase, own in names.items()}
    return Work(maps, {lists[phase]: text for phase, text in texts.items()})


def _listed(root: Path, path: Path) -> list[str]:
    """Read the names of a phase: of the list that is there already, else of VOC's own list."""
    if not path.is_file():
        path = root / "ImageSets/Main" / path.name
    if not path.is_file():
        raise UsageError(f"{path} is missing")
    return path.read_text("utf-8").split()


def _read_matlab(path: Path) -> Label:
    from scipy.io import loadmat

    try:
        categories = loadmat(path, variable_names=["LabelMap"])["LabelMap"].astype(np.uint16)
    except Exception as error:  # a damaged file fails wherever scipy and zlib first notice
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"cannot read {path} ({reason}); fetch it again") from error
    return _classes(categories, str(path))


def _classes(categories: NDArray[np.uint16], where: str) -> Label:
    if (highest := int(categories.max(initial=0))) > _CATEGORIES:
        raise UsageError(f"{where} holds category {highest}; there are {_CATEGORIES}")
    return _CLASS_OF[categories]


def _read_annotation(path: Path) -> list[_Picture]:
    try:
        content = read_json(path)
        pictures = {}
        for image in content["images"]:
            if image["phase"] in _PHASES:
                name, size_hw = Path(image["file_name"]).stem, (image["height"], image["width"])
                pictures[image["image_id"]] = _Picture(name, image["phase"], size_hw, [])
        for note in content["annos_segmentation"]:
            if note["image_id"] in pictures:
                segment = note["category_id"], note["segmentation"]
                pictures[note["image_id"]].segments.append(segment)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path} is not the Detail API's annotation file ({reason})") from error
    return list(pictures.values())


def _draw(picture: _Picture, path: Path) -> Label:
    """Draw the segments; later ones lie on top, as the API's `getMask` has them."""
    from pycocotools import mask

    categories = np.zeros(picture.size_hw, np.uint16)
    where = f"{path}: image {picture.name}"
    try:
        for category, code in picture.segments:
            with _filters, warnings.catch_warnings():
                # pycocotools returns arrays in a way that NumPy 2 deprecates.
                warnings.filterwarnings("ignore", message="__array__", category=DeprecationWarning)
                inside = mask.decode(code) > 0  # (H, W)
            categories[inside] = category
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{where} has a broken segment ({reason})") from error
    return _classes(categories, where)
