"""Confidence intervals of the mean of several shares, where no resample shows what is possible.

Of a share of 0 or 1 the interval is Clopper and Pearson's (1934, Biometrika 26); otherwise that of
the profile likelihood. Shapes: N samples, G groups.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri, xlogy

from cosmos_eval.stats.estimates import GroupMean, Values
from cosmos_eval.types import Interval

ALL_OR_NONE = "exact, all or none"
OR_LIKELIHOOD = "bootstrap or likelihood"


def all_or_none(mean: GroupMean, level: float) -> Interval:
    """Return the interval of a mean, or the lowest, of shares that is exactly 0 or 1, which no
    resample changes: to the most extreme value whose probability of such samples is (1 - level) / 2
    still, however it is spread over the groups. Of one group it is Clopper and Pearson's (1934,
    Biometrika 26). Clusters count once, those of several groups in parts."""
    owner = np.arange(len(mean.hits)) if mean.clusters is None else mean.clusters
    cells = np.unique(np.stack([owner, mean.groups]), axis=1)
    group, sizes = np.unique(cells[1], return_counts=True)
    n = sizes.astype(np.float64) * len(np.unique(owner)) / len(cells[0])
    unlikely, is_all = -math.log((1 - level) / 2), bool(mean.value)
    if mean.lowest:
        none = [not mean.hits[mean.groups == one].any() for one in group]
        reach = -math.expm1(-unlikely / (n.min() if is_all else n[none].max()))
    else:
        reach = 1 - _profile(n, n, unlikely)[0]
    low, high = (1 - reach, 1.0) if is_all else (0.0, reach)
    return Interval(float(low), float(high), ALL_OR_NONE, level)


def or_likelihood(drawn: Interval, mean: GroupMean, level: float) -> Interval:
    """Return an interval of drawn means of groups, widened to that of the profile likelihood: no
    resample has misses in a group of few samples that are all right."""
    _, group, n = np.unique(mean.groups, return_inverse=True, return_counts=True)
    right = np.bincount(group, weights=mean.hits)
    low, high = _profile(right, n.astype(np.float64), float(ndtri((1 + level) / 2)) ** 2 / 2)
    return Interval(min(drawn.low, low), max(drawn.high, high), OR_LIKELIHOOD, level)


def _profile(right: NDArray[Any], n: Values, fall: float) -> tuple[float, float]:
    """Return the least and the largest mean of proportions (G,), of which `right` of `n` are found,
    whose greatest log-likelihood is `fall` below the maximum. It is at the proportions p where
    right / p - (n - right) / (1 - p) is the same multiplier for all groups (Lagrange)."""

    def proportions(multiplier: float) -> Values:
        total = n + multiplier
        root = np.sqrt(np.maximum(0, np.square(total) - 4 * multiplier * right))
        found = (total - root) / (2 * multiplier)  # which cancels where the multiplier is small
        return np.divide(2 * right, total + root, out=found, where=total > 0)

    def excess(multiplier: float) -> float:
        p, share = proportions(multiplier), right / n
        fallen = xlogy(right, share) - xlogy(right, p)
        fallen += xlogy(n - right, 1 - share) - xlogy(n - right, 1 - p)
        return float(fallen.sum()) - fall

    ends = []
    for end, sign in ((0.0, 1.0), (1.0, -1.0)):
        if not np.array_equal(right, end * n):
            beyond = sign * float(n.max())
            while excess(beyond) < 0:
                beyond *= 2
            end = float(proportions(brentq(excess, sign * 1e-9, beyond)).mean())
        ends.append(end)
    return ends[0], ends[1]
