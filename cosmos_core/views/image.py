"""Multi-crop views of an image; their distributions are those of torchvision's transforms.

RandomResizedCrop, RandomHorizontalFlip, ColorJitter, RandomGrayscale, Pillow's GaussianBlur and
RandomSolarize, in this order.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image
import torch
from torch import Tensor

from cosmos_core.config import ImageViewConfig
from cosmos_core.types import EVERY_VIEW, ViewCounts
from cosmos_core.views.boxes import cut, random_box
from cosmos_core.views.pixels import (
    Pixels,
    blur,
    brightness,
    contrast,
    flip,
    grey,
    hue,
    saturation,
    solarize,
)

BLUR_RADIUS = (0.1, 2.0)  # pixels; github.com/ExplainableML/cosmos, after DINO
SCALINGS = (brightness, contrast, saturation)
HUE = 3  # after those


class ImageViews(NamedTuple):
    """Views of one image, uint8: globals (G, 3, H, W) and locals (L, 3, h, w)."""

    global_images: Tensor
    local_images: Tensor


class ViewKind(NamedTuple):
    """What distinguishes a view from the others of its image."""

    size: int
    scale: tuple[float, float]
    blur_p: float
    solarize_p: float


class MultiCrop:
    """One or two global views, and the configured local ones where the method has any."""

    def __init__(self, config: ImageViewConfig, counts: ViewCounts = EVERY_VIEW) -> None:
        first, second, local = config.blur_p
        large, small = config.global_size, config.local_size
        globals_ = (
            ViewKind(large, config.global_scale, first, 0.0),
            ViewKind(large, config.global_scale, second, config.solarize_p),
        )
        locals_ = config.locals if counts.local_images else 0
        self._config = config
        self._globals = globals_[: counts.global_images]
        self._locals = (ViewKind(small, config.local_scale, local, 0.0),) * locals_

    def __call__(self, image: PIL.Image.Image, rng: np.random.Generator) -> ImageViews:
        """Views of an RGB image."""
        config, pixels = self._config, np.array(image)
        large = [random_view(pixels, kind, config, rng) for kind in self._globals]
        small = [random_view(pixels, kind, config, rng) for kind in self._locals]
        return ImageViews(_stack(large, config.global_size), _stack(small, config.local_size))


def random_view(
    pixels: Pixels, kind: ViewKind, config: ImageViewConfig, rng: np.random.Generator
) -> Pixels:
    """One square view (size, size, 3) of an RGB image (H, W, 3)."""
    height, width, _ = pixels.shape
    view = cut(pixels, random_box(width, height, kind.scale, rng), kind.size)
    if rng.random() < config.flip_p:
        view = flip(view)
    if rng.random() < config.jitter_p:
        view = jitter(view, config.jitter, rng)
    if rng.random() < config.grayscale_p:
        view = grey(view)
    if rng.random() < kind.blur_p:
        view = blur(view, rng.uniform(*BLUR_RADIUS))
    if rng.random() < kind.solarize_p:
        view = solarize(view)
    return view


def jitter(
    view: Pixels, strengths: tuple[float, float, float, float], rng: np.random.Generator
) -> Pixels:
    """Brightness, contrast and saturation by U(1 - s, 1 + s), hue by U(-s, s), in random order."""
    for kind in rng.permutation(4):
        strength = strengths[kind]
        if strength == 0:
            continue
        if kind == HUE:
            view = hue(view, rng.uniform(-strength, strength))
        else:
            view = SCALINGS[kind](view, rng.uniform(max(0, 1 - strength), 1 + strength))
    return view


def _stack(views: list[Pixels], size: int) -> Tensor:
    """RGB views of one size -> (N, 3, size, size), contiguous; N may be 0."""
    planes = np.empty((len(views), 3, size, size), dtype=np.uint8)
    for view, out in zip(views, planes, strict=True):
        np.stack(cv2.split(view), out=out)
    return torch.from_numpy(planes)
