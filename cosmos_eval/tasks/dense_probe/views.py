"""Random views of training images, as github.com/facebookresearch/dinov3 at 6876159 draws them.

Shapes: an image is (H, W, 3), RGB uint8, and a label map (H, W).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import functional

from cosmos_eval.data.label_maps import Label

Pixels = NDArray[np.uint8]

_SIZES = (0.5, 2.0)  # factors of the usual size
_LARGEST_CLASS = 0.75  # of a crop, unless ten crops exceed it
_TRIES = 10
_BRIGHTNESS = 32.0  # added to values from 0 to 255
_FACTORS = (0.5, 1.5)  # of contrast and of saturation
_HUES = 0.5  # of the circle of hues


def random_size(short_side: int, generator: np.random.Generator) -> int:
    """Return a random length of the short side, from half to twice the usual one, in pixels."""
    return max(1, int(short_side * generator.uniform(*_SIZES)))


def random_crop(
    image: Pixels, label: Label, side: int, ignore_index: int, generator: np.random.Generator
) -> tuple[Pixels, Label]:
    """Return a random square of an image and of its label map.

    A square in which one class has three quarters or more of the labelled pixels is drawn again, up
    to ten times. An image that is smaller than the square is kept along this side.
    """
    height, width = label.shape
    for attempt in range(_TRIES + 1):
        top = int(generator.integers(max(height - side, 0) + 1))
        left = int(generator.integers(max(width - side, 0) + 1))
        area = (slice(top, top + side), slice(left, left + side))
        pixels = label[area]
        counts = np.bincount(pixels[pixels != ignore_index])
        is_mixed = np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < _LARGEST_CLASS
        if is_mixed or attempt == _TRIES:
            break
    return image[area], pixels


def distort_colours(image: Pixels, generator: np.random.Generator) -> Pixels:
    """Return an image with random brightness, contrast, saturation and hue.

    Each is changed with a probability of one half. Contrast comes before or after the colours.
    """
    contrast_first = _flip(generator)
    if _flip(generator):
        image = _to_bytes(image + generator.uniform(-_BRIGHTNESS, _BRIGHTNESS))
    if contrast_first:
        image = _change_contrast(image, generator)
    if _flip(generator):
        factor = float(generator.uniform(*_FACTORS))
        image = _channels_last(functional.adjust_saturation(_channels_first(image), factor))
    if _flip(generator):
        hue = float(generator.uniform(-_HUES, _HUES))
        image = _channels_last(functional.adjust_hue(_channels_first(image), hue))
    if not contrast_first:
        image = _change_contrast(image, generator)
    return image


def pad(pixels: Tensor, label: NDArray[Any], side: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return an image (3, side, side) and its label map (side, side), padded below and right.

    Pixels are padded with 0, the mean, and labels with `ignore_index`.
    """
    height, width = label.shape
    padding = (0, side - width, 0, side - height)
    labels = torch.from_numpy(label.astype(np.int64))
    padded_labels = torch.nn.functional.pad(labels, padding, value=ignore_index)
    return torch.nn.functional.pad(pixels, padding), padded_labels


def _flip(generator: np.random.Generator) -> bool:
    """Return true or false with equal probability."""
    return bool(generator.integers(2))


def _change_contrast(image: Pixels, generator: np.random.Generator) -> Pixels:
    """Return the image, in half of the cases with all values times a random factor."""
    if not _flip(generator):
        return image
    return _to_bytes(image * generator.uniform(*_FACTORS))


def _to_bytes(values: NDArray[Any]) -> Pixels:
    """Return values as whole numbers from 0 to 255."""
    return values.clip(0, 255).astype(np.uint8)


def _channels_first(image: Pixels) -> Tensor:
    """Return an image (H, W, 3) as a tensor (3, H, W)."""
    return torch.from_numpy(image).permute(2, 0, 1)


def _channels_last(image: Tensor) -> Pixels:
    """Return an image (3, H, W) as an array (H, W, 3)."""
    array: Pixels = image.permute(1, 2, 0).numpy()
    return array
