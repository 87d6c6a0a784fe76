"""Recall by the length of captions. Words are comparable between models, tokens are not.

Shapes: N images, M captions, B bins.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import Ints, Mean

_MOST = 8  # bins
_LEAST = 100  # captions in a bin


class LengthBin(NamedTuple):
    """Captions of similar length.

    - `name`: their lengths, such as `25-49 words`.
    - `captions`: how many they are.
    - `cut`: the share that was cut to the model's context.
    - `recall`: the share whose image ranks first. Captions of one image depend on each other.
    """

    name: str
    captions: int
    cut: float
    recall: Mean


def length_bins(
    words: Ints, cut: NDArray[np.bool_], hits: NDArray[np.bool_], image_of_text: Ints
) -> list[LengthBin]:
    """Return bins of captions, whose number of words, cut, hit and image are (M,) each. The list is
    empty if all captions belong to one bin."""
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
    """Return the last length of every bin: each has at least an eighth of the captions, and 100."""
    lengths, counts = np.unique(words, return_counts=True)
    least, ends, n = max(_LEAST, len(words) / _MOST), [], 0
    for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
        n += count
        if n >= least:
            ends.append(length)
            n = 0
    return [*ends[:-1], *lengths[-1:].tolist()]  # the rest belongs to the last bin
