"""Image-text retrieval: the rank of the best positive of each query, by counting.

In plain terms, for scores S = image_features @ text_features.T, is_positive (N, M) and one image i:

    best = S[i, is_positive[i]].max()
    rank = 1 + (S[i, ~is_positive[i]] >= best).sum()

Tie rule: an item with the same score as the best positive counts as above it, unless it is a
positive itself. So a model that gives all pairs the same score is ranked last, not first. Items
with equal features always tie, although BLAS may round equal rows of a block differently.

Shapes: N images, M texts, D embedding.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cosmos_eval.stats.estimates import first_equal, require_finite

# The size of a block of float32 scores, which stays in the cache while it is compared twice.
_BLOCK_BYTES = 4 << 20


class RetrievalRanks(NamedTuple):
    """The rank of the best positive of each query, from 1."""

    # (N,) of images as queries.
    image_to_text: NDArray[np.int64]
    # (M,) of texts as queries.
    text_to_image: NDArray[np.int64]


def retrieval_ranks(
    image_features: NDArray[np.float32],
    text_features: NDArray[np.float32],
    image_of_text: ArrayLike,
) -> RetrievalRanks:
    """Return the rank of the best positive of each image among texts, and of each text.

    The positives of an image are its texts, and the positive of a text is its image. The score of
    an image and a text is the product of their features, (N, D) and (M, D). `image_of_text` (M,)
    holds the index of each text's image.

    For example, two images with a text each and the scores [[0.9, 0.1], [0.5, 0.3]] (images as
    rows) have the ranks [1, 2]. Their texts have the ranks [1, 1], since 0.9 > 0.5 and 0.3 > 0.1.

    Raises ValueError for an image without texts, an index out of range, and features that are not
    finite.
    """
    image_index = np.asarray(image_of_text)
    n_images, n_texts = len(image_features), len(text_features)
    if image_index.shape != (n_texts,):
        raise ValueError(f"{n_texts} texts need as many image numbers, not {image_index.shape}")
    if not np.array_equal(np.unique(image_index), np.arange(n_images)):
        raise ValueError(
            f"every one of the {n_images} images needs a text, and no text may have another image"
        )
    require_finite(image_features, text_features)
    # Compute ranks with the texts sorted by image, and undo the sorting at the end.
    order = np.argsort(image_index, kind="stable")
    matrix = _ScoreMatrix(image_features, text_features, order, image_index[order])
    bands = list(_diagonal_bands(matrix))
    best_of_images, best_of_rows = _best_positives(matrix, bands)
    ranks = _Ranking(matrix, best_of_images, best_of_rows).count(bands)
    inverse_order = np.argsort(order)
    return ranks._replace(text_to_image=ranks.text_to_image[inverse_order])


class _ScoreMatrix(NamedTuple):
    """The scores of all texts (rows) with all images (columns), computed block by block.

    Rows are texts in the order of their images, so that positives lie in blocks along the diagonal.
    """

    # (N, D)
    images: NDArray[np.float32]
    # (M, D), in the order of the caller.
    texts: NDArray[np.float32]
    # (M,): the index of each row in `texts`.
    order: NDArray[np.int64]
    # (M,): the column of each row's image.
    image_index: NDArray[np.integer]

    def features(self, rows: slice) -> NDArray[np.float32]:
        """Return the features of the texts in some rows, (rows, D)."""
        return self.texts[self.order[rows]]

    def scores(self, features: NDArray[np.float32], columns: slice) -> NDArray[np.float32]:
        """Return a block of scores: of texts, by their features (rows, D), with some images."""
        return features @ self.images[columns].T

    def positives(self, block: NDArray[Any], rows: slice, columns: slice) -> NDArray[Any]:
        """Return, for each text of a block, its value with its own image, (rows,).

        `block` (rows, columns) holds a value for each text and image. The image of each text must
        be in the block.
        """
        column_in_block = self.image_index[rows] - columns.start
        return block[np.arange(len(block)), column_in_block]


class _Band(NamedTuple):
    """A rectangle of the score matrix: some images, and all texts of these images."""

    # The columns of the images.
    columns: slice
    # The rows of the texts, cut into blocks.
    rows: list[slice]


def _diagonal_bands(matrix: _ScoreMatrix) -> Iterator[_Band]:
    """Divide the images into slices, and yield the band of each: its images with their texts.

    The bands lie on the diagonal of the score matrix, and hold all positive pairs. The sizes of
    their blocks are as even as possible, because BLAS rounds differently in much smaller blocks.
    """
    # A score has 4 bytes. With 4 times as many rows as columns, a block has _BLOCK_BYTES.
    most_columns = max(1, math.isqrt(_BLOCK_BYTES // 16))
    most_rows = max(1, _BLOCK_BYTES // (4 * most_columns))
    for columns in _even_slices(0, len(matrix.images), most_columns):
        # The rows are sorted by image.
        first_row, end_row = np.searchsorted(
            matrix.image_index, [columns.start, columns.stop]
        ).tolist()
        yield _Band(columns, list(_even_slices(first_row, end_row, most_rows)))


def _even_slices(start: int, stop: int, most: int) -> Iterator[slice]:
    """Cut the range from `start` to `stop` into as few slices as possible of at most `most` items.

    The lengths differ by at most 1. For example, 0 to 10 with at most 4 gives the slices 0:3, 3:6
    and 6:10.
    """
    n_slices = math.ceil((stop - start) / most)
    edges = np.linspace(start, stop, 1 + n_slices).astype(int).tolist()
    return (slice(first, end) for first, end in pairwise(edges))


def _best_positives(
    matrix: _ScoreMatrix, bands: list[_Band]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the score of the best positive of each image (N,) and of each row (M,).

    A row is a text, whose only positive is its image. The scores are computed in the same blocks as
    the scores that they are compared with later. If they were computed in another way, they could
    differ in the last bit, so that the best positive would rank above itself.
    """
    best_of_images = np.full(len(matrix.images), -np.inf, np.float32)
    best_of_rows = np.empty(len(matrix.texts), np.float32)
    for band in bands:
        for rows in band.rows:
            scores = matrix.scores(matrix.features(rows), band.columns)
            best_of_rows[rows] = matrix.positives(scores, rows, band.columns)
            np.maximum.at(best_of_images, matrix.image_index[rows], best_of_rows[rows])
    return best_of_images, best_of_rows


