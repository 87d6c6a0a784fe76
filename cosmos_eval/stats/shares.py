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
    n_hits: Values
    # The number of samples.
    n_samples: Values


def group_counts(mean: GroupMean) -> GroupCounts:
    """Return the number of hits and of samples of each group.

    For example, the hits [1, 0, 1] in the groups [0, 0, 1] have the counts [1, 1] of [2, 1].

    With clusters, which are sets of samples that depend on each other, each cluster counts as one
    sample in all: all groups together have as many samples as there are clusters. They are divided
    in proportion to the number of clusters with samples in each group. The hits are scaled so that
    each group keeps its share of hits. If the samples above are in the clusters [0, 0, 1], the two
    clusters are divided evenly: the counts are [0.5, 1] of [1, 1].
    """
    _, group_index, sizes = np.unique(mean.groups, return_inverse=True, return_counts=True)
    n_hits = np.bincount(group_index, weights=mean.hits).astype(np.float64)
    if mean.clusters is None:
        return GroupCounts(n_hits, sizes.astype(np.float64))

    # The distinct pairs of a cluster and a group that have samples in common, (2, pairs).
    pairs = np.unique(np.stack([mean.clusters, group_index]), axis=1)
    cluster_of_pair, group_of_pair = pairs
    n_pairs = pairs.shape[1]
    n_clusters = len(np.unique(cluster_of_pair))
    clusters_of_group = np.bincount(group_of_pair).astype(np.float64)
    n_samples = clusters_of_group * n_clusters / n_pairs
    return GroupCounts(n_hits / sizes * n_samples, n_samples)


def all_or_none(mean: GroupMean, level: float) -> Interval:
    """Return the interval of a mean, or of the lowest, of shares that is exactly 0 or 1.

    One end is the value. The other end is the most extreme value of a population under which such
    samples have a probability of (1 - level) / 2. The misses (or hits) of that population may be
    in any of its groups.

    Args:
        mean: A mean, or the lowest, of the groups' shares of hits, whose value is 0 or 1.
        level: The probability that the interval contains the population's value.

    Example:
        10 hits of 10 samples have the 95% interval from 0.025^(1/10) = 0.69 to 1, because all of 10
        samples are hits with a probability of 0.025 if the share of the population is 0.69.
    """
    n_hits, n_samples = group_counts(mean)
    # A probability of (1 - level) / 2, as a distance of the log-likelihood from its maximum, 0.
    log_likelihood_loss = -math.log((1 - level) / 2)
    is_all_hits = bool(mean.value)
    if mean.lowest:  # only in stored results: new results have the interval of `lowest_share`
        # If all samples are hits, the smallest group may have most misses. Otherwise, the largest
        # group without hits says most about how high the lowest share may be.
        n_deciding = n_samples.min() if is_all_hits else n_samples[n_hits == 0].max()
        width = -math.expm1(-log_likelihood_loss / n_deciding)  # 1 - probability^(1 / n_deciding)
    else:
        # The interval of no hits is the mirror image of the interval of all hits.
        lowest_mean, _ = _likelihood_interval(n_samples, n_samples, log_likelihood_loss)
        width = 1 - lowest_mean
    low, high = (1 - width, 1.0) if is_all_hits else (0.0, width)
    return Interval(float(low), float(high), ALL_OR_NONE, level)


def lowest_share(mean: GroupMean, level: float) -> Interval:
    """Return the interval of the lowest share of hits of a population's groups.

    Each group has Clopper and Pearson's interval. The result goes from the lowest of their lower
    bounds to the lowest of their upper bounds. For example, groups with 9 and 5 hits of 10 samples
    have the lower bounds 0.55 and 0.19, and the upper bounds 0.999 and 0.84: the 95% interval is
    0.19 to 0.84.

    The lower bounds need no correction for the number of groups. The upper bounds are corrected for
    it (Sidak 1967), because the group with the worst luck is chosen: the lowest share of samples
    lies below the lowest share of the population. The correction is exact if all groups are equal,
    and too wide if one group is far below the others.

    Args:
        mean: The hits of all groups.
        level: The probability that the interval contains the population's lowest share.
    """
    n_hits, n_samples = group_counts(mean)
    n_misses = n_samples - n_hits
    n_groups = len(n_samples)
    tail = (1 - level) / 2
    corrected_tail = -math.expm1(math.log1p(-tail) / n_groups)  # 1 - (1 - tail)^(1 / n_groups)
    has_hits, has_misses = n_hits > 0, n_hits < n_samples
    # Clopper and Pearson's bounds are quantiles of beta distributions. The lower bound of a group
    # without hits is 0.
    low_of_groups = np.zeros(n_groups)
    low_of_groups[has_hits] = betaincinv(n_hits[has_hits], (n_misses + 1)[has_hits], tail)
    # The upper bound of a group without misses is 1.
    high_of_groups = np.ones(n_groups)
    high_of_groups[has_misses] = betaincinv(
        (n_hits + 1)[has_misses], n_misses[has_misses], 1 - corrected_tail
    )
    return Interval(float(low_of_groups.min()), float(high_of_groups.min()), LOWEST, level)


