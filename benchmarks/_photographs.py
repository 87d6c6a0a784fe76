"""Made-up photographs as JPEG files: detail of all sizes as in nature, with sharp-edged things."""

from __future__ import annotations

import io

import cv2
import numpy as np
import numpy.typing as npt
import PIL.Image

SIZE = (500, 375)  # width, height: ImageNet's most frequent
QUALITIES = (85, 91)  # the range of JPEG qualities, without its end
N_SHAPES = 6
# The contrast, in levels of 8 bits, of the noise that all colours share and of that of each colour.
SHARED_CONTRAST, COLOUR_CONTRAST = 40.0, 20.0


def jpegs(count: int, size: tuple[int, int] = SIZE) -> list[bytes]:
    """Return `count` JPEG files of a size (width, height), which are the same every time."""
    return [_jpeg(np.random.default_rng(seed), size) for seed in range(count)]


def _jpeg(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    """Return a JPEG file of a size (width, height) and a random quality."""
    file = io.BytesIO()
    quality = int(rng.integers(*QUALITIES))
    PIL.Image.fromarray(_picture(rng, size)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _picture(rng: np.random.Generator, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return pixels (height, width, 3): noise in colours, with filled ellipses on it."""
    width, height = size
    shared_noise = SHARED_CONTRAST * _noise(rng, size, 1.2)
    channels = []
    for _ in range(3):
        channels.append(128 + shared_noise + COLOUR_CONTRAST * _noise(rng, size, 1.5))
    pixels = np.ascontiguousarray(np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8))
    for _ in range(N_SHAPES):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(8, 90)), int(rng.integers(8, 90)))
        colour = tuple(int(level) for level in rng.integers(0, 256, 3))
        cv2.ellipse(pixels, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return pixels


def _noise(
    rng: np.random.Generator, size: tuple[int, int], slope: float
) -> npt.NDArray[np.float64]:
    """Return noise (height, width) with the mean 0 and the standard deviation 1.

    Its amplitude is proportional to 1 / frequency ** slope.

    Args:
        rng: The generator of the phases.
        size: The width and height in pixels.
        slope: How fast the amplitude falls. Detail is finer for a smaller slope.
    """
    width, height = size
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    amplitude = np.maximum(np.hypot(rows, columns), 1 / width) ** -slope
    phase = np.exp(2j * np.pi * rng.random(amplitude.shape))
    noise = np.fft.irfft2(amplitude * phase, s=(height, width))
    return (noise - noise.mean()) / noise.std()
