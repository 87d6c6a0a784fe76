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

    If all clusters have the same mean, the interval is value -+ share x 1 rank. The share is
    Clopper and Pearson's upper limit for the share of queries that this sample happens to lack.
    These queries are taken to be one rank away.
    """
    _, cluster = np.unique(mean.clusters, return_inverse=True)
    sums, sizes = np.bincount(cluster, weights=mean.values), np.bincount(cluster)
    n, value = len(sizes), mean.value
    if n < 2:
        return None
    deviations = (sums - value * sizes) / sizes.mean()
    spread = math.sqrt(float(np.square(deviations).mean()))
    if spread < _LEAST_SPREAD * value:
        unseen_share = 1 - ((1 - level) / 2) ** (1 / n)
        return Interval(max(1.0, value - unseen_share), value + unseen_share, HALL, level)
    error = spread / math.sqrt(n - 1)
    skewness = float((deviations**3).mean()) / spread**3 / math.sqrt(n)
    quantile = float(stdtrit(n - 1, (1 + level) / 2))
    low = value - _inverse(quantile, skewness) * error
    high = value - _inverse(-quantile, skewness) * error
    return Interval(max(1.0, low), high, HALL, level)


def _inverse(quantile: float, skewness: float) -> float:
    """Return the studentized mean T for which h(T) = quantile. `skewness` is g / sqrt(n)."""
    if abs(skewness) < _LEAST_SKEWNESS:
        return quantile
    cube = 1 + skewness * (quantile - skewness / 6)
    return 3 / skewness * (float(np.cbrt(cube)) - 1)
