"""Pixels on a page."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def find_pixels(page: NDArray[Any], pixels: NDArray[Any]) -> list[tuple[int, int]]:
    """Rows and columns of the upper left corners of all places where a page shows pixels."""
    height, width, _ = pixels.shape
    red, green, blue = (page[..., n] == pixels[0, 0, n] for n in range(3))
    starts = np.argwhere(red & green & blue).tolist()
    ends = ((y, x, page[y : y + height, x : x + width]) for y, x in starts)
    return [(y, x) for y, x, part in ends if np.array_equal(part, pixels)]
