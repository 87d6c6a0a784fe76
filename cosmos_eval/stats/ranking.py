"""Ranks of all positives of a query, and the precision and recall that follow from them.

In plain terms, for the scores of all items that are neither positives nor junk of a query, and the
scores of its positives from the best to the worst:

    rank[j] = 1 + j + (negative_scores >= positive_scores[j]).sum()

Junk is removed before ranking. Tie rule: a negative with the same score counts as above a positive.
Items with equal features always tie, although BLAS may round equal rows of a block differently.

Shapes: Q queries, G items of the gallery, P positives of all queries, p positives of a query.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import first_equal, require_finite

_BLOCK_BYTES = 64 << 20  # of the scores of some queries with the whole gallery

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class RankedPositives(NamedTuple):
    """The positives of a query from the best to the worst score."""

    # (p,): their indices in the gallery.
    items: Ints
    # (p,): their ranks, from 1, which rise.
    ranks: Ints


def rank_positives(
    query_features: Floats,
    gallery_features: Floats,
    positives: Sequence[Ints],
    junk: Sequence[Ints],
) -> list[RankedPositives]:
    """Return the ranks of the positives of each query in the gallery without its junk.

    Args:
        query_features: (Q, D), the embeddings of the queries.
        gallery_features: (G, D), the embeddings of the items that are ranked.
        positives: For each query, the indices (p,) of its positives in the gallery.
        junk: For each query, the indices of items that are removed from its ranking.

    Raises:
        ValueError: Features are not finite.

    Example:
        A query has the scores [0.9, 0.5, 0.7, 0.8] with four items. Items 1 and 2 are its
        positives, and item 0 is junk. Item 2 has rank 2, after item 3, and item 1 has rank 3.
    """
    require_finite(query_features, gallery_features)
    # Equal features have one score, whatever the rounding of a matrix product.
    first_item = first_equal(gallery_features)
    n_queries = len(query_features)
    block_size = max(1, _BLOCK_BYTES // (4 * len(gallery_features)))
    rankings = []
    for start in range(0, n_queries, block_size):
        block = query_features[start : start + block_size]
        scores = (block @ gallery_features.T)[:, first_item]
        for row, query in zip(scores, range(start, n_queries), strict=False):
            rankings.append(_rank_row(row, positives[query], junk[query]))
    return rankings


def _rank_row(scores: Floats, positives: Ints, junk: Ints) -> RankedPositives:
    """Return the positives of a query with their ranks.

    Args:
        scores: (G,), the scores of the query with all items.
        positives: The indices of its positives.
        junk: The indices of the items that are removed.
    """
    is_negative = np.ones(len(scores), np.bool_)
    is_negative[positives] = False
    is_negative[junk] = False
    negative_scores = scores[is_negative]
    order = np.argsort(-scores[positives], kind="stable")
    items = positives[order]
    n_above = [np.count_nonzero(negative_scores >= score) for score in scores[items]]
    ranks = 1 + np.arange(len(items)) + np.array(n_above, np.int64)
    return RankedPositives(items, ranks)


def recall_at(ranks: Ints, k: int) -> float:
    """Return 1 if the best positive of a query has a rank of at most k, and 0 otherwise.

    `ranks` (p,) are the ranks of its positives, which rise, here and below.
    """
    return float(ranks[0] <= k)


def r_precision(ranks: Ints) -> float:
    """Return the fraction of positives among the first R items, for R positives.

    For example, the ranks [1, 3, 4] have R = 3, and 2 of the first 3 items are positives: 2/3.
    """
    return float(np.count_nonzero(ranks <= len(ranks)) / len(ranks))


def average_precision_at(ranks: Ints, k: int) -> float:
    """Return the sum of the precisions at the positives among the first k items, over min(k, R).

    With k = R, the number of positives, it is the average precision at R of ECCV Caption (arXiv
    2204.03359, eccv_caption/_metrics.py); otherwise it is the formula of CIRCO (arXiv 2303.15247,
    src/evaluation.py).

    For example, the ranks [1, 3, 4] with k = 3 have the precisions 1 and 2/3: (1 + 2/3) / 3 = 5/9.
    """
    precisions = np.arange(1, len(ranks) + 1) / ranks
    return float(precisions[ranks <= k].sum() / min(k, len(ranks)))


def modified_precision_at(ranks: Ints, k: int) -> float:
    """Return the fraction of positives among the first min(k, R) items, for R positives.

    Its mean over queries is mMP@k of UnED (arXiv 2309.01858, universal_embedding/knn_utils.py of
    github.com/nikosips/Universal-Image-Embeddings).

    For example, the ranks [1, 3] have 1/2 for every k from 2 on: one of the first 2 items.
    """
    n_items = min(k, len(ranks))
    return float(np.count_nonzero(ranks <= n_items) / n_items)


def interpolated_average_precision(ranks: Ints) -> float:
    """Return the area under precision by recall, between positives by trapezoids.

    It is the rule of revisited Oxford and Paris (arXiv 1803.11285, python/evaluate.py of
    github.com/filipradenovic/revisitop): the precision before and at each positive are averaged.

    For example, the ranks [1, 3] have the precisions 1 before and at the first positive, and 1/2
    before and 2/3 at the second one: (1 + 7/12) / 2 = 19/24.
    """
    n_before = np.arange(len(ranks))
    precision_before = np.ones(len(ranks))
    np.divide(n_before, ranks - 1, out=precision_before, where=ranks > 1)
    precision_at = (n_before + 1) / ranks
    return float((precision_before + precision_at).mean() / 2)


def precision_at(ranks: Ints, k: int) -> float:
    """Return the fraction of positives among the first k items, or up to the last positive.

    If the last positive has a lower rank than k, it takes the place of k, as in `compute_map` of
    revisited Oxford and Paris. For example, the ranks [1, 3] have 2/3 for every k from 3 on.
    """
    last = min(int(ranks[-1]), k)
    return float(np.count_nonzero(ranks <= last) / last)
