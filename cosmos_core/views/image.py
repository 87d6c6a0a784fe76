"""Multi-crop views of an image, by Pillow: small crops leave no time for a transform's overhead.

The distributions are those of torchvision's transforms of the same names.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import PIL.Image
import torch
from PIL import ImageEnhance, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms.functional import adjust_hue

from cosmos_core.config import ImageViewConfig
from cosmos_core.types import EVERY_VIEW, ViewCounts

BLUR_RADIUS = (0.1, 2.0)  # pixels; github.com/ExplainableML/cosmos, after DINO
SOLARIZE_THRESHOLD = 128
ASPECT_RATIO = (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop
CROP_TRIALS = 10
ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
Box = tuple[int, int, int, int]


class ImageViews(NamedTuple):
    """Views of one image, uint8: globals (G, 3, H, W) and locals (L, 3, h, w)."""

    global_images: Tensor
    local_images: Tensor


class MultiCrop:
    """One or two global views, and the configured local ones where the method has any."""

    def __init__(self, config: ImageViewConfig, counts: ViewCounts = EVERY_VIEW) -> None:
        self._config, self._global_views = config, counts.global_images
        self._locals = config.locals if counts.local_images else 0

    def __call__(self, image: PIL.Image.Image, rng: np.random.Generator) -> ImageViews:
        """Views of an RGB image."""
        config, (first, second, local) = self._config, self._config.blur_p
        large, small = config.global_size, config.local_size
        solarize = config.solarize_p
        globals_ = [
            random_view(image, config, large, config.global_scale, first, 0.0, rng),
            random_view(image, config, large, config.global_scale, second, solarize, rng),
        ][: self._global_views]
        locals_ = [
            random_view(image, config, small, config.local_scale, local, 0.0, rng)
            for _ in range(self._locals)
        ]
        return ImageViews(_stack(globals_, large), _stack(locals_, small))


def random_view(
    image: PIL.Image.Image,
    config: ImageViewConfig,
    size: int,
    scale: tuple[float, float],
    blur_p: float,
    solarize_p: float,
    rng: np.random.Generator,
) -> PIL.Image.Image:
    """One square view of `size` pixels."""
    box = random_box(image.width, image.height, scale, rng)
    view = image.resize((size, size), PIL.Image.Resampling.BICUBIC, box)
    if rng.random() < config.flip_p:
        view = ImageOps.mirror(view)
    if rng.random() < config.jitter_p:
        view = jitter(view, config.jitter, rng)
    if rng.random() < config.grayscale_p:
        view = ImageOps.grayscale(view).convert("RGB")
    if rng.random() < blur_p:
        view = view.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR_RADIUS)))
    if rng.random() < solarize_p:
        view = ImageOps.solarize(view, SOLARIZE_THRESHOLD)
    return view


def random_box(
    width: int, height: int, scale: tuple[float, float], rng: np.random.Generator
) -> Box:
    """Left, top, right, bottom of a random crop: `scale` of the area, log-uniform aspect.

    After ten misses the largest centred crop whose aspect is allowed.
    """
    log_ratio = (math.log(ASPECT_RATIO[0]), math.log(ASPECT_RATIO[1]))
    for _ in range(CROP_TRIALS):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * ASPECT_RATIO[1]))
    h = min(height, round(width / ASPECT_RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def jitter(
    view: PIL.Image.Image,
    strengths: tuple[float, float, float, float],
    rng: np.random.Generator,
) -> PIL.Image.Image:
    """Brightness, contrast and saturation by U(1 - s, 1 + s), hue by U(-s, s), in random order."""
    for kind in rng.permutation(4):
        strength = strengths[kind]
        if strength == 0:
            continue
        if kind == 3:
            view = adjust_hue(view, rng.uniform(-strength, strength))
        else:
            factor = rng.uniform(max(0, 1 - strength), 1 + strength)
            view = ENHANCERS[kind](view).enhance(factor)
    return view


def _stack(views: list[PIL.Image.Image], size: int) -> Tensor:
    """RGB images of one size -> (N, 3, size, size) uint8; N may be 0."""
    if not views:
        return torch.empty((0, 3, size, size), dtype=torch.uint8)
    return torch.from_numpy(np.stack([np.asarray(view) for view in views])).permute(0, 3, 1, 2)
