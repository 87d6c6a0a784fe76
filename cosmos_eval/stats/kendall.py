"""Kendall's rank correlations tau-b and tau-c of scores with ratings, resampled by image.

Kendall 1938, "A new measure of rank correlation"; Stuart 1953, "The estimation and comparison of
strengths of association in contingency tables" (tau-c). The formulas, with their ties, are those of
`scipy.stats.kendalltau`. Shapes: N ratings, C images, K ratings of the image with most of them, S
distinct scores, L distinct ratings, R resamples.
"""

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import FunctionOfWeights, Ints, Values


def tau_b(scores: Values, ratings: Values, images: Ints) -> FunctionOfWeights:
    """Return the estimate of tau-b: (P - Q) / sqrt((pairs - ties of x) * (pairs - ties of y)).

    P pairs of samples are in the same order by scores and ratings, and Q in the opposite one.

    Args:
        scores: (N,), such as CLIPScores.
        ratings: (N,), the judgements of people.
        images: (N,) numbers. Ratings of the same image depend on each other.
    """
    return FunctionOfWeights(_by_image(scores, ratings, images), _WeightedTauB)


def tau_c(scores: Values, ratings: Values, images: Ints) -> FunctionOfWeights:
    """Return the estimate of tau-c: 2 (P - Q) / (N^2 (m - 1) / m) with m = min(S, L).

    The arguments are those of `tau_b`.
    """
    return FunctionOfWeights(_by_image(scores, ratings, images), _WeightedTauC)


def _by_image(scores: Values, ratings: Values, images: Ints) -> Values:
    """Return the scores and ratings of each image, (C, K, 2), with NaN where it has no more.

    For example, the images [0, 0, 1] give C = 2 images and K = 2 ratings, one of which is NaN.
    """
    _, image_index = np.unique(images, return_inverse=True)
    order = np.argsort(image_index, kind="stable")
    sorted_images = image_index[order]
    place_in_image = np.arange(len(order)) - np.searchsorted(sorted_images, sorted_images)
    shape = (int(image_index.max()) + 1, int(place_in_image.max()) + 1, 2)
    by_image = np.full(shape, np.nan)
    by_image[sorted_images, place_in_image, 0] = scores[order]
    by_image[sorted_images, place_in_image, 1] = ratings[order]
    return by_image


class _WeightedTau:
    """A function of how often each image is drawn. Copies of a sample count as tied pairs."""

    def __init__(self, samples: NDArray[np.float64]) -> None:
        """Number the distinct scores and ratings of `samples` (C, K, 2), which `_by_image` made."""
        image_index, place = np.nonzero(~np.isnan(samples[:, :, 0]))
        self.image_of_rating = image_index
        scores, ratings = samples[image_index, place].T
        distinct_scores, score_index = np.unique(scores, return_inverse=True)
        distinct_ratings, rating_index = np.unique(ratings, return_inverse=True)
        self.table_shape = (len(distinct_scores), len(distinct_ratings))
        self.cell_of_rating = score_index * len(distinct_ratings) + rating_index

    def __call__(self, weights: Values) -> Values:
        """Return tau (R,) for weights (R, C), NaN if all scores or all ratings are equal."""
        return np.array([self._tau_of(row) for row in weights])

    def _tau_of(self, weights: Values) -> float:
        """Return tau of one resample, whose weights are (C,)."""
        n_cells = self.table_shape[0] * self.table_shape[1]
        counts = np.bincount(self.cell_of_rating, weights[self.image_of_rating], n_cells)
        table = counts.reshape(self.table_shape)  # (S, L), how many samples have both

        # For each score, how many samples have a lower score, by their rating.
        lower_scores = np.cumsum(table, axis=0) - table
        lower_in_both = np.cumsum(lower_scores, axis=1) - lower_scores
        lower_rated_above = lower_scores.sum(axis=1, keepdims=True) - lower_in_both - lower_scores
        same_less_opposite = float((table * (lower_in_both - lower_rated_above)).sum())
        return self.divide(same_less_opposite, table.sum(axis=1), table.sum(axis=0))

    def divide(self, same_less_opposite: float, by_score: Values, by_rating: Values) -> float:
        """Return tau from P - Q, and the number of samples of each score (S,) and rating (L,)."""
        raise NotImplementedError


class _WeightedTauB(_WeightedTau):
    """Tau-b of resamples."""

    def divide(self, same_less_opposite: float, by_score: Values, by_rating: Values) -> float:
        """Divide P - Q by the geometric mean of the pairs without ties."""
        n_samples = by_score.sum()
        n_pairs = n_samples * (n_samples - 1)
        untied = [n_pairs - (counts * (counts - 1)).sum() for counts in (by_score, by_rating)]
        if min(untied) <= 0:
            return float("nan")
        return float(2 * same_less_opposite / np.sqrt(untied[0] * untied[1]))


class _WeightedTauC(_WeightedTau):
    """Tau-c of resamples."""

    def divide(self, same_less_opposite: float, by_score: Values, by_rating: Values) -> float:
        """Divide P - Q by the greatest value that tables of this size can have."""
        n_samples = by_score.sum()
        n_kinds = min(np.count_nonzero(by_score), np.count_nonzero(by_rating))
        if n_kinds < 2:
            return float("nan")
        return float(2 * same_less_opposite / (n_samples**2 * (n_kinds - 1) / n_kinds))
