"""Recall by the length of captions. Words are comparable between models, tokens are not.

Shapes: N images, M captions, B bins.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import FunctionOfSums, Ints, Values, ratio

_MOST = 8  # bins
_LEAST = 100  # captions in a bin


class LengthBin(NamedTuple):
    """Captions of some lengths: their name, such as `25-49 words`, how many they are, the share
    that was cut to the model's context, and their recall."""

    name: str
    captions: int
    cut: float
    recall: FunctionOfSums


class _Sums(NamedTuple):
    """Of every image the hits (N, B) and the captions (N, B) in each bin."""

    hits: NDArray[Any]
    captions: NDArray[Any]


def length_bins(
    words: Ints, cut: NDArray[np.bool_], hits: NDArray[np.bool_], image_of_text: Ints
) -> list[LengthBin]:
    """Return bins of captions, whose number of words, cut, hit and image are (M,) each. An image is
    resampled with all its captions. One bin is none: the list is empty."""
    ends = _ends(words)
    if len(ends) < 2:
        return []
    of_caption = np.searchsorted(ends, words)
    cell, size = image_of_text * len(ends) + of_caption, len(ends) * (image_of_text.max() + 1)
    shape, found = (-1, len(ends)), []
    right, counts = np.bincount(cell, hits, size), np.bincount(cell, minlength=size)
    sums = _Sums(right.reshape(shape), counts.reshape(shape))
    for index, end in enumerate(ends):
        own = of_caption == index
        start = int(words[own].min())
        name = f"{start}-{end} words" if start < end else f"{end} words"
        recall = FunctionOfSums(sums, partial(_recall, index), one_by_one=True)
        found.append(LengthBin(name, int(own.sum()), float(cut[own].mean()), recall))
    return found


def _ends(words: Ints) -> list[int]:
    """Return the last length of every bin: each has at least an eighth of the captions, and 100."""
    lengths, counts = np.unique(words, return_counts=True)
    least, ends, n = max(_LEAST, len(words) / _MOST), [], 0
    for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
        n += count
        if n >= least:
            ends.append(length)
            n = 0
    return [*ends[:-1], *lengths[-1:].tolist()]  # the rest belongs to the last bin


def _recall(index: int, sums: Any) -> Values:
    return ratio(sums.hits[..., index], sums.captions[..., index])
