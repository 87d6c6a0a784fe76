"""Colours of weights: a scale for maps, of which words have one colour a third."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval.models.heatmaps import scaled, upsample
from cosmos_eval.report.attention.records import Level, View

OPACITY = 0.6
"""Of a map over its image."""

_FIRST = 0.18  # viridis from here on: dark blue to yellow, without its violet end


class Ink(NamedTuple):
    """A ground and the colour of text on it, for CSS and SVG."""

    ground: str
    text: str


# Contrast of text to ground: 11.7, 12.3 and 15.9 (WCAG asks for 4.5).
LEVELS: dict[Level, Ink] = {
    "low": Ink("#26357a", "#ffffff"),
    "middle": Ink("#93dc8f", "#10221a"),
    "high": Ink("#fde725", "#1c1a00"),
}
PLAIN = Ink("#e4e7ec", "#1c1e21")
"""Of words that have nothing to be compared with."""


@lru_cache(maxsize=1)
def scale() -> NDArray[np.uint8]:
    """The colours of 0..1 in 256 steps, (256, 3) RGB: perceptually even, brighter for more."""
    from matplotlib import colormaps

    rgba = colormaps["viridis"](np.linspace(_FIRST, 1, 256))
    return (255 * rgba[:, :3]).round().astype(np.uint8)


def scale_bar() -> Image.Image:
    """The scale from left to right, one pixel high."""
    return Image.fromarray(scale()[None])


def coloured(view: View, size: tuple[int, int]) -> Image.Image:
    """A map in colours at a width and height: upsampled, then scaled to its own range."""
    large = scaled(upsample(torch.from_numpy(view.map), size[::-1]))
    return Image.fromarray(scale()[(255 * large).round().to(torch.uint8).numpy()])


def laid_over(colours: Image.Image, picture: Image.Image) -> Image.Image:
    """A coloured map over its picture in grey, so that all colour is the map's."""
    return Image.blend(picture.convert("L").convert("RGB"), colours, OPACITY)
