"""Pascal-Context's label maps of 59 classes and background, and its lists of images.

From `trainval_merged.json` of the Detail API (github.com/zhanghang1989/detail-api), as
MMSegmentation's tools/dataset_converters/pascal_context.py makes them, or where there is no such
file from the original `trainval/*.mat` (cs.stanford.edu/~roozbeh/pascal-context): both number the
same 459 categories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.folders import find_root
from cosmos_eval.data.prepare.detail import Picture, draw, read_annotation
from cosmos_eval.data.prepare.maps import Label, LabelMap, Work
from cosmos_eval.data.prepare.places import missing_comes_from
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


def context(data_root: str | None) -> Work:
    """Label maps of training and validation images, then `train.txt` and `val.txt`."""
    with missing_comes_from(_PROTOCOL):
        root = find_root(_PROTOCOL, data_root, (_PROTOCOL.images,))
        annotation = root / _ANNOTATION
        if annotation.is_file():
            return _from_annotation(root, annotation)
        if (root / _MATLAB).is_dir():
            return _from_matlab(root)
        raise UsageError(f"{annotation} is missing")


def _from_annotation(root: Path, path: Path) -> Work:
    pictures = read_annotation(path, _PHASES)
    maps = [_label_map(root, picture.name, partial(_drawn, picture, path)) for picture in pictures]
    names = {phase: [p.name for p in pictures if p.phase == phase] for phase in _PHASES}
    return Work(maps, _lists(root, names))


def _drawn(picture: Picture, path: Path) -> Label:
    return _classes(draw(picture, path), f"{path}: image {picture.name}")


def _from_matlab(root: Path) -> Work:
    folder = root / _MATLAB
    names = {phase: _listed(root, phase) for phase in _PHASES}
    maps = []
    for name in (name for phase in _PHASES for name in names[phase]):
        original = folder / f"{name}.mat"
        wanted = _label_map(root, name, partial(_read_matlab, original))
        if not (original.is_file() or wanted.target.is_file()):
            raise UsageError(f"{original} is missing")
        maps.append(wanted)
    return Work(maps, _lists(root, names))


def _listed(root: Path, phase: str) -> list[str]:
    """Names of a phase: of the list that is there already, else of VOC's own list."""
    own, main = _list_path(root, phase), root / "ImageSets/Main" / f"{phase}.txt"
    path = own if own.is_file() else main
    if not path.is_file():
        raise UsageError(f"{path} is missing")
    return path.read_text("utf-8").split()


def _read_matlab(path: Path) -> Label:
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=["LabelMap"])
        categories = content["LabelMap"].astype(np.uint16)
    except Exception as error:  # a damaged file fails wherever scipy and zlib first notice
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"cannot read {path} ({reason}); fetch it again") from error
    return _classes(categories, str(path))


def _classes(categories: NDArray[np.uint16], where: str) -> Label:
    """(H, W) of 0 and the 459 categories -> class indices. Raises UsageError for other values."""
    highest = int(categories.max(initial=0))
    if highest > _CATEGORIES:
        raise UsageError(f"{where} holds category {highest}; there are {_CATEGORIES}")
    return _CLASS_OF[categories]


def _label_map(root: Path, name: str, make: partial[Label]) -> LabelMap:
    target = root / _PROTOCOL.masks / f"{name}{_PROTOCOL.mask_suffix}"
    return LabelMap(target, len(_PROTOCOL.class_names), make)


def _list_path(root: Path, phase: str) -> Path:
    assert _PROTOCOL.split is not None
    return (root / _PROTOCOL.split).with_name(f"{phase}.txt")


def _lists(root: Path, names: Mapping[str, Sequence[str]]) -> dict[Path, str]:
    return {
        _list_path(root, phase): "".join(f"{name}\n" for name in sorted(own))
        for phase, own in names.items()
    }
