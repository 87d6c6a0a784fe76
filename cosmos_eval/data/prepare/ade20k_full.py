"""ADE20K-847 from the full ADE20K (release 2021_17_01), as MaskFormer's script
datasets/prepare_ade20k_full_sem_seg.py makes it: images and label maps of at most 512 px on the
short side. A pixel's class in `_seg.png` is 256 times its red value over ten, and its green one.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval.data.folders import find_root
from cosmos_eval.data.prepare.label_maps import Label, Work
from cosmos_eval.protocols.sets import class_ids, read_set
from cosmos_eval.types import UsageError

NAME = "ade20k_847"
ORIGINALS = "images/ADE/validation"

_SHORT_SIDE = 512
_IDS = 256 * 26  # of the largest red value, 255


def ade20k_full(data_root: str | None) -> Work:
    """List the images and label maps of the validation images. Raises UsageError."""
    protocol = read_set(NAME)
    root = find_root(protocol, data_root, (ORIGINALS,))
    index_of = np.full(_IDS, protocol.ignore_index, np.uint16)
    index_of[class_ids(NAME)] = np.arange(len(protocol.class_names))
    images = sorted((root / ORIGINALS).rglob("ADE_val_*.jpg"))
    if not images:
        raise UsageError(f"no image ADE_val_*.jpg in {root / ORIGINALS}")
    work: dict[Path, Any] = {}
    for image in images:
        original = image.with_name(f"{image.stem}_seg.png")
        target = root / protocol.masks / f"{image.stem}.tif"
        if not (original.is_file() or target.is_file()):
            raise UsageError(f"{original} is missing")
        work[root / protocol.images / image.name] = partial(_image, image)
        work[target] = partial(_label, original, index_of)
    return Work(work)


def _image(original: Path) -> NDArray[np.uint8]:
    return _shrunk(_read(original), "INTER_LINEAR")


def _label(original: Path, index_of: NDArray[np.uint16]) -> Label:
    red, green, _ = np.moveaxis(_read(original).astype(np.int64), 2, 0)
    return _shrunk(index_of[red // 10 * 256 + green], "INTER_NEAREST")


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}; fetch it again") from error


def _shrunk(pixels: NDArray[Any], interpolation: str) -> NDArray[Any]:
    import cv2  # here, as the doctor of other sets does without

    height, width = pixels.shape[:2]
    short = min(height, width)
    if short <= _SHORT_SIDE:
        return pixels
    size = [round(side / short * _SHORT_SIDE) for side in (width, height)]
    return cv2.resize(pixels, size, interpolation=getattr(cv2, interpolation))
