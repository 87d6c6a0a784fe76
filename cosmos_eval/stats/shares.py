"""Confidence intervals of the mean and of the lowest of several shares.

A share of a few samples that are all right, or all wrong, does not change in any resample, although
the share of the population is hardly 0 or 1. Therefore, the intervals here use binomial counts:

- Clopper and Pearson's (1934, Biometrika 26), for the lowest share, and if all shares are 0 or 1.
- Wilson's (1927), with the effective number of samples of a stratified mean, whose strata of one
  sample are collapsed into one (Cochran 1977, "Sampling Techniques", section 5A.12).
- The profile likelihood's, which also takes account of strata in which no sample is wrong.

Shapes: N samples, G groups.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri, xlogy

from cosmos_eval.stats.estimates import GroupMean, Values
from cosmos_eval.types import Interval

ALL_OR_NONE = "exact, all or none"
LOWEST = "exact, lowest of groups"
OR_LIKELIHOOD = "bootstrap or likelihood"
CLUSTERS_OR_LIKELIHOOD = "cluster bootstrap or likelihood"
STRATIFIED = "stratified Wilson or likelihood"


class GroupCounts(NamedTuple):
    """The numbers of hits and of samples of each group that has samples, (G,) each."""

    right: Values
    samples: Values


def group_counts(mean: GroupMean) -> GroupCounts:
    """Count the hits and the samples of each group.

    The samples of a group that lie in one cluster count as one sample. A cluster with samples in
    several groups counts in part in each of them.
    """
    _, group, sizes = np.unique(mean.groups, return_inverse=True, return_counts=True)
    right = np.bincount(group, weights=mean.hits).astype(np.float64)
    if mean.clusters is None:
        return GroupCounts(right, sizes.astype(np.float64))
    cells = np.unique(np.stack([mean.clusters, group]), axis=1)
    clusters_of_group = np.bincount(cells[1]).astype(np.float64)
    samples = clusters_of_group * len(np.unique(cells[0])) / cells.shape[1]
    return GroupCounts(right / sizes * samples, samples)


def all_or_none(mean: GroupMean, level: float) -> Interval:
    """Return the interval of a mean, or the lowest, of shares that is exactly 0 or 1.

    It reaches to the most extreme value under which such samples have a probability of (1 - level)
    / 2, however the misses, or hits, are spread over the groups.
    """
    right, n = group_counts(mean)
    unlikely = -math.log((1 - level) / 2)
    is_all = bool(mean.value)
    if mean.lowest:  # only in stored results: new results have the interval of `lowest_share`
        reach = -math.expm1(-unlikely / (n.min() if is_all else n[right == 0].max()))
    else:
        reach = 1 - _likely_means(n, n, unlikely)[0]
    low, high = (1 - reach, 1.0) if is_all else (0.0, reach)
    return Interval(float(low), float(high), ALL_OR_NONE, level)


def lowest_share(mean: GroupMean, level: float) -> Interval:
    """Return the interval of the lowest share of a population's groups.

    The lowest share of samples lies below the lowest share of the population, because the group
    with the worst luck is chosen. The lowest share of the population is at least the lowest of all
    lower bounds, which need no correction, and at most each of the upper bounds. Upper bounds are
    corrected for their number (Sidak 1967), which is exact if all groups are equal, and too wide if
    one group is far below the others.
    """
    right, n = group_counts(mean)
    error = (1 - level) / 2
    corrected = -math.expm1(math.log1p(-error) / len(n))
    low = np.zeros(len(n))
    has_hits, has_misses = right > 0, right < n
    low[has_hits] = betaincinv(right[has_hits], (n - right + 1)[has_hits], error)
    high = np.ones(len(n))
    high[has_misses] = betaincinv((right + 1)[has_misses], (n - right)[has_misses], 1 - corrected)
    return Interval(float(low.min()), float(high.min()), LOWEST, level)


def stratified(mean: GroupMean, level: float) -> Interval:
    """Return the interval of the mean share of the groups that have samples.

    It is Wilson's with the effective number of samples or the profile likelihood's, the wider one
    at each end. A group of one sample does not show its variance. All such groups together have the
    variance of the share of them that is right, which is at least their mean variance.
    """
    right, n = group_counts(mean)
    shares, is_single = right / n, n <= 1
    variances = shares * (1 - shares) / np.where(is_single, 1, n - 1)
    if is_single.any():
        share_of_singles = (right[is_single].sum() + 1) / (is_single.sum() + 2)
        variances[is_single] = share_of_singles * (1 - share_of_singles)
    value, variance = float(shares.mean()), float(variances.sum()) / len(n) ** 2
    low, high = likely_means(right, n, level)
    if variance > 0:
        # z^2 / n, where n = value * (1 - value) / variance is the effective number of samples.
        z2_over_n = float(ndtri((1 + level) / 2)) ** 2 * variance / (value * (1 - value))
        center = (value + z2_over_n / 2) / (1 + z2_over_n)
        half = math.sqrt(value * (1 - value) * z2_over_n + z2_over_n**2 / 4) / (1 + z2_over_n)
        low, high = min(low, center - half), max(high, center + half)
    return Interval(max(0.0, low), min(1.0, high), STRATIFIED, level)


def or_likelihood(drawn: Interval, mean: GroupMean, level: float) -> Interval:
    """Return the interval of resampled means of groups, widened to the profile likelihood's.

    No resample has misses in a group of few samples that are all right, although the population of
    that group may have some.
    """
    low, high = likely_means(*group_counts(mean), level)
    method = OR_LIKELIHOOD if mean.clusters is None else CLUSTERS_OR_LIKELIHOOD
    return Interval(min(drawn.low, low), max(drawn.high, high), method, level)


def likely_means(right: NDArray[Any], n: Values, level: float) -> tuple[float, float]:
    """Return the least and the largest mean of G proportions under which the counts are likely.

    `right` (G,) of `n` (G,) samples are right. The limits are the ends of the profile
    likelihood's interval, or of `all_or_none`'s if all samples are right, or none.
    """
    if not right.any() or np.array_equal(right, n):
        return _likely_means(right, n, -math.log((1 - level) / 2))
    return _likely_means(right, n, float(ndtri((1 + level) / 2)) ** 2 / 2)


def _likely_means(right: NDArray[Any], n: Values, fall: float) -> tuple[float, float]:
    """Return the least and the largest mean of proportions whose log-likelihood is high enough.

    `right` (G,) of `n` (G,) samples are right. The greatest log-likelihood of proportions with
    these means is `fall` below the maximum. The likeliest proportions p with a given mean are those
    for which right / p - (n - right) / (1 - p) is the same multiplier in all groups (Lagrange).
    """
    from scipy.optimize import brentq  # loading it takes long, and few commands need it

    def proportions(multiplier: float) -> Values:
        total = n + multiplier
        root = np.sqrt(np.maximum(0, np.square(total) - 4 * multiplier * right))
        # This form loses digits if the multiplier is small, and is replaced where the other holds.
        likeliest = (total - root) / (2 * multiplier)
        return np.divide(2 * right, total + root, out=likeliest, where=total > 0)

    def excess(multiplier: float) -> float:
        p, share = proportions(multiplier), right / n
        loss = xlogy(right, share) - xlogy(right, p)
        loss += xlogy(n - right, 1 - share) - xlogy(n - right, 1 - p)
        return float(loss.sum()) - fall

    ends = []
    for end, sign in ((0.0, 1.0), (1.0, -1.0)):
        if not np.array_equal(right, end * n):
            beyond = sign * float(n.max())
            while excess(beyond) < 0:
                beyond *= 2
            end = float(proportions(brentq(excess, sign * 1e-9, beyond)).mean())
        ends.append(end)
    return ends[0], ends[1]