class _Ranking:
    """Counts the items that rank above the best positive of each image and of each row.

    A row is a text. An item is above if its score is as high as the best positive's or higher,
    unless it is a positive itself.
    """

    def __init__(
        self,
        matrix: _ScoreMatrix,
        best_of_images: NDArray[np.float32],
        best_of_rows: NDArray[np.float32],
    ) -> None:
        """Find equal features, and start all ranks at 1. The scores belong to the best
        positives."""
        self.matrix = matrix
        # The scores of the best positives, (N,) and (M,).
        self.best_of_images = best_of_images
        self.best_of_rows = best_of_rows
        # The index of the first image, or text, with equal features: (N,) and (M,).
        self.first_image = first_equal(matrix.images)
        self.first_text = first_equal(matrix.texts)[matrix.order]
        self.image_is_repeated = _is_repeated(self.first_image)
        self.row_is_repeated = _is_repeated(self.first_text)
        # `first_text` of the best positive text of each image, (N,).
        self.first_best_text = np.empty_like(self.first_image)
        is_best = best_of_rows == best_of_images[matrix.image_index]
        self.first_best_text[matrix.image_index[is_best]] = self.first_text[is_best]
        self.ranks = RetrievalRanks(
            np.ones(len(matrix.images), int), np.ones(len(matrix.texts), int)
        )

    def count(self, bands: list[_Band]) -> RetrievalRanks:
        """Go through the score matrix block by block, and return the ranks of all queries.

        A rank is 1 plus the number of items that are above the best positive.
        """
        for diagonal_band in bands:
            for rows in diagonal_band.rows:
                features = self.matrix.features(rows)
                for band in bands:
                    scores = self.matrix.scores(features, band.columns)
                    has_positives = band is diagonal_band
                    self._count_images(scores, rows, band.columns, has_positives)
                    self._count_texts(scores, rows, band.columns, has_positives)
        return self.ranks

    def _count_images(
        self, scores: NDArray[np.float32], rows: slice, columns: slice, has_positives: bool
    ) -> None:
        """Add to the rank of each text the number of images in a block that are above its image.

        `scores` (rows, columns) are the scores of the block. `has_positives` says whether the block
        lies on the diagonal, so that the image of each text is in it, and must not be counted.
        """
        image_index = self.matrix.image_index[rows]
        is_above = scores >= self.best_of_rows[rows, None]
        _mark_equal_items(
            is_above,
            self.first_image[image_index],
            self.first_image[columns],
            self.image_is_repeated[image_index],
        )
        self.ranks.text_to_image[rows] += np.count_nonzero(is_above, axis=1)
        if has_positives:
            self.ranks.text_to_image[rows] -= self.matrix.positives(is_above, rows, columns)

    def _count_texts(
        self, scores: NDArray[np.float32], rows: slice, columns: slice, has_positives: bool
    ) -> None:
        """Add to the rank of each image the number of texts in a block above its best text.

        `scores` (rows, columns) are the scores of the block. `has_positives` says whether the block
        lies on the diagonal, so that texts of its images are in it, and must not be counted.
        """
        is_above = scores >= self.best_of_images[columns]
        _mark_equal_items(
            is_above,
            self.first_text[rows],
            self.first_best_text[columns],
            self.row_is_repeated[rows],
        )
        self.ranks.image_to_text[columns] += np.count_nonzero(is_above, axis=0)
        if has_positives:
            positives = self.matrix.positives(is_above, rows, columns)
            np.subtract.at(self.ranks.image_to_text, self.matrix.image_index[rows], positives)


