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
    """The counts of each group that has samples, (G,) each. Clusters make them fractions."""

    # The number of hits.
    right: Values
    # The number of samples.
    samples: Values


def group_counts(mean: GroupMean) -> GroupCounts:
    """Return the number of hits and of samples of each group.

    With clusters, each cluster counts as one sample in all: all groups together have as many
    samples as there are clusters. They are divided in proportion to the number of clusters with
    samples in each group. The hits are scaled so that each group keeps its share of hits.
    """
    _, group, sizes = np.unique(mean.groups, return_inverse=True, return_counts=True)
    right = np.bincount(group, weights=mean.hits).astype(np.float64)
    if mean.clusters is None:
        return GroupCounts(right, sizes.astype(np.float64))
    # The distinct pairs of a cluster and a group that have samples in common, (2, pairs).
    cluster_group_pairs = np.unique(np.stack([mean.clusters, group]), axis=1)
    n_pairs = cluster_group_pairs.shape[1]
    n_clusters = len(np.unique(cluster_group_pairs[0]))
    clusters_of_group = np.bincount(cluster_group_pairs[1]).astype(np.float64)
    samples = clusters_of_group * n_clusters / n_pairs
    return GroupCounts(right / sizes * samples, samples)


def all_or_none(mean: GroupMean, level: float) -> Interval:
    """Return the interval of a mean, or of the lowest, of shares that is exactly 0 or 1.

    One end is the value. The other end is the most extreme value of a population under which such
    samples have a probability of (1 - level) / 2. The misses (or hits) of that population may be
    in any of its groups.
    """
    right, n = group_counts(mean)
    # A probability of (1 - level) / 2 as the log-likelihood that is lost.
    loss = -math.log((1 - level) / 2)
    is_all_hits = bool(mean.value)
    if mean.lowest:  # only in stored results: new results have the interval of `lowest_share`
        n_deciding = n.min() if is_all_hits else n[right == 0].max()
        width = -math.expm1(-loss / n_deciding)
    else:
        width = 1 - _means_with_loss(n, n, loss)[0]
    low, high = (1 - width, 1.0) if is_all_hits else (0.0, width)
    return Interval(float(low), float(high), ALL_OR_NONE, level)


def lowest_share(mean: GroupMean, level: float) -> Interval:
    """Return the interval of the lowest share of hits of a population's groups.

    It goes from the lowest of all groups' lower bounds to the lowest of their upper bounds, by
    Clopper and Pearson. The lower bounds need no correction for the number of groups. The upper
    bounds are corrected for it (Sidak 1967), because the group with the worst luck is chosen: the
    lowest share of samples lies below the lowest share of the population. The correction is exact
    if all groups are equal, and too wide if one group is far below the others.
    """
    right, n = group_counts(mean)
    wrong = n - right
    tail = (1 - level) / 2
    corrected_tail = -math.expm1(math.log1p(-tail) / len(n))  # 1 - (1 - tail)^(1 / groups)
    has_hits, has_misses = right > 0, right < n
    low_of_groups = np.zeros(len(n))
    low_of_groups[has_hits] = betaincinv(right[has_hits], (wrong + 1)[has_hits], tail)
    high_of_groups = np.ones(len(n))
    high_of_groups[has_misses] = betaincinv(
        (right + 1)[has_misses], wrong[has_misses], 1 - corrected_tail
    )
    return Interval(float(low_of_groups.min()), float(high_of_groups.min()), LOWEST, level)


def stratified(mean: GroupMean, level: float) -> Interval:
    """Return the interval of the mean share of the groups that have samples.

    At each end, it is the wider one of two intervals: Wilson's with the effective number of
    samples, and the profile likelihood's. A group of one sample does not show its variance.
    Therefore, each such group gets the variance p * (1 - p) of the share p of hits among all of
    them. It is at least their mean variance.
    """
    right, n = group_counts(mean)
    shares, has_one_sample = right / n, n <= 1
    variances = shares * (1 - shares) / np.where(has_one_sample, 1, n - 1)
    if has_one_sample.any():
        # One hit and one miss are added, so that the variance is above 0.
        share_of_singles = (right[has_one_sample].sum() + 1) / (has_one_sample.sum() + 2)
        variances[has_one_sample] = share_of_singles * (1 - share_of_singles)
    value = float(shares.mean())
    variance = float(variances.sum()) / len(n) ** 2  # of the mean share
    low, high = likely_means(right, n, level)
    if variance > 0:
        # z^2 / n, where n = value * (1 - value) / variance is the effective number of samples.
        z2_over_n = float(ndtri((1 + level) / 2)) ** 2 * variance / (value * (1 - value))
        center = (value + z2_over_n / 2) / (1 + z2_over_n)
        half = math.sqrt(value * (1 - value) * z2_over_n + z2_over_n**2 / 4) / (1 + z2_over_n)
        low, high = min(low, center - half), max(high, center + half)
    return Interval(max(0.0, low), min(1.0, high), STRATIFIED, level)


