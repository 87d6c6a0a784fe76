"""Image-text retrieval: the rank of the best positive of every query, by counting.

Tie rule: an item that scores the same as the best positive counts as above it, unless it is a
positive itself. A model that gives every pair one score is thereby ranked last, not first. Equal
features tie whatever BLAS makes of them: its kernels may round equal rows of a block differently.

Shapes: N images, M texts, D embedding.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cosmos_eval.stats.estimates import first_equal, require_finite

# Of float32 scores at a time: they stay in the cache while they are compared twice.
_BLOCK_BYTES = 4 << 20


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
    n_images, n_texts = len(image_features), len(text_features)
    if owner.shape != (n_texts,):
        raise ValueError(f"{n_texts} texts need as many image numbers, not {owner.shape}")
    if not np.array_equal(np.unique(owner), np.arange(n_images)):
        raise ValueError(f"every one of the {n_images} images needs a text, and no other")
    require_finite(image_features, text_features)
    order = np.argsort(owner, kind="stable")
    matrix = _Matrix(image_features, text_features, order, owner[order])
    bands = list(_bands(matrix))
    ranks = _count(matrix, bands, *_best_positives(matrix, bands))
    return ranks._replace(text_to_image=ranks.text_to_image[np.argsort(order)])


class _Matrix(NamedTuple):
    """The scores of all texts with all images, of which one block is computed at a time.

    Rows are texts in the order of their images, whose numbers are `owner` (M,): positives lie in
    blocks along the diagonal. `order` (M,) holds the indices of the rows in `texts` (M, D). Columns
    are `images` (N, D).
    """

    images: NDArray[np.float32]
    texts: NDArray[np.float32]
    order: NDArray[np.int64]
    owner: NDArray[np.integer]

    def features(self, rows: slice) -> NDArray[np.float32]:
        """(rows, D) features of these texts."""
        return self.texts[self.order[rows]]

    def scores(self, features: NDArray[np.float32], columns: slice) -> NDArray[np.float32]:
        """(rows, columns): the block of texts with these features."""
        return features @ self.images[columns].T

    def own(self, block: NDArray[Any], rows: slice, columns: slice) -> NDArray[Any]:
        """(rows,) every text's value with its own image, out of a block that holds it."""
        return block[np.arange(len(block)), self.owner[rows] - columns.start]


class _Band(NamedTuple):
    """Some images, and all of their texts in blocks."""

    columns: slice
    rows: list[slice]


