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
    """Return the rank of the best positive of each image among all texts, and of each text.

    The positives of an image are its texts, and the positive of a text is its image. The score of
    an image and a text is the product of their features.

    Args:
        image_features: (N, D), the embeddings of the images.
        text_features: (M, D), the embeddings of the texts.
        image_of_text: (M,), the index of each text's image.

    Returns:
        The ranks of images as queries (N,) and of texts as queries (M,), from 1.

    Raises:
        ValueError: An image has no text, an index is out of range, or features are not finite.

    Example:
        Two images have one text each, and the scores [[0.9, 0.1], [0.5, 0.3]] with images as rows.
        The ranks of the images are [1, 2]: for image 1, the text of image 0 scores higher than its
        own. The ranks of the texts are [1, 1], since 0.9 > 0.5 and 0.3 > 0.1.
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
    ranks = _Ranking(matrix, bands).count()
    inverse_order = np.argsort(order)
    return ranks._replace(text_to_image=ranks.text_to_image[inverse_order])


def ranks_of_images(
    image_features: NDArray[np.float32],
    text_features: NDArray[np.float32],
    image_of_text: NDArray[np.integer],
    images: NDArray[np.integer],
) -> NDArray[np.int64]:
    """Return the rank of the best positive of some images among all texts, from 1, (n,).

    They are the ranks of images of `retrieval_ranks`, by the formula at the top of this file.

    Args:
        image_features: (n, D), the embeddings of the images.
        text_features: (M, D), the embeddings of all texts.
        image_of_text: (M,), the index of each text's image in the data set.
        images: (n,), the indices of the images in the data set. Each has a text.

    Raises:
        ValueError: Features are not finite.
    """
    require_finite(image_features, text_features)
    # Equal features have one score, whatever the rounding of a matrix product.
    first_text = first_equal(text_features)
    scores = (image_features @ text_features.T)[:, first_text]  # (n, M)
    is_positive = image_of_text == images[:, None]
    best = np.where(is_positive, scores, -np.inf).max(axis=1, keepdims=True)
    return 1 + np.count_nonzero((scores >= best) & ~is_positive, axis=1)


class _ScoreMatrix(NamedTuple):
    """The matrix of the scores of all texts (rows) with all images (columns).

    It is too large for the memory, and is computed block by block: the scores of some rows and
    columns are texts[order[rows]] @ images[columns].T. Rows are texts in the order of their images,
    so that the pairs of a text and its image, the positives, lie along the diagonal.
    """

    # (N, D): the features of the images.
    images: NDArray[np.float32]
    # (M, D): the features of the texts, in the order of the caller.
    texts: NDArray[np.float32]
    # (M,): the index of each row's text in `texts`.
    order: NDArray[np.int64]
    # (M,): the column of each row's image. It rises from row to row.
    image_index: NDArray[np.integer]

    def positives(self, block: NDArray[Any], rows: slice, columns: slice) -> NDArray[Any]:
        """Return, for each text of a block, its value with its own image, (rows,).

        For example, let texts 0 and 1 belong to the images 5 and 6. Their block [[a, b], [c, d]]
        with the columns 5:7 gives [a, d].

        Args:
            block: (rows, columns) holds a value for each text and image, such as the score.
            rows: The rows of the matrix that the block covers.
            columns: The columns that it covers. The image of each text must be among them.
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

    The bands lie along the diagonal of the score matrix, and together hold all positive pairs. For
    example, with two texts for each image, the band of the images 0:100 has the texts 0:200. The
    sizes of their blocks are as even as possible, because BLAS rounds differently in much smaller
    blocks.
    """
    # A score has 4 bytes. With 4 times as many rows as columns, a block has _BLOCK_BYTES.
    most_columns = max(1, math.isqrt(_BLOCK_BYTES // 16))
    most_rows = max(1, _BLOCK_BYTES // (4 * most_columns))
    for columns in _even_slices(0, len(matrix.images), most_columns):
        # The rows are sorted by image, so that the texts of these images lie side by side.
        first_row, end_row = np.searchsorted(
            matrix.image_index, [columns.start, columns.stop]
        ).tolist()
        yield _Band(columns, list(_even_slices(first_row, end_row, most_rows)))


def _even_slices(start: int, stop: int, most: int) -> Iterator[slice]:
    """Cut the range from `start` to `stop` into as few slices as possible of at most `most` items.

    The lengths of the slices differ by at most 1.

    Example:
        >>> list(_even_slices(0, 10, most=4))
        [slice(0, 3), slice(3, 6), slice(6, 10)]
    """
    n_slices = math.ceil((stop - start) / most)
    edges = np.linspace(start, stop, 1 + n_slices).astype(int).tolist()  # such as [0, 3, 6, 10]
    return (slice(first, end) for first, end in pairwise(edges))


class _Ranking:
    """Counts the items that rank above the best positive of each image and of each row.

    A row is a text, whose only positive is its image. The best positive of an image is the text
    with the highest score among its own texts. An item is above if its score is as high as the best
    positive's or higher, unless it is a positive itself.
    """

    def __init__(self, matrix: _ScoreMatrix, bands: list[_Band]) -> None:
        """Compute the scores of the best positives, and find items that have equal features.

        Args:
            matrix: The features of images and texts.
            bands: The result of `_diagonal_bands`: rectangles that hold all positive pairs.
        """
        self.matrix = matrix
        self.bands = bands
        # The scores of the best positive of each image, (N,), and of each row, (M,). They come from
        # the same blocks as the scores that `count` compares them with. Otherwise, they could
        # differ in the last bit, so that the best positive would rank above itself.
        self.best_of_images = np.full(len(matrix.images), -np.inf, np.float32)
        self.best_of_rows = np.empty(len(matrix.texts), np.float32)
        for band in bands:
            for rows in band.rows:
                text_features = matrix.texts[matrix.order[rows]]
                scores = text_features @ matrix.images[band.columns].T
                self.best_of_rows[rows] = matrix.positives(scores, rows, band.columns)
                image_index = matrix.image_index[rows]  # the images of these texts
                np.maximum.at(self.best_of_images, image_index, self.best_of_rows[rows])

        # The index of the first image with the same features, (N,), and of the first text, (M,).
        # For example, [0, 1, 0] means that the features of image 2 equal those of image 0.
        self.first_image = first_equal(matrix.images)
        self.first_text = first_equal(matrix.texts)[matrix.order]
        # Whether another image, (N,), or another text, (M,), has the same features.
        self.image_is_repeated = np.bincount(self.first_image)[self.first_image] > 1
        self.row_is_repeated = np.bincount(self.first_text)[self.first_text] > 1
        # `first_text` of the best positive text of each image, (N,).
        self.first_best_text = np.empty_like(self.first_image)
        is_best = self.best_of_rows == self.best_of_images[matrix.image_index]
        self.first_best_text[matrix.image_index[is_best]] = self.first_text[is_best]

    def count(self) -> RetrievalRanks:
        """Go through the score matrix block by block, and return the ranks of all queries.

        A rank is 1 plus the number of items that are above the best positive.
        """
        matrix = self.matrix
        image_ranks = np.ones(len(matrix.images), int)
        text_ranks = np.ones(len(matrix.texts), int)
        for diagonal_band in self.bands:
            for rows in diagonal_band.rows:
                text_features = matrix.texts[matrix.order[rows]]
                image_index = matrix.image_index[rows]  # the images of these texts
                for band in self.bands:
                    columns = band.columns
                    scores = text_features @ matrix.images[columns].T
                    # On the diagonal, the block holds positives, which must not be counted.
                    has_positives = band is diagonal_band

                    # Texts as queries: count the images that are above the text's own image.
                    is_above = scores >= self.best_of_rows[rows, None]
                    _mark_equal_items(
                        is_above,
                        self.first_image[image_index],
                        self.first_image[columns],
                        self.image_is_repeated[image_index],
                    )
                    text_ranks[rows] += np.count_nonzero(is_above, axis=1)
                    if has_positives:
                        text_ranks[rows] -= matrix.positives(is_above, rows, columns)

                    # Images as queries: count the texts that are above the image's best text.
                    is_above = scores >= self.best_of_images[columns]
                    _mark_equal_items(
                        is_above,
                        self.first_text[rows],
                        self.first_best_text[columns],
                        self.row_is_repeated[rows],
                    )
                    image_ranks[columns] += np.count_nonzero(is_above, axis=0)
                    if has_positives:
                        positives = matrix.positives(is_above, rows, columns)
                        np.subtract.at(image_ranks, image_index, positives)
        return RetrievalRanks(image_ranks, text_ranks)


def _mark_equal_items(
    is_above: NDArray[np.bool_],
    first_of_rows: NDArray[np.int64],
    first_of_columns: NDArray[np.int64],
    row_is_repeated: NDArray[np.bool_],
) -> None:
    """Set `is_above`, in place, to True for items whose features equal the best positive's.

    This is needed because a matrix product may give equal features scores that differ in the last
    bit. In plain terms:

        is_above |= first_of_rows[:, None] == first_of_columns

    Only rows whose features occur more than once need to be compared.

    Args:
        is_above: (rows, columns), whether the item of a cell is above the best positive.
        first_of_rows: (rows,), for each row, the index of the first features that are equal to
            those of its item (or its best positive).
        first_of_columns: (columns,), the same for the best positive (or the item) of each column.
        row_is_repeated: (rows,), whether the features of a row occur more than once.
    """
    repeated_rows = np.flatnonzero(row_is_repeated)
    rows = repeated_rows[np.isin(first_of_rows[repeated_rows], first_of_columns)]
    is_above[rows] |= first_of_rows[rows, None] == first_of_columns


class Candidates(NamedTuple):
    """The items among which each query is ranked a second time, by other scores."""

    # (N, k): for each image as a query, the indices of k texts.
    texts: NDArray[np.int64]
    # (M, k): for each text as a query, the indices of k images. There may be fewer than k.
    images: NDArray[np.int64]


def best_candidates(
    image_features: NDArray[np.float32], text_features: NDArray[np.float32], k: int
) -> Candidates:
    """Return the k best texts of each image, and the k best images of each text.

    The score of an image and a text is the product of their features. If scores are equal, the
    lower index is better. If there are fewer than k texts or images, all of them are candidates.

    Args:
        image_features: (N, D), the embeddings of the images.
        text_features: (M, D), the embeddings of the texts.
        k: The number of candidates of each query.

    Raises:
        ValueError: Features are NaN or infinite.
    """
    require_finite(image_features, text_features)
    return Candidates(
        texts=_best_items(image_features, text_features, k),
        images=_best_items(text_features, image_features, k),
    )


def first_wrong_items(
    queries: NDArray[np.float32], items: NDArray[np.float32], ranks: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the index of the item that each query ranks first, (Q,), or -1 if it is right.

    A query is right if its best positive has rank 1. If scores are equal, the lower index is first,
    which may be a positive that ties with another item.

    Args:
        queries: (Q, D), the features of the queries.
        items: (I, D), the features of the items.
        ranks: (Q,), the rank of the best positive of each query.
    """
    first_items = np.full(len(queries), -1, np.int64)
    is_missed = ranks > 1
    if is_missed.any():
        first_items[is_missed] = _best_items(queries[is_missed], items, 1)[:, 0]
    return first_items


