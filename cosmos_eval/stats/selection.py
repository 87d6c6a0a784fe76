"""Caption selection: of captions alike but for a detail, does the right one score highest?

Tie rule: what is right must score strictly higher than everything wrong. A model that gives every
pair one score is thereby always wrong, not always right. Every score is a sum of D products taken
in the same order, so that equal features tie to the last bit.

Shapes: N items, I images, T captions, D embedding. Scores of pairs as in Winoground
(Thrush et al. 2022, arXiv 2204.03162, section 3.2), with images i0, i1 and their captions c0, c1:
text: s(c0, i0) > s(c1, i0) and s(c1, i1) > s(c0, i1); image: s(c0, i0) > s(c0, i1) and
s(c1, i1) > s(c1, i0); group: both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import require_finite

_BLOCK_BYTES = 64 << 20  # of float32 products


class PairHits(NamedTuple):
    """Whether each image of a pair finds its caption, each caption its image: (N,) each."""

    text: NDArray[np.bool_]
    image: NDArray[np.bool_]


def single_hits(
    images: NDArray[np.float32],
    captions: NDArray[np.float32],
    image_of_item: NDArray[np.integer],
    captions_of_item: Sequence[NDArray[np.integer]],
) -> NDArray[np.bool_]:
    """Return whether an item's image (I, D) scores its first caption (T, D) highest, (N,).

    `image_of_item` (N,) and `captions_of_item`, two or more an item, are rows of the features.
    Raises ValueError for features that are not finite.
    """
    require_finite(images, captions)
    lengths = np.array([len(some) for some in captions_of_item])
    starts = np.cumsum(lengths) - lengths
    rows = np.concatenate(captions_of_item)
    scores = _scores(images, captions, np.repeat(image_of_item, lengths), rows)
    right = scores[starts].copy()
    scores[starts] = -np.inf
    return right > np.maximum.reduceat(scores, starts)


def pair_hits(
    images: NDArray[np.float32],
    captions: NDArray[np.float32],
    images_of_item: NDArray[np.integer],
    captions_of_item: NDArray[np.integer],
) -> PairHits:
    """Return the hits of pairs: (N, 2) rows of image (I, D) and caption (T, D) features.

    Raises ValueError for features that are not finite.
    """
    require_finite(images, captions)
    rows = np.repeat(images_of_item, 2, axis=1).ravel()
    columns = np.tile(captions_of_item, (1, 2)).ravel()
    # s[:, image, caption]
    s = _scores(images, captions, rows, columns).reshape(-1, 2, 2)
    return PairHits(
        text=(s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0]),
        image=(s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1]),
    )


def _scores(
    images: NDArray[np.float32],
    captions: NDArray[np.float32],
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Products of the named rows of both, (K,): not a matrix product, whose columns may be summed
    in different orders."""
    at_once = max(1, _BLOCK_BYTES // (4 * images.shape[1]))
    blocks = [slice(a, a + at_once) for a in range(0, len(rows), at_once)]
    return np.concatenate(
        [(images[rows[some]] * captions[columns[some]]).sum(axis=1) for some in blocks]
    )
