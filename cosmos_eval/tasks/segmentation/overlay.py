"""Pictures for people: an image, label maps drawn over it, and what the colours mean."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

_OPACITY = 0.6
_PANEL = 480  # longest side of an image in the picture, in pixels
_LINE = 22  # height of a line of text
_MARGIN = 10
_GOLDEN = 0.618034  # of a turn: neighbours in the list, and their neighbours, differ in hue


class Panel(NamedTuple):
    """`image` (H, W, 3) RGB; `classes` (H, W), where given, are drawn over it."""

    title: str
    image: Pixels
    classes: Pixels | None = None


class Legend(NamedTuple):
    """Names and colours of all classes; shown are those that `shares` has, the largest first.

    `shares` maps a class index to its share of the pixels.
    """

    names: Sequence[str]
    colours: Sequence[Colour]
    shares: dict[int, float]


def distinct_colours(count: int) -> tuple[Colour, ...]:
    """Colours for classes that have none: hues that are far apart, of two brightnesses."""
    return tuple(
        _rgb(colorsys.hsv_to_rgb(index * _GOLDEN % 1, 0.75, 0.95 if index % 2 == 0 else 0.7))
        for index in range(count)
    )


def shares(classes: Pixels, n_classes: int) -> dict[int, float]:
    """The share of the pixels of every class that occurs; other values are left out."""
    counts = np.bincount(classes.ravel(), minlength=256)[:n_classes]
    return {int(index): counts[index] / classes.size for index in np.flatnonzero(counts)}


class Picture(NamedTuple):
    """A drawing, and the share of the pixels of every class in its legend, the largest first."""

    image: Image.Image
    shares: dict[str, float]


def picture(panels: Sequence[Panel], legend: Legend) -> Picture:
    """Panels side by side, the legend at their right."""
    drawn = [_fit(_blend(panel, legend.colours)) for panel in panels]
    lines = sorted(legend.shares, key=lambda index: -legend.shares[index])
    text = [f"{legend.names[index]}  {100 * legend.shares[index]:.1f}%" for index in lines]
    font = ImageFont.load_default(size=15)
    legend_width = max([font.getlength(line) for line in text], default=0) + 2 * _LINE
    width = sum(image.width + _MARGIN for image in drawn) + _MARGIN + int(legend_width)
    height = max([image.height for image in drawn] + [_LINE * len(lines)]) + _LINE + 2 * _MARGIN
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    left = _MARGIN
    for panel, image in zip(panels, drawn, strict=True):
        draw.text((left, _MARGIN // 2), panel.title, "black", font)
        page.paste(image, (left, _MARGIN + _LINE))
        left += image.width + _MARGIN
    for number, index in enumerate(lines):
        top = _MARGIN + _LINE * (number + 1)
        draw.rectangle((left, top, left + 16, top + 16), legend.colours[index], "black")
        draw.text((left + _LINE, top - 1), text[number], "black", font)
    return Picture(page, {legend.names[index]: legend.shares[index] for index in lines})


def _blend(panel: Panel, colours: Sequence[Colour]) -> Pixels:
    """The image with the colour of every pixel's class mixed in; pixels without a class stay."""
    if panel.classes is None:
        return panel.image
    table = np.zeros((256, 3), np.float32)
    table[: len(colours)] = colours
    known = (panel.classes < len(colours))[..., None]
    mixed = (1 - _OPACITY) * panel.image + _OPACITY * table[panel.classes]
    return np.where(known, mixed, panel.image).round().astype(np.uint8)


def _fit(pixels: Pixels) -> Image.Image:
    """Scaled so that the longest side is that of a panel."""
    image = Image.fromarray(pixels)
    scale = _PANEL / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.resize((size[0], size[1]))


def _rgb(colour: Sequence[float]) -> Colour:
    red, green, blue = (round(255 * part) for part in colour)
    return red, green, blue