def _best_items(
    queries: NDArray[np.float32], items: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    """Return the indices of the k items with the highest scores for each query, (Q, k).

    The scores are queries @ items.T. If scores are equal, the lower index is better.

    Args:
        queries: (Q, D), the features of the queries.
        items: (I, D), the features of the items.
        k: The number of items to return. If there are fewer items, all are returned.

    Example:
        The indices of a query are in ascending order: the scores [0.9, 0.1, 0.5, 0.5] of a query
        give [0, 2] for k = 2.
    """
    k = min(k, len(items))
    best_items = np.empty((len(queries), k), np.int64)
    queries_at_once = max(1, _BLOCK_BYTES // (4 * len(items)))
    for rows in _even_slices(0, len(queries), queries_at_once):
        scores = queries[rows] @ items.T
        # (rows, 1): the k-th highest score of each query.
        kth_score = np.partition(scores, -k, axis=1)[:, -k, None]
        is_above = scores > kth_score
        is_equal = scores == kth_score
        # Take the items above the k-th score, and the first of its equals until there are k items.
        n_equals_needed = k - is_above.sum(axis=1, keepdims=True)
        number_among_equals = is_equal.cumsum(axis=1)  # from 1
        is_best = is_above | (is_equal & (number_among_equals <= n_equals_needed))
        # Each row has k items that are True, and nonzero returns their columns row by row.
        columns_of_best = np.nonzero(is_best)[1]
        best_items[rows] = columns_of_best.reshape(-1, k)
    return best_items


def ranks_of_pairs(
    candidates: Candidates,
    score: Callable[[Any, Any], NDArray[np.float32]],
    image_of_text: ArrayLike,
    first: RetrievalRanks,
) -> RetrievalRanks:
    """Rank the candidates of each query a second time, by other scores, and return the new ranks.

    Items that are not candidates stay behind the candidates, in the order of the first scores. So a
    query without a positive candidate keeps its first rank.

    Args:
        candidates: The indices of texts for each image (N, k), and of images for each text (M, k).
        score: Returns the second scores of pairs, from the indices of their images and texts. Both
            arguments are broadcast: with indices (n, 1) and (n, k), it returns scores (n, k).
        image_of_text: (M,), the index of each text's image.
        first: The ranks of all queries by the first scores.

    Returns:
        The rank of the best positive of each image (N,) and of each text (M,), from 1.
    """
    image_index = np.asarray(image_of_text)
    # Images (n, 1) as queries, and their candidate texts (n, k).
    image_to_text = first.image_to_text.copy()
    for rows, images in _query_blocks(candidates.texts):
        texts = candidates.texts[rows]
        is_positive = image_index[texts] == images
        image_to_text[rows] = _rank_candidates(
            is_positive, score(images, texts), image_to_text[rows]
        )

    # Texts (n, 1) as queries, and their candidate images (n, k).
    text_to_image = first.text_to_image.copy()
    for rows, texts in _query_blocks(candidates.images):
        images = candidates.images[rows]
        is_positive = image_index[texts] == images
        text_to_image[rows] = _rank_candidates(
            is_positive, score(images, texts), text_to_image[rows]
        )
    return RetrievalRanks(image_to_text, text_to_image)


def _query_blocks(candidates: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.int64]]]:
    """Divide the queries into blocks whose scores fit into the cache.

    `candidates` (Q, k) holds the indices of each query's candidates.

    Yields:
        For each block of n queries, the slice of its rows, and the indices of its queries as a
        column (n, 1). For example, slice(2, 4) comes with [[2], [3]].
    """
    n_queries, k = candidates.shape
    queries_at_once = max(1, _BLOCK_BYTES // (4 * k))
    for rows in _even_slices(0, n_queries, queries_at_once):
        yield rows, np.arange(rows.start, rows.stop)[:, None]


def _rank_candidates(
    is_positive: NDArray[np.bool_], scores: NDArray[np.float32], first_ranks: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the rank of the best positive candidate of each query, (Q,), from 1.

    Args:
        is_positive: (Q, k), whether each of a query's k candidates is right.
        scores: (Q, k), the scores of the candidates.
        first_ranks: (Q,), the ranks that queries without a positive candidate keep.

    Example:
        The scores [0.3, 0.5, 0.4] of a query give the rank 2 if only its last candidate is
        positive.
    """
    best_positive = np.where(is_positive, scores, -np.inf).max(axis=1, keepdims=True)
    # Wrong candidates with the same score as the best positive are above it, too.
    is_above = (scores >= best_positive) & ~is_positive
    new_ranks = 1 + np.count_nonzero(is_above, axis=1)
    has_positive = is_positive.any(axis=1)
    return np.where(has_positive, new_ranks, first_ranks)
