"""What scores highest: the best classes of every image, and caption selection.

Tie rules: of classes that score the same, the one listed first wins. Of captions, what is right
must score strictly higher than everything wrong: a model that gives every pair one score is always
wrong. Scores of captions are sums of D products in the same order, so that equal features tie.
Shapes: N images or items, C classes, I images, T captions, D embedding. Scores of pairs as in
Winoground (Thrush et al. 2022, arXiv 2204.03162, section 3.2), with images i0, i1 and their
captions c0, c1: text: s(c0, i0) > s(c1, i0) and s(c1, i1) > s(c0, i1); image: s(c0, i0) > s(c0, i1)
and s(c1, i1) > s(c1, i0); group: both.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import Features, Ints, first_equal, require_finite

Score = Callable[[Ints, Ints], NDArray[np.float32]]
"""Indices of images (K,) and captions (K,) -> scores (K,)."""

TOP = 5
PAIRS = 10
_BLOCK_BYTES = 64 << 20  # of float32 scores or products


def top_classes(image_features: Features, class_embeddings: Features, k: int = TOP) -> Ints:
    """Return the min(k, C) best classes of (N, D) images by product with (C, D), best first. Raises
    ValueError for features that are not finite."""
    require_finite(image_features, class_embeddings)
    best = np.empty((len(image_features), min(k, len(class_embeddings))), np.int64)
    first = first_equal(class_embeddings)
    twins = np.flatnonzero(first != np.arange(len(first)))
    at_once = max(1, _BLOCK_BYTES // (4 * len(class_embeddings)))
    for start in range(0, len(best), at_once):
        scores = image_features[start : start + at_once] @ class_embeddings.T
        scores[:, twins] = scores[:, first[twins]]  # BLAS may round equal columns differently
        rows = np.arange(len(scores))
        # A maximum per pass is faster than a sort for few k, and argmax takes the first of equals.
        for place in range(best.shape[1]):
            best[start + rows, place] = found = scores.argmax(axis=1)
            scores[rows, found] = -np.inf
    return best


class ConfusedPair(NamedTuple):
    """How many `images` of class `true` were given class `predicted` instead."""

    true: int
    predicted: int
    images: int


def confusion_pairs(labels: Ints, predicted: Ints, k: int = PAIRS) -> list[ConfusedPair]:
    """Return the k most frequent mistakes of (N,) labels and predictions, most frequent first. Of
    equally frequent ones the lower true class, then the lower predicted class comes first."""
    mistakes = np.stack([labels, predicted], axis=1)[labels != predicted]
    pairs, counts = np.unique(mistakes, axis=0, return_counts=True)
    # np.unique sorts by true and predicted class, which a stable sort keeps among equals.
    order = np.argsort(-counts, kind="stable")[:k]
    return [ConfusedPair(*map(int, (*pairs[i], counts[i]))) for i in order]


class PairHits(NamedTuple):
    """Whether each image of a pair finds its caption, each caption its image: (N,) each."""

    text: NDArray[np.bool_]
    image: NDArray[np.bool_]


def single_hits(
    score: Score, image_of_item: Ints, captions_of_item: Sequence[Ints]
) -> NDArray[np.bool_]:
    """Return whether an item's image scores its first caption highest, (N,). `image_of_item` (N,)
    and `captions_of_item`, two or more an item, are indices of both."""
    lengths = np.array([len(some) for some in captions_of_item])
    starts = np.cumsum(lengths) - lengths
    rows = np.concatenate(captions_of_item)
    scores = score(np.repeat(image_of_item, lengths), rows).copy()
    right = scores[starts].copy()
    scores[starts] = -np.inf
    return right > np.maximum.reduceat(scores, starts)


def pair_hits(score: Score, images_of_item: Ints, captions_of_item: Ints) -> PairHits:
    """Return the hits of pairs: (N, 2) indices of images and of captions."""
    rows = np.repeat(images_of_item, 2, axis=1).ravel()
    columns = np.tile(captions_of_item, (1, 2)).ravel()
    s = score(rows, columns).reshape(-1, 2, 2)  # s[:, image, caption]
    return PairHits(
        text=(s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0]),
        image=(s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1]),
    )


def products(images: Features, captions: Features) -> Score:
    """Return the scores by products of (I, D) with (T, D) features: not a matrix product, whose
    columns may be summed in different orders. Raises ValueError for features not finite."""
    require_finite(images, captions)

    def score(rows: Ints, columns: Ints) -> NDArray[np.float32]:
        at_once = max(1, _BLOCK_BYTES // (4 * images.shape[1]))
        blocks = [slice(a, a + at_once) for a in range(0, len(rows), at_once)]
        found = [(images[rows[some]] * captions[columns[some]]).sum(axis=1) for some in blocks]
        return np.concatenate(found)

    return score
