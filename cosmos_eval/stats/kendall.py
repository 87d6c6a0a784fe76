"""Kendall's rank correlations tau-b and tau-c of scores with ratings, with a jackknife over images.

Kendall 1938, "A new measure of rank correlation"; Stuart 1953, "The estimation and comparison of
strengths of association in contingency tables" (tau-c). The formulas, with their ties, are as in
`scipy.stats.kendalltau`. Tau is a function of numbers of pairs of samples. Without an image, the
numbers lack the pairs with a sample of this image, which are counted once for all images.

Shapes: N ratings, C images, S distinct scores, L distinct ratings.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import FunctionOfSums, Ints, Values
from cosmos_eval.types import Interval

JACKKNIFE = "jackknife t"
"""The method of the interval in results, as of `stats.intervals`."""


class Pairs(NamedTuple):
    """Numbers that decide tau: of all samples, or for each image what it adds to them, (C,)."""

    # Pairs in the same order by scores and ratings, minus pairs in the opposite order.
    same_less_opposite: Any
    # Twice the number of pairs with different scores, and with different ratings.
    untied_scores: Any
    untied_ratings: Any
    # The number of samples.
    samples: Any


def tau_b(scores: Values, ratings: Values, images: Ints) -> FunctionOfSums:
    """Return the estimate of tau-b = (P - Q) / sqrt(U_scores * U_ratings).

    P pairs of samples are in the same order by scores and by ratings, and Q pairs in the opposite
    order. U_scores pairs have different scores, and U_ratings pairs have different ratings.

    Args:
        scores: (N,), such as CLIPScores.
        ratings: (N,), the judgements of people.
        images: (N,) numbers. Ratings of the same image depend on each other.
    """

    def tau_of_pairs(pairs: Pairs) -> Values:
        """Return tau-b. P - Q is doubled, because `Pairs` has twice U_scores and U_ratings."""
        untied = np.sqrt(np.maximum(pairs.untied_scores * pairs.untied_ratings, 0.0))
        return _divide(2 * pairs.same_less_opposite, untied)

    return _jackknifed(scores, ratings, images, tau_of_pairs)


def tau_c(scores: Values, ratings: Values, images: Ints) -> FunctionOfSums:
    """Return the estimate of tau-c = 2 (P - Q) / (N^2 (m - 1) / m) with m = min(S, L).

    The arguments are as in `tau_b`.
    """
    m = min(len(np.unique(scores)), len(np.unique(ratings)))

    def tau_of_pairs(pairs: Pairs) -> Values:
        """Return tau-c: 2 (P - Q) by the greatest value that it has in tables of this size."""
        greatest = pairs.samples**2 * (m - 1) / m
        return _divide(2 * pairs.same_less_opposite, greatest)

    return _jackknifed(scores, ratings, images, tau_of_pairs)


def _divide(numerator: Any, denominator: Any) -> Values:
    """Return numerator / denominator by element, which is NaN if the denominator is 0."""
    is_positive = np.asarray(denominator) > 0
    return np.where(is_positive, numerator / np.where(is_positive, denominator, 1.0), np.nan)


def _jackknifed(
    scores: Values, ratings: Values, images: Ints, tau_of_pairs: Callable[[Pairs], Values]
) -> FunctionOfSums:
    """Return an estimate whose value and values without each image are exact.

    The terms of an image are the pairs that go with it. A pair of two images goes with both, so
    that the terms add up to more than all pairs. The function subtracts the excess.

    Args:
        scores: (N,).
        ratings: (N,).
        images: (N,) numbers.
        tau_of_pairs: Returns tau for numbers of pairs.
    """
    _, image_index = np.unique(images, return_inverse=True)
    _, score_index = np.unique(scores, return_inverse=True)
    _, rating_index = np.unique(ratings, return_inverse=True)
    table = _count(score_index, rating_index)
    order_of_sample = _order_of_cells(table)[score_index, rating_index]  # (N,)
    by_score, by_rating = table.sum(axis=1), table.sum(axis=0)

    # Pairs of each image: those of its samples with all, less those inside it, counted twice.
    samples = np.bincount(image_index)
    order = np.bincount(image_index, order_of_sample) - _order_inside(
        image_index, score_index, rating_index
    )
    terms = Pairs(
        same_less_opposite=order,
        untied_scores=_untied_with_image(image_index, score_index, by_score),
        untied_ratings=_untied_with_image(image_index, rating_index, by_rating),
        samples=samples.astype(float),
    )
    n_samples = float(len(scores))
    totals = Pairs(
        same_less_opposite=order_of_sample.sum() / 2,
        untied_scores=n_samples**2 - (by_score**2).sum(),
        untied_ratings=n_samples**2 - (by_rating**2).sum(),
        samples=n_samples,
    )
    excess = Pairs(*(term.sum() - total for term, total in zip(terms, totals, strict=True)))

    def function(sums: Pairs) -> Values:
        """Return tau for sums of terms."""
        pairs = Pairs(*(total - extra for total, extra in zip(sums, excess, strict=True)))
        return tau_of_pairs(pairs)

    def interval(terms: Pairs, level: float) -> Interval:
        """Return the jackknife interval over images."""
        without_each = function(Pairs(*(term.sum() - term for term in terms)))
        return _jackknife_interval(float(tau_of_pairs(totals)), without_each, level)

    return FunctionOfSums(terms, function, jackknife=True, interval=interval)


def _jackknife_interval(value: float, without_each: Values, level: float) -> Interval:
    """Return value -+ t x standard error, within [-1, 1], as `stats.intervals.jackknife`.

    With fewer than two images, the interval is [-1, 1].

    Args:
        value: Tau of all samples.
        without_each: (C,), tau without each image in turn, NaN if it is not defined.
        level: The probability that the interval contains the true value.
    """
    from scipy.special import stdtrit  # loading it takes long, and few commands need it

    defined_values = without_each[~np.isnan(without_each)]
    n = len(defined_values)
    if n < 2:
        return Interval(-1.0, 1.0, JACKKNIFE, level)
    half_width = float(stdtrit(n - 1, (1 + level) / 2) * np.sqrt((n - 1) * defined_values.var()))
    return Interval(max(-1.0, value - half_width), min(1.0, value + half_width), JACKKNIFE, level)


def _count(score_index: Ints, rating_index: Ints) -> Values:
    """Return how many samples have each score and rating, (S, L)."""
    n_ratings = int(rating_index.max()) + 1
    n_cells = (int(score_index.max()) + 1) * n_ratings
    counts = np.bincount(score_index * n_ratings + rating_index, minlength=n_cells)
    return counts.reshape(-1, n_ratings).astype(float)


def _order_of_cells(table: Values) -> Values:
    """Return, for each score and rating (S, L), the samples in the same order less the others.

    A sample is in the same order as another one if its score and its rating are both higher or both
    lower, and in the opposite order if one is higher and the other lower.
    """
    lower_score = np.cumsum(table, axis=0) - table
    higher_score = table.sum(axis=0) - lower_score - table
    difference = lower_score - higher_score  # with each rating
    lower_rating = np.cumsum(difference, axis=1) - difference
    higher_rating = difference.sum(axis=1, keepdims=True) - lower_rating - difference
    return lower_rating - higher_rating


def _order_inside(image_index: Ints, score_index: Ints, rating_index: Ints) -> Values:
    """Return P - Q of the pairs inside each image, (C,)."""
    sorting = np.argsort(image_index, kind="stable")
    ends = np.cumsum(np.bincount(image_index))[:-1]
    sums = []
    for samples in np.split(sorting, ends):
        scores = np.unique(score_index[samples], return_inverse=True)[1]
        ratings = np.unique(rating_index[samples], return_inverse=True)[1]
        table = _count(scores, ratings)
        sums.append((table * _order_of_cells(table)).sum() / 2)
    return np.array(sums)


def _untied_with_image(image_index: Ints, value_index: Ints, counts: NDArray[np.float64]) -> Values:
    """Return twice the number of pairs with different values and a sample of each image, (C,).

    Args:
        image_index: (N,), the image of each sample.
        value_index: (N,), its value, as the index of `counts`.
        counts: The number of samples with each value.
    """
    n_samples = len(image_index)
    n_values = len(counts)
    image_and_value, n_equal = np.unique(image_index * n_values + value_index, return_counts=True)
    image, value = np.divmod(image_and_value, n_values)
    n_of_image = np.bincount(image_index)
    # Ordered pairs with a sample of the image first, and those with both samples in the image.
    first = np.bincount(image, n_equal * (n_samples - counts[value]))
    inside = n_of_image**2 - np.bincount(image, n_equal**2)
    return 2 * first - inside