def _is_repeated(first: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether the features of each row occur in another row as well, (N,).

    `first` (N,) is the result of `first_equal`: the index of the first row with equal features. For
    example, [0, 1, 0] gives [True, False, True].
    """
    n_rows_by_first = np.bincount(first, minlength=len(first))
    return n_rows_by_first[first] > 1


def _mark_equal_items(
    is_above: NDArray[np.bool_],
    first_of_rows: NDArray[np.int64],
    first_of_columns: NDArray[np.int64],
    row_is_repeated: NDArray[np.bool_],
) -> None:
    """Set `is_above` (rows, columns), in place, to True for items equal to the best positive.

    It is needed because a matrix product may give equal features scores that differ in the last
    bit. The item and the best positive of a cell are equal if `first_of_rows` and
    `first_of_columns` hold the same index: of the first features that are equal to theirs. Only
    rows whose features occur more than once need to be compared, as `row_is_repeated` says.
    """
    repeated_rows = np.flatnonzero(row_is_repeated)
    rows = repeated_rows[np.isin(first_of_rows[repeated_rows], first_of_columns)]
    is_above[rows] |= first_of_rows[rows, None] == first_of_columns


class Candidates(NamedTuple):
    """The items among which each query is ranked a second time."""

    # (N, k): the indices of texts, for images as queries.
    texts: NDArray[np.int64]
    # (M, l): the indices of images, for texts as queries.
    images: NDArray[np.int64]


def best_candidates(
    image_features: NDArray[np.float32], text_features: NDArray[np.float32], k: int
) -> Candidates:
    """Return the k best texts of each image, and the k best images of each text, or all if fewer.

    Scores are products of images (N, D) and texts (M, D). If scores are equal, the lower index is
    better. Raises ValueError for features that are not finite.
    """
    require_finite(image_features, text_features)
    return Candidates(
        texts=_best_items(image_features, text_features, k),
        images=_best_items(text_features, image_features, k),
    )


def _best_items(
    queries: NDArray[np.float32], items: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    """Return the indices of the k items with the highest scores for each query, (Q, k).

    The scores are queries @ items.T. The indices of a query are in ascending order: the scores
    [0.9, 0.1, 0.5, 0.5] give [0, 2] for k = 2, since the lower index is better if scores are equal.
    If there are fewer than k items, all are returned.
    """
    k = min(k, len(items))
    best_items = np.empty((len(queries), k), np.int64)
    queries_at_once = max(1, _BLOCK_BYTES // (4 * len(items)))
    for rows in _even_slices(0, len(queries), queries_at_once):
        scores = queries[rows] @ items.T
        kth_score = np.partition(scores, -k, axis=1)[:, -k, None]
        is_above, is_equal = scores > kth_score, scores == kth_score
        # Take the items above the k-th score, and the first of its equals until there are k items.
        n_equals_needed = k - is_above.sum(axis=1, keepdims=True)
        number_among_equals = is_equal.cumsum(axis=1)  # from 1
        is_best = is_above | (is_equal & (number_among_equals <= n_equals_needed))
        best_items[rows] = np.nonzero(is_best)[1].reshape(-1, k)
    return best_items


def ranks_of_pairs(
    candidates: Candidates,
    score: Callable[[Any, Any], NDArray[np.float32]],
    image_of_text: ArrayLike,
    first: RetrievalRanks,
) -> RetrievalRanks:
    """Rank the candidates of each query a second time, by other scores, and return the new ranks.

    `score(images, texts)` returns the scores of pairs. Its arguments are indices, which are
    broadcast. `first` holds the ranks by the first scores. Items that are not candidates stay
    behind the candidates, in the order of the first scores. So a query without a positive candidate
    keeps its first rank.
    """
    image_index = np.asarray(image_of_text)
    image_to_text = first.image_to_text.copy()
    for rows, images in _query_blocks(candidates.texts):
        texts = candidates.texts[rows]
        is_positive = image_index[texts] == images
        image_to_text[rows] = _rank_candidates(
            is_positive, score(images, texts), image_to_text[rows]
        )
    text_to_image = first.text_to_image.copy()
    for rows, texts in _query_blocks(candidates.images):
        images = candidates.images[rows]
        is_positive = image_index[texts] == images
        text_to_image[rows] = _rank_candidates(
            is_positive, score(images, texts), text_to_image[rows]
        )
    return RetrievalRanks(image_to_text, text_to_image)


def _query_blocks(candidates: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Divide the queries, which have candidates (Q, k), into blocks that fit into the cache.

    For each block of n queries, yields its slice of rows, and the indices of its queries (n, 1).
    """
    n_queries, k = candidates.shape
    queries_at_once = max(1, _BLOCK_BYTES // (4 * k))
    for rows in _even_slices(0, n_queries, queries_at_once):
        yield rows, np.arange(rows.start, rows.stop)[:, None]


def _rank_candidates(
    is_positive: NDArray[np.bool_], scores: NDArray[np.float32], first_ranks: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the rank of the best positive candidate of each query, (Q,).

    `is_positive` and `scores` (Q, k) belong to the candidates of the queries. For example, the
    scores [0.3, 0.5, 0.4] give the rank 2 if only the last candidate is positive. A query without
    a positive candidate keeps its rank in `first_ranks` (Q,).
    """
    best_positive = np.where(is_positive, scores, -np.inf).max(axis=1, keepdims=True)
    is_above = (scores >= best_positive) & ~is_positive
    new_ranks = 1 + np.count_nonzero(is_above, axis=1)
    has_positive = is_positive.any(axis=1)
    return np.where(has_positive, new_ranks, first_ranks)