def stratified(mean: GroupMean, level: float) -> Interval:
    """Return the interval of the mean share of hits of the groups that have samples.

    At each end, it is the wider one of two intervals: the profile likelihood's, and Wilson's with
    the effective number of samples n = m (1 - m) / variance, where m is the mean share. With the
    quantile z of the normal distribution, Wilson's interval is

        (m + z^2 / (2 n) -+ z sqrt(m (1 - m) / n + z^2 / (4 n^2))) / (1 + z^2 / n)

    A group of one sample does not show its variance. Therefore, each such group gets the variance
    p (1 - p) of the share p of hits among all of them. It is at least their mean variance.

    Args:
        mean: The mean of the groups' shares of hits, whose value is neither 0 nor 1.
        level: The probability that the interval contains the population's mean share.
    """
    n_hits, n_samples = group_counts(mean)
    shares = n_hits / n_samples
    has_one_sample = n_samples <= 1
    # The variance of each group's share, (G,).
    variances = shares * (1 - shares) / np.where(has_one_sample, 1, n_samples - 1)
    if has_one_sample.any():
        # One hit and one miss are added, so that the variance is above 0.
        share_of_singles = (n_hits[has_one_sample].sum() + 1) / (has_one_sample.sum() + 2)
        variances[has_one_sample] = share_of_singles * (1 - share_of_singles)
    mean_share = float(shares.mean())
    variance = float(variances.sum()) / len(n_samples) ** 2  # of the mean share

    low, high = likely_means(n_hits, n_samples, level)
    if variance > 0:
        # z^2 / n of the formula above.
        z2_over_n = float(ndtri((1 + level) / 2)) ** 2 * variance / (mean_share * (1 - mean_share))
        center = (mean_share + z2_over_n / 2) / (1 + z2_over_n)
        root = math.sqrt(mean_share * (1 - mean_share) * z2_over_n + z2_over_n**2 / 4)
        half_width = root / (1 + z2_over_n)
        low = min(low, center - half_width)
        high = max(high, center + half_width)
    return Interval(max(0.0, low), min(1.0, high), STRATIFIED, level)


def or_likelihood(bootstrap: Interval, mean: GroupMean, level: float) -> Interval:
    """Return the shortest interval that contains two: the bootstrap's and the likelihood's.

    The bootstrap interval is too narrow if a group has only hits: no resample has misses in that
    group, although the population of the group may have some. The profile likelihood takes account
    of them. For example, 0.8 to 0.9 by the bootstrap and 0.75 to 0.88 by the likelihood give 0.75
    to 0.9.

    Args:
        bootstrap: The bootstrap interval of the mean.
        mean: The mean of the groups' shares of hits.
        level: The probability that the interval contains the population's mean.
    """
    n_hits, n_samples = group_counts(mean)
    low, high = likely_means(n_hits, n_samples, level)
    method = OR_LIKELIHOOD if mean.clusters is None else CLUSTERS_OR_LIKELIHOOD
    return Interval(min(bootstrap.low, low), max(bootstrap.high, high), method, level)


def likely_means(n_hits: NDArray[Any], n_samples: Values, level: float) -> tuple[float, float]:
    """Return the least and the largest mean of G proportions under which the counts are likely.

    The two means are the ends of the profile likelihood's interval: means are likely if the best
    log-likelihood of any proportions with this mean is at most z^2 / 2 below the maximum, where z
    is the quantile of the normal distribution, such as 1.96 for 95%. If all samples are hits, or
    none, they are the ends of `all_or_none`.

    Args:
        n_hits: (G,), the number of hits of each group.
        n_samples: (G,), the number of samples of each group.
        level: The probability that the population's mean lies between the two means.

    Example:
        9 and 5 hits of 10 samples each have a mean share of 0.7, and the 95% interval (0.51, 0.86).
    """
    if not n_hits.any() or np.array_equal(n_hits, n_samples):
        loss = -math.log((1 - level) / 2)
    else:
        loss = float(ndtri((1 + level) / 2)) ** 2 / 2
    return _likelihood_interval(n_hits, n_samples, loss)


