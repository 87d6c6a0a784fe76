"""Changes of colour and sharpness, by OpenCV: each is Pillow's of the same parameters.

All take and return uint8 RGB pixels (H, W, 3). Brightness, contrast, saturation and grey differ
from Pillow's by at most one grey level, because Pillow cuts fractions off where OpenCV rounds.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]

BLUR_PASSES = 3  # Pillow's GaussianBlur
HUES_TO_BYTES, BYTES_TO_HUES = 256, 255  # hues in a turn: OpenCV's RGB2HSV_FULL and back
SOLARIZE_THRESHOLD = 128
_LUMA = np.tile(np.array([0.299, 0.587, 0.114], dtype=np.float32), (3, 1))  # Pillow's mode L
_IDENTITY = np.eye(3, dtype=np.float32)
_LEVELS = np.arange(256, dtype=np.uint8)
_SOLARIZED = np.where(_LEVELS < SOLARIZE_THRESHOLD, _LEVELS, 255 - _LEVELS)


def flip(view: Pixels) -> Pixels:
    """Left and right exchanged."""
    return cv2.flip(view, 1)


def brightness(view: Pixels, factor: float) -> Pixels:
    """Every channel times `factor` (>= 0)."""
    return cv2.addWeighted(view, factor, view, 0, 0)


def contrast(view: Pixels, factor: float) -> Pixels:
    """Away from the mean grey of the view, by `factor` (>= 0)."""
    mean = round(cv2.mean(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY))[0])
    return cv2.addWeighted(view, factor, view, 0, mean * (1 - factor))


def saturation(view: Pixels, factor: float) -> Pixels:
    """Away from the grey of each pixel, by `factor` (>= 0)."""
    return cv2.transform(view, factor * _IDENTITY + (1 - factor) * _LUMA)


def hue(view: Pixels, turns: float) -> Pixels:
    """Hues turned by `turns` of a circle.

    Hue, saturation and value are rounded to bytes in between, so that single channels come out
    some levels off, at most 7. Pillow's bytes, whose fractions are cut off, are farther off.
    """
    hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)
    turned = np.rint((_LEVELS / HUES_TO_BYTES + turns) % 1 * BYTES_TO_HUES).astype(np.uint8)
    hsv[..., 0] = cv2.LUT(hsv[..., 0], turned)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def grey(view: Pixels) -> Pixels:
    """Luma in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def solarize(view: Pixels) -> Pixels:
    """Levels from the threshold on inverted; equal to Pillow's."""
    return cv2.LUT(view, _SOLARIZED)


def blur(view: Pixels, radius: float) -> Pixels:
    """Pillow's GaussianBlur of a standard deviation of `radius` pixels (> 0).

    Pillow rounds after each of six passes, this once: at most three grey levels apart in the
    interior. At the border Pillow repeats the edge before each pass, this before the first.
    """
    kernel = blur_kernel(radius)
    return cv2.sepFilter2D(view, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


def blur_kernel(radius: float) -> npt.NDArray[np.float32]:
    """The weights of Pillow's blur along one axis: three box filters of fractional width.

    A box is 2n + 1 whole pixels and a part of the next on either side, so chosen that three have
    the variance of the Gaussian: P. Gwosdek et al., Theoretical Foundations of Gaussian Convolution
    by Extended Box Filtering, 2011.
    """
    variance = radius**2 / BLUR_PASSES
    n = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * n + 1) * (variance - n * (n + 1) / 3) / (2 * ((n + 1) ** 2 - variance))
    box = np.ones(2 * n + 3)
    box[[0, -1]] = part
    box /= box.sum()
    return np.convolve(np.convolve(box, box), box).astype(np.float32)
