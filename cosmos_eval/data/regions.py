"""Sources of the boxes of images, which are encoded as crops or pooled. Imports no torch."""

import json
import math
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from cosmos_eval.data.sources import CroppedImage, ImageSource
from cosmos_eval.types import RegionFeatures

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the whole image."""


@dataclass(frozen=True)
class PooledRegion:
    """A box of an image whose feature is pooled from the features of the whole image's patches."""

    image: ImageSource
    box: Box

    @property
    def name(self) -> str:
        """The name of the whole image and the box: `1.jpg [0.5, 10.0, 20.0, 40.0]`."""
        return f"{self.image.name} {list(self.box)}"

    def read(self) -> bytes:
        """Return one line with the box as JSON, followed by the bytes of the whole image."""
        return json.dumps(self.box).encode() + b"\n" + self.image.read()

    def decode(self, content: bytes) -> Image.Image:
        """Return the box as an image of whole pixels. `content` is what `read` returned."""
        return CroppedImage(self.image, whole_pixels(self.box)).decode(content)


@dataclass(frozen=True)
class SquareCrop:
    """A box that is cut out of an image and becomes a square.

    `stretched`: both sides get the length of the longer side. `padded`: black pixels are added on
    both sides.
    """

    crop: CroppedImage
    squares: Literal["padded", "stretched"]

    @property
    def name(self) -> str:
        """The name of the whole image and the box."""
        return self.crop.name

    def read(self) -> bytes:
        """Return one line with the form of the square, followed by what the crop reads."""
        return self.squares.encode() + b"\n" + self.crop.read()

    def decode(self, content: bytes) -> Image.Image:
        """Return the square, whose side is the longer side of the crop."""
        _, _, crop_content = content.partition(b"\n")
        image = self.crop.decode(crop_content)
        side = max(image.size)
        if self.squares == "stretched":
            return image.resize((side, side), Image.Resampling.BICUBIC)
        square = Image.new("RGB", (side, side))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square


def make_region(image: ImageSource, box: Box, protocol: RegionFeatures) -> ImageSource:
    """Return the source of a box of an image, of the kind that the protocol encodes."""
    if protocol.regions == "pooled":
        return PooledRegion(image, box)
    crop = CroppedImage(image, whole_pixels(box))
    return crop if protocol.squares is None else SquareCrop(crop, protocol.squares)


def intersection_over_union(first: Box, second: Box) -> float:
    """Return the area that both boxes cover, divided by the area that either of them covers.

    Example:
        (0, 0, 4, 4) and (2, 0, 6, 4) give 8 / 24.
    """
    width = max(min(first[2], second[2]) - max(first[0], second[0]), 0.0)
    height = max(min(first[3], second[3]) - max(first[1], second[1]), 0.0)
    shared = width * height
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (first, second)]
    return shared / (sum(areas) - shared)


def whole_pixels(box: Box) -> tuple[int, int, int, int]:
    """Return a box with rounded sides, as Pillow crops it; a thin box keeps a pixel.

    Example:
        (0.4, 1.6, 9.6, 4.0) becomes (0, 2, 10, 4), and (2.6, 0, 2.9, 4), which would be rounded to
        nothing, becomes (2, 0, 3, 4).
    """
    left, right = _whole_side(box[0], box[2])
    top, bottom = _whole_side(box[1], box[3])
    return left, top, right, bottom


def _whole_side(start: float, end: float) -> tuple[int, int]:
    """Return the rounded ends of a side, or the pixels that it touches if it is too short."""
    whole_start, whole_end = round(start), round(end)
    if whole_end > whole_start:
        return whole_start, whole_end
    return math.floor(start), max(math.ceil(end), math.floor(start) + 1)