def _likelihood_interval(
    n_hits: NDArray[Any], n_samples: Values, loss: float
) -> tuple[float, float]:
    """Return the least and the largest mean of G proportions that explain the counts well enough.

    Proportions p (G,) have the log-likelihood

        sum over groups of (n_hits log p + (n_samples - n_hits) log(1 - p))

    They explain the counts well enough if it is at most `loss` below its maximum, which the
    proportions n_hits / n_samples have. The least mean is 0 without hits, and the largest mean is 1
    without misses.

    Args:
        n_hits: (G,), the number of hits of each group.
        n_samples: (G,), the number of samples of each group.
        loss: How far the log-likelihood may lie below its maximum.

    Example:
        10 hits of 10 samples have the maximum 0. The least proportion is exp(-loss / 10), for which
        the log-likelihood 10 log p is -loss.
    """
    profile = _LikelihoodProfile(n_hits, n_samples, loss)
    least_mean, largest_mean = 0.0, 1.0
    if n_hits.any():
        least_mean = profile.mean_at_limit(sign=1.0)
    if not np.array_equal(n_hits, n_samples):
        largest_mean = profile.mean_at_limit(sign=-1.0)
    return least_mean, largest_mean


class _LikelihoodProfile:
    """The largest log-likelihood of counts, for each mean of the G proportions behind them.

    The counts are h hits among n samples in each group. Among all proportions p (G,) with the same
    mean, the likeliest ones are those for which h / p - (n - h) / (1 - p) is the same number in all
    groups: the Lagrange multiplier of the mean. The multiplier 0 belongs to the proportions h / n,
    which have the maximum of all log-likelihoods. The mean falls as the multiplier rises.
    """

    def __init__(self, n_hits: NDArray[Any], n_samples: Values, loss: float) -> None:
        """Keep the counts.

        Args:
            n_hits: (G,), the number h of hits of each group.
            n_samples: (G,), the number n of samples of each group.
            loss: How far the log-likelihood may lie below its maximum.
        """
        self.n_hits = n_hits
        self.n_samples = n_samples
        self.loss = loss

    def mean_at_limit(self, sign: float) -> float:
        """Return a mean whose largest log-likelihood is exactly `loss` below the maximum.

        There are two such means. For sign 1, it is the one below the likeliest mean, and for
        sign -1 the one above it.
        """
        from scipy.optimize import brentq  # loading it takes long, and few commands need it

        # The excess loss is below 0 near the multiplier 0, and above 0 far from it. In between, it
        # is 0 at the multiplier that is searched for.
        far_multiplier = sign * float(self.n_samples.max())
        while self._excess_loss(far_multiplier) < 0:
            far_multiplier *= 2
        multiplier = brentq(self._excess_loss, sign * 1e-9, far_multiplier)
        return float(self._likeliest_proportions(multiplier).mean())

    def _excess_loss(self, multiplier: float) -> float:
        """Return how far the log-likelihood is below its maximum, minus the allowed `loss`.

        The log-likelihood is the one of the proportions that belong to a Lagrange multiplier.
        """
        n_hits = self.n_hits
        n_misses = self.n_samples - n_hits
        share = n_hits / self.n_samples
        proportion = self._likeliest_proportions(multiplier)
        # xlogy(x, y) is x log y, and 0 if x is 0.
        loss_of_groups = xlogy(n_hits, share) - xlogy(n_hits, proportion)
        loss_of_groups += xlogy(n_misses, 1 - share) - xlogy(n_misses, 1 - proportion)
        return float(loss_of_groups.sum()) - self.loss

    def _likeliest_proportions(self, multiplier: float) -> Values:
        """Return the proportions p (G,) that belong to a Lagrange multiplier l.

        They solve l = h / p - (n - h) / (1 - p), which is l p^2 - (n + l) p + h = 0. The solution

            p = (n + l - root) / (2 l)    with root = sqrt((n + l)^2 - 4 l h)

        loses digits if l is small. The same number is 2 h / (n + l + root), which is used if n + l
        is above 0.
        """
        total = self.n_samples + multiplier
        root = np.sqrt(np.maximum(0, np.square(total) - 4 * multiplier * self.n_hits))
        proportions = (total - root) / (2 * multiplier)
        return np.divide(2 * self.n_hits, total + root, out=proportions, where=total > 0)
