"""Confidence interval of a mean rank, whose distribution has a long tail to the right.

Hall 1992, "On the removal of skewness by transformation", Journal of the Royal Statistical Society
B 54: for skewness g of n values, the studentized mean T is nearly normal after
h(T) = T + g T^2 / (3 sqrt(n)) + g^2 T^3 / (27 n) + g / (6 sqrt(n)), which can be inverted. The
upper end lies farther from the mean than the lower one, by more the longer the tail.
Shapes: N queries in C clusters.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit

from cosmos_eval.stats.estimates import MeanRank
from cosmos_eval.types import Interval

HALL = "Hall's t"
_LEAST_SKEWNESS = 1e-8  # a lower skewness changes nothing but rounding
_LEAST_SPREAD = 1e-12  # a lower spread, relative to the mean, is rounding


def mean_rank_interval(mean: MeanRank, level: float) -> Interval | None:
    """Return Hall's interval of a mean rank, or None for a single cluster, which has no variance.

    With the mean m of C clusters, its standard error e and the quantile t of Student's
    distribution with C - 1 degrees of freedom, the interval goes from m - T(t) e to m - T(-t) e.
    T inverts Hall's transformation h. Without skewness, T(t) = t, and the interval is Student's.

    If all clusters have the same mean rank, nothing varies. The interval is then m -+ u, where u
    is Clopper and Pearson's upper limit, 1 - ((1 - level) / 2)^(1 / C), for the share of queries
    that this sample happens to lack, and that are taken to be one rank away. For example, 100
    queries of rank 3 have the 95% interval from 2.964 to 3.036.

    Args:
        mean: The ranks of queries, and the clusters of queries that depend on each other.
        level: The probability that the interval contains the population's mean rank.
    """
    _, cluster_index = np.unique(mean.clusters, return_inverse=True)
    sums = np.bincount(cluster_index, weights=mean.values)
    sizes = np.bincount(cluster_index)
    n_clusters = len(sizes)
    value = mean.value
    if n_clusters < 2:
        return None
    deviations = (sums - value * sizes) / sizes.mean()
    spread = math.sqrt(float(np.square(deviations).mean()))
    nothing_varies = spread < _LEAST_SPREAD * value
    if nothing_varies:
        unseen_share = 1 - ((1 - level) / 2) ** (1 / n_clusters)
        return Interval(max(1.0, value - unseen_share), value + unseen_share, HALL, level)

    standard_error = spread / math.sqrt(n_clusters - 1)
    scaled_skewness = float((deviations**3).mean()) / spread**3 / math.sqrt(n_clusters)
    quantile = float(stdtrit(n_clusters - 1, (1 + level) / 2))
    low = value - _invert_transformation(quantile, scaled_skewness) * standard_error
    high = value - _invert_transformation(-quantile, scaled_skewness) * standard_error
    return Interval(max(1.0, low), high, HALL, level)


def _invert_transformation(quantile: float, scaled_skewness: float) -> float:
    """Return the number T for which Hall's transformation h(T) equals a quantile.

    The transformation is h(T) = T + s T^2 / 3 + s^2 T^3 / 27 + s / 6, which equals
    ((1 + s T / 3)^3 - 1) / s + s / 6. So T is 3 / s * (cbrt(1 + s * (quantile - s / 6)) - 1).

    Args:
        quantile: The quantile of Student's t, such as 1.98.
        scaled_skewness: s, the skewness of the ranks divided by the root of their number. For a
            skewness of almost 0, T is the quantile itself.
    """
    if abs(scaled_skewness) < _LEAST_SKEWNESS:
        return quantile
    cube = 1 + scaled_skewness * (quantile - scaled_skewness / 6)
    return 3 / scaled_skewness * (float(np.cbrt(cube)) - 1)
