"""Pictures of a gallery, encoded small: photographs, label maps, heat maps. Imports no torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval.data.sources import ImageSource
from cosmos_eval.report.gallery.records import Picture

THUMBNAIL = 224  # longest side in pixels
LARGE = 320  # of images that maps are laid over
_QUALITY = 75
# WebP's effort, from 0 to 6: a step from here costs twice the time and saves 3% of the bytes.
_EFFORT = 2
_EFFORT_OF_MAPS = 4

# Matplotlib's viridis at 0.18, 0.344, ... 1: dark blue to yellow.
_VIRIDIS = (
    *((67, 62, 133), (47, 107, 142), (32, 146, 140)),
    *((56, 185, 119), (147, 215, 65), (253, 231, 37)),
)
_OPACITY = (0.35, 0.75)  # of the least and of the most

Rgb8 = tuple[int, int, int]


class Size(NamedTuple):
    """Of a picture, in pixels."""

    width: int
    height: int


class Canvas:
    """Makes pictures at one scale, each photograph and each content once.

    Threads may share it: at worst they make a picture twice.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        self._thumbnails: dict[str, Picture] = {}
        self._by_content: dict[bytes, Picture] = {}

    def thumbnail(self, source: ImageSource) -> Picture:
        """A small picture of an image of a data set. Raises UsageError where it is not usable."""
        if source.name not in self._thumbnails:
            image = source.decode(source.read())
            small = self._fitted(image, THUMBNAIL)
            self._thumbnails[source.name] = self._once(_photograph(small))
        return self._thumbnails[source.name]

    def large(self, image: Image.Image) -> Picture:
        """An RGB image, to lay maps over."""
        return self._once(_photograph(self._fitted(image, LARGE)))

    def label_map(self, classes: NDArray[np.uint8], colours: Sequence[Rgb8], size: Size) -> Picture:
        """Classes (H, W) in their colours; what is no class is transparent."""
        table = np.zeros((256, 4), np.uint8)
        table[: len(colours)] = [(*colour, 255) for colour in colours]
        nearest = Image.fromarray(shrunk(classes)).resize(size, Image.Resampling.NEAREST)
        drawn = Image.fromarray(table[np.asarray(nearest)])
        return self._once(_encoded(drawn, lossless=True, method=_EFFORT_OF_MAPS))

    def heat_map(self, values: NDArray[np.float32], size: Size) -> Picture:
        """Draw values (h, w) of patches: faint blue for the least, yellow for the largest."""
        values = (values - values.min()) / (np.ptp(values) or 1)
        # Linear between the centres of patches, as cosmos_eval.models.maps has it.
        large = Image.fromarray(values).resize(size, Image.Resampling.BILINEAR)
        return self._once(_encoded(Image.fromarray(_heat(np.asarray(large))), quality=_QUALITY))

    def size_of(self, image_size: tuple[int, int]) -> Size:
        """Of the picture that `large` makes of an image of this width and height."""
        return _fit(image_size, LARGE * self._scale)

    def _fitted(self, image: Image.Image, longest: float) -> Image.Image:
        size = _fit(image.size, longest * self._scale)
        return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)

    def _once(self, picture: Picture) -> Picture:
        return self._by_content.setdefault(picture.content, picture)


def shrunk(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A label map (H, W) no larger than it is ever drawn."""
    size = _fit((classes.shape[1], classes.shape[0]), LARGE)
    return np.asarray(Image.fromarray(classes).resize(size, Image.Resampling.NEAREST))


def _fit(size: tuple[int, int], longest: float) -> Size:
    """The size with its longest side at most `longest`; nothing is enlarged."""
    factor = min(1.0, longest / max(size))
    width, height = (max(1, round(factor * side)) for side in size)
    return Size(width, height)


def _heat(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W) in [0, 1] -> (H, W, 4) RGBA."""
    steps = np.linspace(0, 1, len(_VIRIDIS))
    channels = [np.interp(values, steps, channel) for channel in zip(*_VIRIDIS, strict=True)]
    opacity = 255 * np.interp(values, (0, 1), _OPACITY)
    return (np.stack([*channels, opacity], axis=-1) + 0.5).astype(np.uint8)


def _photograph(image: Image.Image) -> Picture:
    return _encoded(image, quality=_QUALITY)


def _encoded(image: Image.Image, method: int = _EFFORT, **how: Any) -> Picture:
    content = io.BytesIO()
    image.save(content, format="WEBP", method=method, **how)
    return Picture(content.getvalue(), "image/webp", *image.size)
