"""Suppression: how much worse a model is at small objects than at dominant ones, or beside them.

COSMOS (Kim et al. 2024, arXiv 2412.01814) holds that the global loss of CLIP lets the dominant
object of an image suppress all others. A question about an object is a hit or a miss. Two groups of
questions, A and B, are compared by the difference of their shares of hits:

- suppression: A asks about dominant objects, and B about small ones
- loss beside a dominant object: B asks about small objects beside a dominant one, and A asks the
  same about the same objects without one

The interval of a difference joins Wilson's intervals of both shares: MOVER, the method of variance
estimates recovery (Zou and Donner 2008, "Construction of confidence limits about effect measures",
Statistics in Medicine 27; Newcombe 1998, "Improved confidence intervals for the difference between
binomial proportions based on paired data", Statistics in Medicine 17). It holds if a share is near
0 or 1.
Shapes: N items, C clusters of items that depend on each other, such as the items of one image; R
resamples.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import (
    FunctionOfSums,
    FunctionOfWeights,
    Ints,
    Values,
    ratio,
)
from cosmos_eval.types import Interval

METHOD = "wilson, difference"
AREA_STEP = 0.1
"""The difference of dominant areas that the odds ratio is for: 10% of the image."""
_STEPS = 25  # of Newton's method
_CONVERGED = 1e-6  # the largest last step of Newton's method


class GroupHits(NamedTuple):
    """The numbers of items, and of hits, of groups A and B: in each cluster (C,), or sums (...,).

    Hits may be fractions.
    """

    a_hits: Values
    a_items: Values
    b_hits: Values
    b_items: Values


def count_group_hits(
    hits: NDArray[np.number] | NDArray[np.bool_],
    is_in_a: NDArray[np.bool_],
    is_in_b: NDArray[np.bool_],
    clusters: Ints,
) -> GroupHits:
    """Return the numbers of items and of hits of each group in each cluster.

    Args:
        hits: (N,), whether each item is a hit, or which share of it is.
        is_in_a: (N,), whether each item belongs to group A, such as items about dominant objects.
        is_in_b: (N,), whether each item belongs to group B. Items of neither group do not count.
        clusters: (N,) numbers. Items with the same number depend on each other.

    Example:
        The hits [1, 0, 1], of the groups A, B and B, in the clusters [4, 4, 7], give a_hits [1, 0],
        a_items [1, 0], b_hits [0, 1] and b_items [1, 1].
    """
    _, cluster_index = np.unique(clusters, return_inverse=True)
    counts: list[Values] = []
    for is_in_group in (is_in_a, is_in_b):
        for values in (is_in_group * hits, is_in_group):
            counts.append(np.bincount(cluster_index, weights=values).astype(np.float64))
    return GroupHits(*counts)


def share_of_a(sums: GroupHits) -> Values:
    """Return the share of hits in group A, (...,); NaN without items."""
    return ratio(sums.a_hits, sums.a_items)


def share_of_b(sums: GroupHits) -> Values:
    """Return the share of hits in group B, (...,); NaN without items."""
    return ratio(sums.b_hits, sums.b_items)


def difference_of_shares(sums: GroupHits) -> Values:
    """Return the share of hits in group A, less the share in group B, (...,).

    It is NaN without items of a group.
    """
    return share_of_a(sums) - share_of_b(sums)


def share_difference(hits: GroupHits) -> FunctionOfSums | None:
    """Return the estimate of the difference of shares, or None if a group has no items.

    `hits` (C,) are the numbers of items and of hits in each cluster.
    """
    if not (hits.a_items.any() and hits.b_items.any()):
        return None
    return FunctionOfSums(hits, difference_of_shares, interval=difference_interval)


def difference_interval(hits: GroupHits, level: float) -> Interval:
    """Return the interval of the difference of shares d = p - q by MOVER.

    With Wilson's intervals from p_low to p_high and from q_low to q_high, and the correlation r of
    the two shares, it goes from
        d - sqrt((p - p_low)^2 - 2 r (p - p_low) (q_high - q) + (q_high - q)^2)  to
        d + sqrt((p_high - p)^2 - 2 r (p_high - p) (q - q_low) + (q - q_low)^2).
    Items of one cluster may depend on each other, within a group and between both: Wilson's
    intervals are for effective numbers of items, and r follows from how far the hits of a cluster
    are above p or q times its items.

    Args:
        hits: (C,), the numbers of items and of hits in each cluster. Both groups have items.
        level: The probability that the interval contains the true value.
    """
    from cosmos_eval.stats.intervals import wilson_of_clusters  # which imports SciPy

    interval_of_p = wilson_of_clusters(hits.a_hits, hits.a_items, level)
    interval_of_q = wilson_of_clusters(hits.b_hits, hits.b_items, level)
    p = float(hits.a_hits.sum() / hits.a_items.sum())
    q = float(hits.b_hits.sum() / hits.b_items.sum())
    # How far the hits of each cluster are above their expected number.
    a_deviations = hits.a_hits - p * hits.a_items
    b_deviations = hits.b_hits - q * hits.b_items
    norm = math.sqrt((a_deviations**2).sum() * (b_deviations**2).sum())
    r = float(a_deviations @ b_deviations) / norm if norm > 0 else 0.0

    p_below, p_above = p - interval_of_p.low, interval_of_p.high - p
    q_below, q_above = q - interval_of_q.low, interval_of_q.high - q
    # Rounding may make a sum of squares slightly negative.
    below = math.sqrt(max(0.0, p_below**2 - 2 * r * p_below * q_above + q_above**2))
    above = math.sqrt(max(0.0, p_above**2 - 2 * r * p_above * q_below + q_below**2))
    return Interval(max(-1.0, p - q - below), min(1.0, p - q + above), METHOD, level)


def odds_ratio_by_area(
    hits: NDArray[np.bool_], dominant_area: Values, clusters: Ints
) -> FunctionOfWeights | None:
    """Return how the odds of a hit change if the dominant object covers 10% more of the image.

    It is the odds ratio exp(0.1 * slope) of the logistic regression
        log(P(hit) / P(miss)) = intercept + slope * dominant_area.
    Below 1, larger dominant objects suppress small ones more. It has no value if the regression has
    no solution: if the areas separate hits from misses, or all items are hits, or all are misses.

    Args:
        hits: (N,), whether each item about a small object is a hit.
        dominant_area: (N,), the fraction of the image that its dominant object covers.
        clusters: (N,) numbers. Items with the same number depend on each other.

    Returns:
        The estimate, or None if all areas are equal, or if items of one cluster differ in their
        areas: clusters are drawn as a whole, and their mean areas would hide the effect.
    """
    _, cluster_index = np.unique(clusters, return_inverse=True)
    n_items = np.bincount(cluster_index)
    n_hits = np.bincount(cluster_index, weights=hits)
    areas = np.zeros(len(n_items))
    areas[cluster_index] = dominant_area  # the area of the last item of each cluster
    if np.ptp(areas) == 0 or (areas[cluster_index] != dominant_area).any():
        return None
    return FunctionOfWeights(np.stack([n_items, n_hits, areas], axis=1), _WeightedOddsRatio)


class _WeightedOddsRatio:
    """A function that computes the odds ratio of several resamples at once."""

    def __init__(self, samples: Values) -> None:
        """Keep the items, the hits and the dominant area of each cluster, `samples` (C, 3)."""
        self._n_items, self._n_hits, areas = samples.T
        self._mean_area = float(areas.mean())
        self._steps_of_area = (areas - self._mean_area) / AREA_STEP

    def __call__(self, weights: Values) -> Values:
        """Return the odds ratios (R,) of R resamples, by Newton's method for all at once.

        A resample whose regression does not converge has NaN.

        Args:
            weights: (R, C) says how often each cluster is drawn in each resample.
        """
        x = self._steps_of_area
        n_items, n_hits = weights * self._n_items, weights * self._n_hits  # (R, C)
        intercept = np.zeros(len(weights))
        slope = np.zeros(len(weights))
        step_of_slope = np.full(len(weights), np.inf)
        step_of_intercept = np.full(len(weights), np.inf)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for _ in range(_STEPS):
                probability = 1 / (1 + np.exp(-(intercept[:, None] + slope[:, None] * x)))
                residuals = n_hits - n_items * probability
                variances = n_items * probability * (1 - probability)
                # The gradient, and the second derivatives, of the log-likelihood.
                gradient, gradient_x = residuals.sum(axis=1), residuals @ x
                s, s_x, s_xx = variances.sum(axis=1), variances @ x, variances @ (x * x)
                determinant = s * s_xx - s_x * s_x
                step_of_intercept = (s_xx * gradient - s_x * gradient_x) / determinant
                intercept += step_of_intercept
                step_of_slope = (s * gradient_x - s_x * gradient) / determinant
                slope += step_of_slope
            largest_step = np.maximum(np.abs(step_of_slope), np.abs(step_of_intercept))
            return np.where(largest_step < _CONVERGED, np.exp(slope), np.nan)
