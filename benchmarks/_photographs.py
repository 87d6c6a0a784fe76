"""Made-up photographs as JPEG files: detail of all sizes as in nature, with sharp-edged things."""

from __future__ import annotations

import io

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image

SIZE = (500, 375)  # width, height: ImageNet's most frequent
QUALITIES = (85, 91)
SHAPES = 6
COMMON, OWN = 40.0, 20.0  # contrast of what the colours share, and of each by itself


def jpegs(count: int, size: tuple[int, int] = SIZE) -> list[bytes]:
    """The same `count` files of a size (width, height) every time."""
    return [_jpeg(np.random.default_rng(seed), size) for seed in range(count)]


def _jpeg(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    quality = int(rng.integers(*QUALITIES))
    PIL.Image.fromarray(_picture(rng, size)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _picture(rng: np.random.Generator, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    width, height = size
    shared = _noise(rng, size, 1.2)
    levels = [128 + COMMON * shared + OWN * _noise(rng, size, 1.5) for _ in range(3)]
    pixels = np.ascontiguousarray(np.stack(levels, axis=-1).clip(0, 255).astype(np.uint8))
    for _ in range(SHAPES):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(8, 90)), int(rng.integers(8, 90)))
        colour = tuple(int(level) for level in rng.integers(0, 256, 3))
        cv2.ellipse(pixels, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return pixels


def _noise(
    rng: np.random.Generator, size: tuple[int, int], slope: float
) -> npt.NDArray[np.float64]:
    """Noise whose amplitude falls with frequency to the power `slope`; mean 0, deviation 1."""
    width, height = size
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = np.maximum(np.hypot(rows, columns), 1 / width) ** -slope
    phase = np.exp(2j * np.pi * rng.random(amplitude.shape))
    noise = np.fft.irfft2(amplitude * phase, s=(height, width))
    return (noise - noise.mean()) / noise.std()
