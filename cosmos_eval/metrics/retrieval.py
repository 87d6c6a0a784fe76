"""Image-text retrieval: ranks by counting, recall at K, mean and median rank.

Tie rule: an item that scores the same as the best positive counts as above it, unless it is a
positive itself. A model that gives every pair one score is thereby ranked last, not first.

Shapes: N images, M texts, D embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

RECALL_AT = (1, 5, 10)
_BLOCK_BYTES = 64 << 20  # of float32 scores


class RetrievalRanks(NamedTuple):
    """Rank of the best positive of every query, from 1: (N,) images, (M,) texts, int64."""

    image_to_text: NDArray[np.int64]
    text_to_image: NDArray[np.int64]


def retrieval_ranks(
    image_features: NDArray[np.float32],
    text_features: NDArray[np.float32],
    image_of_text: ArrayLike,
) -> RetrievalRanks:
    """Ranks both ways by the product of (N, D) image and (M, D) text features.

    `image_of_text` (M,) holds the row of each text's image. Raises ValueError for an image
    without text, an index out of range, and features that are not finite.
    """
    owner = np.asarray(image_of_text)
    _require_sound(image_features, text_features, owner)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(image_features) + 1))
    one_each = np.arange(len(text_features) + 1)
    return RetrievalRanks(
        _best_ranks(image_features, text_features, _Positives(order, starts)),
        _best_ranks(text_features, image_features, _Positives(owner, one_each)),
    )


def retrieval_metrics(ranks: RetrievalRanks) -> dict[str, float]:
    """`{direction}_R@1|5|10` in [0, 1], `{direction}_mean_rank` and `_median_rank` from 1.

    The median of an even number of ranks is the mean of the two in the middle.
    """
    metrics: dict[str, float] = {}
    for direction, values in ranks._asdict().items():
        for k, share in zip(RECALL_AT, recalled(values).mean(axis=0), strict=True):
            metrics[f"{direction}_R@{k}"] = float(share)
        metrics[f"{direction}_mean_rank"] = float(values.mean())
        metrics[f"{direction}_median_rank"] = float(np.median(values))
    return metrics


def recalled(ranks: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(Q,) ranks -> (Q, 3): whether a query's best positive is among the top 1, 5 and 10."""
    return ranks[:, None] <= np.array(RECALL_AT)


class _Positives(NamedTuple):
    """Item numbers of every query's positives: those of q are items[starts[q] : starts[q + 1]]."""

    items: NDArray[np.integer]
    starts: NDArray[np.integer]


def _best_ranks(
    queries: NDArray[np.float32], items: NDArray[np.float32], positives: _Positives
) -> NDArray[np.int64]:
    """Rank of the best positive of (Q, D) queries among (I, D) items, a block of rows at a time.

    A positive's score is read from the very product it is compared with: computed apart, it would
    differ in the last bit and be outranked by itself.
    """
    rows_at_once = max(1, _BLOCK_BYTES // (4 * len(items)))
    ranks = np.empty(len(queries), dtype=np.int64)
    for a in range(0, len(queries), rows_at_once):
        scores = queries[a : a + rows_at_once] @ items.T
        starts = positives.starts[a : a + len(scores) + 1]
        row = np.repeat(np.arange(len(scores)), np.diff(starts))
        offsets = starts[:-1] - starts[0]
        own = scores[row, positives.items[starts[0] : starts[-1]]]
        best = np.maximum.reduceat(own, offsets)
        own_at_best = np.add.reduceat((own == best[row]).astype(np.int64), offsets)
        at_least = np.count_nonzero(scores >= best[:, None], axis=1)
        ranks[a : a + len(scores)] = 1 + at_least - own_at_best
    return ranks


def _require_sound(
    images: NDArray[np.float32], texts: NDArray[np.float32], owner: NDArray[np.integer]
) -> None:
    if owner.shape != (len(texts),):
        raise ValueError(f"{len(texts)} texts need as many image numbers, not {owner.shape}")
    if not np.array_equal(np.unique(owner), np.arange(len(images))):
        raise ValueError(f"every one of the {len(images)} images needs a text, and no other")
    if not (np.isfinite(images).all() and np.isfinite(texts).all()):
        raise ValueError("features hold NaN or infinity")
