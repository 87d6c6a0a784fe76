"""The annotation file of the Detail API (github.com/zhanghang1989/detail-api).

`images` hold image_id, file_name, height, width and phase (`train`, `val`, ...);
`annos_segmentation` hold image_id, category_id and `segmentation`, COCO's compressed run-length
code.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.readers import read_json
from cosmos_eval.types import UsageError

# Warning filters belong to the process, not to a thread.
_filters = threading.Lock()


class Segment(NamedTuple):
    """A category and where it is: {size, counts}."""

    category: int
    code: Mapping[str, Any]


class Picture(NamedTuple):
    """An image: its name without suffix, height and width in pixels, its segments in order."""

    name: str
    phase: str
    size_hw: tuple[int, int]
    segments: list[Segment]


def read_annotation(path: Path, phases: Sequence[str]) -> list[Picture]:
    """The images of some phases. Raises UsageError where the file is not of this form."""
    try:
        content = read_json(path)
        pictures = {
            image["image_id"]: _picture(image)
            for image in content["images"]
            if image["phase"] in phases
        }
        for note in content["annos_segmentation"]:
            if note["image_id"] in pictures:
                segment = Segment(note["category_id"], note["segmentation"])
                pictures[note["image_id"]].segments.append(segment)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path} is not the Detail API's annotation file ({reason})") from error
    return list(pictures.values())


def draw(picture: Picture, path: Path) -> NDArray[np.uint16]:
    """Categories (H, W), 0 for none; later segments lie on top, as the API's `getMask` has them.

    Raises UsageError that names `path` and the image for a broken segment.
    """
    categories = np.zeros(picture.size_hw, np.uint16)
    try:
        for segment in picture.segments:
            categories[_decode(segment.code)] = segment.category
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path}: image {picture.name} has a broken segment ({reason})") from error
    return categories


def _picture(image: Mapping[str, Any]) -> Picture:
    name = Path(image["file_name"]).stem
    return Picture(name, image["phase"], (image["height"], image["width"]), [])


def _decode(code: Mapping[str, Any]) -> NDArray[np.bool_]:
    """A run-length code -> (H, W), true inside."""
    from pycocotools import mask

    with _filters, warnings.catch_warnings():
        # pycocotools returns arrays in a way that NumPy 2 deprecates.
        warnings.filterwarnings("ignore", message="__array__", category=DeprecationWarning)
        inside: NDArray[np.bool_] = mask.decode(code) > 0
    return inside
