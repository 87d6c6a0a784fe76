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
    """Divide captions into bins of similar length, and return the recall of each bin.

    Args:
        words: (M,), the number of words of each caption.
        cut: (M,), whether the caption was cut to the model's context, because it is too long.
        hits: (M,), whether the caption's image ranks first.
        image_of_text: (M,), the index of each caption's image.

    Returns:
        The bins, the shortest captions first. The list is empty if all captions belong to one bin.
    """
    # Find the largest number of words in each bin, such as [9, 24, 70] for bins up to 9, 10 to 24
    # and 25 to 70 words. Lengths are added to a bin, from the shortest on, until the bin is large
    # enough. Captions that do not fill another bin belong to the last one.
    least_captions = max(_LEAST_CAPTIONS, len(words) / _MOST_BINS)
    lengths, counts = np.unique(words, return_counts=True)
    longest_of_bins = []
    n_captions = 0  # in the current bin
    for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
        n_captions += count
        if n_captions >= least_captions:
            longest_of_bins.append(length)
            n_captions = 0
    if len(longest_of_bins) < 2:
        return []
    longest_of_bins[-1] = int(lengths[-1])

    # With bins up to 9 and up to 24 words, captions of 9 and 10 words are in bins 0 and 1.
    bin_of_caption = np.searchsorted(longest_of_bins, words)
    bins = []
    for index, longest in enumerate(longest_of_bins):
        is_inside = bin_of_caption == index
        shortest = int(words[is_inside].min())
        range_text = f"{shortest}-{longest}" if shortest < longest else f"{longest}"
        length_bin = LengthBin(
            name=f"{range_text} words",  # such as "10-24 words"
            captions=int(is_inside.sum()),
            cut=float(cut[is_inside].mean()),
            recall=Mean(hits[is_inside], image_of_text[is_inside]),
        )
        bins.append(length_bin)
    return bins
