"""Pixels on a page."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def find_pixels(page: NDArray[Any], pixels: NDArray[Any]) -> list[tuple[int, int]]:
    """Return row and column of the upper left corner of every place where a page shows pixels."""
    height, width, _ = pixels.shape
    red, green, blue = (page[..., n] == pixels[0, 0, n] for n in range(3))
    starts = np.argwhere(red & green & blue).tolist()
    return [
        (y, x) for y, x in starts if np.array_equal(page[y : y + height, x : x + width], pixels)
    ]
