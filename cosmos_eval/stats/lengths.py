"""Recall by the length of captions, in words: tokens are not comparable between models.

Shapes: N images, M captions, B bins.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import Ints, Mean

_MOST_BINS = 8
_LEAST_CAPTIONS = 100  # in each bin


class LengthBin(NamedTuple):
    """Captions of similar length."""

    # The name of the bin, such as `25-49 words`.
    name: str
    # The number of captions.
    captions: int
    # The share of captions that were cut to the model's context.
    cut: float
    # The share of captions whose image ranks first. Captions of one image depend on each other.
    recall: Mean


def length_bins(
    words: Ints, cut: NDArray[np.bool_], hits: NDArray[np.bool_], image_of_text: Ints
) -> list[LengthBin]:
    """Return the bins of M captions. The list is empty if all captions belong to one bin.

    All arguments are (M,): the number of words of each caption, whether it was cut, whether its
    image ranks first, and the index of the image.
    """
    ends = _ends(words)
    if len(ends) < 2:
        return []
    bin_of_caption = np.searchsorted(ends, words)
    bins = []
    for index, end in enumerate(ends):
        is_inside = bin_of_caption == index
        start = int(words[is_inside].min())
        name = f"{start}-{end} words" if start < end else f"{end} words"
        recall = Mean(hits[is_inside], image_of_text[is_inside])
        bins.append(LengthBin(name, int(is_inside.sum()), float(cut[is_inside].mean()), recall))
    return bins


def _ends(words: Ints) -> list[int]:
    """Return the largest number of words in each bin, from the numbers of words of captions (M,).

    Each bin has at least an eighth of the captions, and at least 100. Captions that would not fill
    another bin belong to the last bin.
    """
    lengths, counts = np.unique(words, return_counts=True)
    least_captions = max(_LEAST_CAPTIONS, len(words) / _MOST_BINS)
    ends, n_captions = [], 0
    for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
        n_captions += count
        if n_captions >= least_captions:
            ends.append(length)
            n_captions = 0
    # The last bin ends at the greatest length, even if the last captions do not fill a bin.
    return [*ends[:-1], *lengths[-1:].tolist()]
