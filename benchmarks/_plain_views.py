"""The published COSMOS augmentations, written with torchvision on Pillow images, untuned.

Two global views and six local ones, as github.com/ExplainableML/cosmos composes them after DINO.
"""

from __future__ import annotations

import random

import PIL.Image
import torch
from PIL import ImageFilter
from torch import Tensor
from torchvision.transforms import (
    ColorJitter,
    Compose,
    InterpolationMode,
    RandomApply,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomSolarize,
    ToTensor,
)

LOCAL_VIEWS = 6


class RandomBlur:
    """Pillow's Gaussian blur with a radius of U(0.1, 2) pixels, at a probability."""

    def __init__(self, p: float) -> None:
        self._p = p

    def __call__(self, image: PIL.Image.Image) -> PIL.Image.Image:
        if random.random() > self._p:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class PlainMultiCrop:
    """A Pillow image -> float views (2, 3, 224, 224) and (6, 3, 96, 96)."""

    def __init__(self) -> None:
        self._first = _transform(224, (0.4, 1.0), blur_p=1.0)
        self._second = _transform(224, (0.4, 1.0), blur_p=0.1, solarize_p=0.2)
        self._local = _transform(96, (0.05, 0.4), blur_p=0.5)

    def __call__(self, image: PIL.Image.Image) -> tuple[Tensor, Tensor]:
        large = [self._first(image), self._second(image)]
        small = [self._local(image) for _ in range(LOCAL_VIEWS)]
        return torch.stack(large), torch.stack(small)


def _transform(
    size: int, scale: tuple[float, float], blur_p: float, solarize_p: float = 0.0
) -> Compose:
    return Compose(
        [
            RandomResizedCrop(size, scale=scale, interpolation=InterpolationMode.BICUBIC),
            RandomHorizontalFlip(0.5),
            RandomApply([ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            RandomGrayscale(0.2),
            RandomBlur(blur_p),
            *([RandomSolarize(128, solarize_p)] if solarize_p else []),
            ToTensor(),
        ]
    )
