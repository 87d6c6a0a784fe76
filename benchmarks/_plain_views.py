"""The published COSMOS augmentations, written plainly with torchvision on Pillow images.

There are two global views and six local ones, as github.com/ExplainableML/cosmos composes them
after DINO. They are what cosmos_core's augmentations are compared with.
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
    """Pillow's Gaussian blur with a random radius of 0.1 to 2 pixels, with probability `p`."""

    def __init__(self, p: float) -> None:
        self._p = p

    def __call__(self, image: PIL.Image.Image) -> PIL.Image.Image:
        """Return the blurred image, or the image itself."""
        if random.random() > self._p:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


class PlainMultiCrop:
    """Makes two global views and six local views of an image."""

    def __init__(self) -> None:
        self._first = _transform(224, (0.4, 1.0), blur_p=1.0)
        self._second = _transform(224, (0.4, 1.0), blur_p=0.1, solarize_p=0.2)
        self._local = _transform(96, (0.05, 0.4), blur_p=0.5)

    def __call__(self, image: PIL.Image.Image) -> tuple[Tensor, Tensor]:
        """Return global views (2, 3, 224, 224) and local views (6, 3, 96, 96), in [0, 1]."""
        global_views = [self._first(image), self._second(image)]
        local_views = [self._local(image) for _ in range(LOCAL_VIEWS)]
        return torch.stack(global_views), torch.stack(local_views)


def _transform(
    size: int, scale: tuple[float, float], blur_p: float, solarize_p: float = 0.0
) -> Compose:
    """Return the augmentations of one view.

    Args:
        size: The height and width of the view in pixels.
        scale: The smallest and largest share of the image's area that is cropped.
        blur_p: The probability of a blur.
        solarize_p: The probability of solarization.
    """
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