def _bands(matrix: _Matrix) -> Iterator[_Band]:
    """Blocks on the diagonal, as even as can be: BLAS rounds differently in much smaller ones."""
    wide = max(1, math.isqrt(_BLOCK_BYTES // 16))
    high = max(1, _BLOCK_BYTES // (4 * wide))
    for columns in _even_slices(0, len(matrix.images), wide):
        first, last = np.searchsorted(matrix.owner, [columns.start, columns.stop]).tolist()
        yield _Band(columns, list(_even_slices(first, last, high)))


def _even_slices(start: int, stop: int, most: int) -> Iterator[slice]:
    """As few slices as hold no more than `most` each; their lengths are one apart."""
    edges = np.linspace(start, stop, 1 + math.ceil((stop - start) / most)).astype(int).tolist()
    return (slice(a, b) for a, b in pairwise(edges))


def _best_positives(
    matrix: _Matrix, bands: list[_Band]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the best positive's score of every image (N,) and row (M,).

    They are read from the blocks that they are later compared with, since scores computed in any
    other way would differ in the last bit, and be outranked by themselves.
    """
    of_image = np.full(len(matrix.images), -np.inf, np.float32)
    of_row = np.empty(len(matrix.texts), np.float32)
    for band in bands:
        for rows in band.rows:
            scores = matrix.scores(matrix.features(rows), band.columns)
            of_row[rows] = matrix.own(scores, rows, band.columns)
            np.maximum.at(of_image, matrix.owner[rows], of_row[rows])
    return of_image, of_row


def _count(
    matrix: _Matrix, bands: list[_Band], of_image: NDArray[np.float32], of_row: NDArray[np.float32]
) -> RetrievalRanks:
    """Ranks of images and of rows: one, and what is no positive and no worse than the best."""
    ranks = RetrievalRanks(np.ones(len(matrix.images), int), np.ones(len(matrix.texts), int))
    image, row = first_equal(matrix.images), first_equal(matrix.texts)[matrix.order]
    image_repeats, row_repeats = _repeats(image), _repeats(row)
    best = np.empty_like(image)  # the first equal of the best positive text of every image
    is_best = of_row == of_image[matrix.owner]
    best[matrix.owner[is_best]] = row[is_best]
    for home in bands:
        for rows in home.rows:
            features, owner = matrix.features(rows), matrix.owner[rows]
            for band in bands:
                columns = band.columns
                scores = matrix.scores(features, columns)
                above = scores >= of_row[rows, None]
                _add_equals(above, image[owner], image[columns], image_repeats[owner])
                ranks.text_to_image[rows] += np.count_nonzero(above, axis=1)
                if band is home:
                    ranks.text_to_image[rows] -= matrix.own(above, rows, columns)
                above = scores >= of_image[columns]
                _add_equals(above, row[rows], best[columns], row_repeats[rows])
                ranks.image_to_text[columns] += np.count_nonzero(above, axis=0)
                if band is home:
                    np.subtract.at(ranks.image_to_text, owner, matrix.own(above, rows, columns))
    return ranks


def _repeats(first: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether features (N,) have an equal, by the index of the first equal one."""
    return np.bincount(first, minlength=len(first))[first] > 1


def _add_equals(
    above: NDArray[np.bool_],
    of_rows: NDArray[np.int64],
    of_columns: NDArray[np.int64],
    row_repeats: NDArray[np.bool_],
) -> None:
    """Count as above (rows, columns) what has the features of the best positive, by first equals.

    A row whose features no other has equals at most its own best positive, whose score is its own.
    """
    repeated = np.flatnonzero(row_repeats)
    equal = repeated[np.isin(of_rows[repeated], of_columns)]
    above[equal] |= of_rows[equal, None] == of_columns


class Candidates(NamedTuple):
    """The items that each query is ranked anew with: (N, k) texts of images, (M, l) images of
    texts."""

    texts: NDArray[np.int64]
    images: NDArray[np.int64]


def best_candidates(
    image_features: NDArray[np.float32], text_features: NDArray[np.float32], k: int
) -> Candidates:
    """Find the min(k, all) best texts of (N, D) images and images of (M, D) texts, by product. Of
    equal scores the lower index comes first. Raises ValueError for features not finite."""
    require_finite(image_features, text_features)
    return Candidates(
        texts=_best(image_features, text_features, k),
        images=_best(text_features, image_features, k),
    )


def _best(queries: NDArray[np.float32], items: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the sorted indices (Q, min(k, n)) of each query's best items."""
    k = min(k, len(items))
    found = np.empty((len(queries), k), np.int64)
    for rows in _even_slices(0, len(queries), max(1, _BLOCK_BYTES // (4 * len(items)))):
        scores = queries[rows] @ items.T
        least = np.partition(scores, -k, axis=1)[:, -k, None]
        above, equal = scores > least, scores == least
        left = k - above.sum(axis=1, keepdims=True)
        best = above | (equal & (equal.cumsum(axis=1) <= left))
        found[rows] = np.nonzero(best)[1].reshape(-1, k)
    return found


def ranks_of_pairs(
    candidates: Candidates,
    score: Callable[[Any, Any], NDArray[np.float32]],
    image_of_text: ArrayLike,
    first: RetrievalRanks,
) -> RetrievalRanks:
    """Rank the candidates of every query by their `score(images, texts)`, by indices of one shape.
    What is no candidate stays behind them, in the order of `first`, by which a query without a
    positive candidate keeps its rank."""
    owner = np.asarray(image_of_text)

    def of_image(images: Any, texts: Any) -> Any:
        return owner[texts] == images, score(images, texts)

    def of_text(texts: Any, images: Any) -> Any:
        return owner[texts] == images, score(images, texts)

    return RetrievalRanks(
        image_to_text=_reranked(candidates.texts, of_image, first.image_to_text),
        text_to_image=_reranked(candidates.images, of_text, first.text_to_image),
    )


def _reranked(
    candidates: NDArray[np.int64],
    of: Callable[[Any, Any], tuple[NDArray[np.bool_], NDArray[np.float32]]],
    first: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return ranks (Q,); `of` gives which pairs of queries and items are right, and scores."""
    ranks = first.copy()
    for rows in _even_slices(0, len(ranks), max(1, _BLOCK_BYTES // (4 * candidates.shape[1]))):
        queries = np.arange(rows.start, rows.stop)[:, None]
        right, scores = of(queries, candidates[rows])
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        above = np.count_nonzero((scores >= best) & ~right, axis=1)
        ranks[rows] = np.where(right.any(axis=1), 1 + above, first[rows])
    return ranks