def or_likelihood(drawn: Interval, mean: GroupMean, level: float) -> Interval:
    """Return the bootstrap interval of a mean over groups, widened by the profile likelihood's.

    `drawn` is the bootstrap interval. It is too narrow if a group has only hits: no resample has
    misses in that group, although the population of the group may have some.
    """
    low, high = likely_means(*group_counts(mean), level)
    method = OR_LIKELIHOOD if mean.clusters is None else CLUSTERS_OR_LIKELIHOOD
    return Interval(min(drawn.low, low), max(drawn.high, high), method, level)


def likely_means(right: NDArray[Any], n: Values, level: float) -> tuple[float, float]:
    """Return the least and the largest mean of G proportions under which the counts are likely.

    `right` (G,) of `n` (G,) samples are hits. The two means are the ends of the profile
    likelihood's interval. If all samples are hits, or none, they are the ends of `all_or_none`.
    """
    if not right.any() or np.array_equal(right, n):
        return _means_with_loss(right, n, -math.log((1 - level) / 2))
    return _means_with_loss(right, n, float(ndtri((1 + level) / 2)) ** 2 / 2)


def _means_with_loss(right: NDArray[Any], n: Values, loss: float) -> tuple[float, float]:
    """Return the least and the largest mean of G proportions whose log-likelihood is high enough.

    `right` (G,) of `n` (G,) samples are hits. The log-likelihood may be `loss` below its maximum.
    The least mean is 0 without hits, and the largest mean is 1 without misses.
    """
    profile = _LikelihoodProfile(right, n, loss)
    low, high = 0.0, 1.0
    if right.any():
        low = profile.mean_at_limit(sign=1.0)
    if not np.array_equal(right, n):
        high = profile.mean_at_limit(sign=-1.0)
    return low, high


class _LikelihoodProfile:
    """The largest log-likelihood of counts, for each mean of the G proportions behind them.

    `right` (G,) of `n` (G,) samples are hits. Of all proportions p (G,) with a given mean, those
    are likeliest for which right / p - (n - right) / (1 - p) is the same number in all groups, the
    Lagrange multiplier. The multiplier 0 belongs to the proportions right / n, which have the
    maximum of all log-likelihoods. The mean falls as the multiplier rises.
    """

    def __init__(self, right: NDArray[Any], n: Values, loss: float) -> None:
        self.right = right
        self.n = n
        self.loss = loss  # how far the log-likelihood may lie below its maximum

    def mean_at_limit(self, sign: float) -> float:
        """Return the mean of proportions whose log-likelihood is `loss` below the maximum.

        It is the mean below the maximum for sign 1, and the mean above it for sign -1.
        """
        from scipy.optimize import brentq  # loading it takes long, and few commands need it

        end = sign * float(self.n.max())
        while self._excess_loss(end) < 0:
            end *= 2
        multiplier = brentq(self._excess_loss, sign * 1e-9, end)
        return float(self._proportions(multiplier).mean())

    def _excess_loss(self, multiplier: float) -> float:
        """Return how far the log-likelihood is below its maximum, minus the allowed loss."""
        right, wrong = self.right, self.n - self.right
        share, proportion = right / self.n, self._proportions(multiplier)
        loss = xlogy(right, share) - xlogy(right, proportion)
        loss += xlogy(wrong, 1 - share) - xlogy(wrong, 1 - proportion)
        return float(loss.sum()) - self.loss

    def _proportions(self, multiplier: float) -> Values:
        """Return the likeliest proportions (G,) with this multiplier.

        They solve multiplier * p^2 - (n + multiplier) * p + right = 0. Its solution
        (total - root) / (2 * multiplier) loses digits if the multiplier is small. The same number
        is 2 * right / (total + root), which is used if total is above 0.
        """
        total = self.n + multiplier
        root = np.sqrt(np.maximum(0, np.square(total) - 4 * multiplier * self.right))
        proportions = (total - root) / (2 * multiplier)
        return np.divide(2 * self.right, total + root, out=proportions, where=total > 0)
