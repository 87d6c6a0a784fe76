"""Where a view is cut out of its image, and its resampling to the view's size."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate

from cosmos_core.views.pixels import Pixels

ASPECT_RATIO = (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop, as are the trials
CROP_TRIALS = 10


class Box(NamedTuple):
    """A rectangle of whole pixels, `right` and `bottom` outside of it."""

    left: int
    top: int
    right: int
    bottom: int


def random_box(
    width: int, height: int, scale: tuple[float, float], rng: np.random.Generator
) -> Box:
    """A random crop: U(scale) of the area, log-uniform aspect, uniform place.

    After ten misses the largest centred crop whose aspect is allowed.
    """
    log_ratio = (math.log(ASPECT_RATIO[0]), math.log(ASPECT_RATIO[1]))
    for _ in range(CROP_TRIALS):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return Box(left, top, left + w, top + h)
    w = min(width, round(height * ASPECT_RATIO[1]))
    h = min(height, round(width / ASPECT_RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return Box(left, top, left + w, top + h)


def cut(pixels: Pixels, box: Box, size: int) -> Pixels:
    """The box of an image, square at `size` pixels: crop, then antialiased bicubic.

    The same filter and the same fixed-point arithmetic as Pillow's `crop().resize()`, to within a
    grey level or two; PyTorch does it with vector instructions, and leaves colours interleaved.
    """
    crop = np.ascontiguousarray(pixels[None, box.top : box.bottom, box.left : box.right])
    interleaved = torch.from_numpy(crop).permute(0, 3, 1, 2)
    resized = interpolate(interleaved, (size, size), mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())
