"""A small drawing surface: filled shapes, textures inside a shape, and the finished sprite.

Shapes are float arrays (N, 2) of (x, y) in a square from -1 to 1, y downwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Shape = npt.NDArray[np.float64]
Colour = tuple[float, float, float]
Image = npt.NDArray[np.uint8]

RESOLUTION = 240
DARK: Colour = (34, 28, 34)
# Sub-pixel bits of OpenCV's drawing functions.
_BITS = 4


class Sprite(NamedTuple):
    """One drawn thing at two sizes: premultiplied RGBA, (S, S, 4), centred on its box.

    The long side of the thing is `LARGE_SIDE` and `SMALL_SIDE` pixels; alpha below 128 is a rim
    of light outside the thing.
    """

    large: Image
    small: Image


LARGE_SIDE, SMALL_SIDE = 92, 46
# Evaluator on every side of a small sprite for its rim of light, in pixels.
_MARGIN = 3


def oval(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Shape:
    """Return an ellipse round (x, y), turned by an angle in degrees."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    along, across = rx * np.cos(turn), ry * np.sin(turn)
    return np.stack([x + along * cos - across * sin, y + along * sin + across * cos], 1)


def box(x0: float, y0: float, x1: float, y1: float) -> Shape:
    """Return an upright rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def shape(*points: tuple[float, float]) -> Shape:
    """Return a polygon of the given corners."""
    return np.array(points)


def shade(colour: Colour, level: float) -> Colour:
    """Darken (level < 1) or lighten towards white (level > 1) a colour."""
    if level <= 1:
        return (colour[0] * level, colour[1] * level, colour[2] * level)
    rest = 2 - level
    return tuple(255 - (255 - c) * rest for c in colour)  # type: ignore[return-value]


class Canvas:
    """A transparent square to draw one thing on."""

    def __init__(self) -> None:
        self.rgba: Image = np.zeros((RESOLUTION, RESOLUTION, 4), np.uint8)

    def _pixels(self, points: Shape) -> npt.NDArray[np.int32]:
        half = RESOLUTION / 2
        pixels: npt.NDArray[np.float64] = (points * half * 0.94 + half) * 2**_BITS
        return np.rint(pixels).astype(np.int32)

    def fill(self, points: Shape, colour: Colour, edge: int = 0) -> None:
        """Fill a shape; `edge` > 0 also draws its border that many pixels wide, darker."""
        pixels = self._pixels(points)
        cv2.fillPoly(self.rgba, [pixels], (*colour, 255), cv2.LINE_8, _BITS)
        if edge:
            dark = (*shade(colour, 0.5), 255)
            cv2.polylines(self.rgba, [pixels], True, dark, edge, cv2.LINE_8, _BITS)

    def line(self, points: Shape, colour: Colour, width: int) -> None:
        """Draw an open line through points, `width` pixels wide."""
        pixels = self._pixels(points)
        cv2.polylines(self.rgba, [pixels], False, (*colour, 255), width, cv2.LINE_8, _BITS)

    @contextmanager
    def inside(self, points: Shape) -> Iterator[None]:
        """Keep whatever is drawn in this context only inside a shape."""
        before = self.rgba.copy()
        yield
        outside = np.full(self.rgba.shape[:2], 255, np.uint8)
        cv2.fillPoly(outside, [self._pixels(points)], 0, cv2.LINE_8, _BITS)
        cv2.copyTo(before, outside, self.rgba)

    def sprite(self) -> Sprite:
        """Return the thing drawn so far, outlined and cropped, at both sizes."""
        x, y, w, h = cv2.boundingRect(self.rgba[..., 3])
        long = max(w, h)
        square = _square(self.rgba, (x + w // 2, y + h // 2), long)
        half = (square.shape[1] // 2, square.shape[0] // 2)
        # A small sprite is shrunk more, so its outline is relatively wider.
        large = _outlined(square, 3, 9)
        small = _outlined(cv2.resize(square, half, interpolation=cv2.INTER_NEAREST), 3, 7)
        return Sprite(_shrunk(large, LARGE_SIDE), _shrunk(small, SMALL_SIDE))


def _square(rgba: Image, centre: tuple[int, int], long: int) -> Image:
    """Return the square round `centre` that holds `long` pixels and room for the rim."""
    half = int(np.ceil(long / 2 * (1 + 2 * _MARGIN / SMALL_SIDE)))
    out = np.zeros((2 * half, 2 * half, 4), np.uint8)
    top, left = half - centre[1], half - centre[0]
    ys = slice(max(0, -top), min(RESOLUTION, 2 * half - top))
    xs = slice(max(0, -left), min(RESOLUTION, 2 * half - left))
    out[ys.start + top : ys.stop + top, xs.start + left : xs.stop + left] = rgba[ys, xs]
    return out


def _outlined(rgba: Image, outline: int, rim: int) -> Image:
    """Return premultiplied RGBA with a dark outline and, up to `rim` pixels away, a faint light.

    A rim's alpha stays below half, so that it never counts as the thing.
    """
    away = cv2.distanceTransform((rgba[..., 3] == 0).view(np.uint8), cv2.DIST_L2, 3)
    rings = np.array([(*DARK, 255), (110, 110, 106, 112), (0, 0, 0, 0)], np.uint8)
    ring = (away > outline).astype(np.intp) + (away > rim)
    # One 32-bit word a pixel is much quicker to look up than four bytes.
    out = rings.view(np.uint32)[:, 0][ring].view(np.uint8).reshape(rgba.shape)
    copied: Image = cv2.copyTo(rgba, rgba[..., 3], out)
    return copied


def _shrunk(rgba: Image, side: int) -> Image:
    """Return a sprite shrunk to `side` pixels of thing plus the margin."""
    size = round(side * (1 + 2 * _MARGIN / SMALL_SIDE))
    small: Image = cv2.resize(rgba, (size, size), interpolation=cv2.INTER_AREA)
    small.flags.writeable = False
    return small
