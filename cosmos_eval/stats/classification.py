"""Zero-shot classification: best classes of every image, accuracy, recall, frequent mistakes.

Tie rule: of classes that score the same, the one listed first wins.

Shapes: N images, C classes, D embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import require_finite

TOP = 5
PAIRS = 10
_BLOCK_BYTES = 64 << 20  # of float32 scores


def top_classes(
    image_features: NDArray[np.float32], class_embeddings: NDArray[np.float32], k: int = TOP
) -> NDArray[np.int64]:
    """Return the min(k, C) best classes of (N, D) images by product with (C, D), best first.

    Raises ValueError for features that are not finite.
    """
    require_finite(image_features, class_embeddings)
    rows_at_once = max(1, _BLOCK_BYTES // (4 * len(class_embeddings)))
    best = [
        _top_columns(image_features[start : start + rows_at_once] @ class_embeddings.T, k)
        for start in range(0, len(image_features), rows_at_once)
    ]
    return np.concatenate(best)


class ConfusedPair(NamedTuple):
    """How many `images` of class `true` were given class `predicted` instead."""

    true: int
    predicted: int
    images: int


def confusion_pairs(
    labels: NDArray[np.integer], predicted: NDArray[np.integer], k: int = PAIRS
) -> list[ConfusedPair]:
    """Return the k most frequent mistakes of (N,) labels and predictions, most frequent first.

    Of equally frequent ones the lower true class, then the lower predicted class comes first.
    """
    wrong = labels != predicted
    mistakes = np.stack([labels[wrong], predicted[wrong]], axis=1)
    pairs, counts = np.unique(mistakes, axis=0, return_counts=True)
    # np.unique sorts by true and predicted class, which a stable sort keeps among equals.
    order = np.argsort(-counts, kind="stable")[:k]
    return [ConfusedPair(int(pairs[i, 0]), int(pairs[i, 1]), int(counts[i])) for i in order]


def _top_columns(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the columns of the k greatest scores of every row; overwrites `scores`.

    A maximum a pass is faster than a sort for few k, and argmax takes the first of equals.
    """
    rows = np.arange(len(scores))
    best = np.empty((len(scores), min(k, scores.shape[1])), dtype=np.int64)
    for place in range(best.shape[1]):
        best[:, place] = scores.argmax(axis=1)
        scores[rows, best[:, place]] = -np.inf
    return best
