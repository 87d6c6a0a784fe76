"""Confidence intervals of estimates.

They are Wilson's score interval, the jackknife, the percentile bootstrap, the intervals of shares
of groups (`stats.shares`) and of ranks (`stats.mean_rank`), and one for samples that are all alike.

Wilson 1927, "Probable inference", for clusters with an effective number of samples (Dean and Pagano
2015, "Evaluating confidence interval methods for binomial proportions in clustered surveys");
Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 11 and 13. Resampling whole
clusters keeps the dependence inside them: captions of one image are not independent.

Shapes: N samples, C clusters or kinds of clusters, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from cosmos_eval.stats.class_means import jackknife_ends
from cosmos_eval.stats.crossed import OVER_DRAWS, effective_samples
from cosmos_eval.stats.estimates import (
    CrossedMean,
    Estimate,
    FunctionOfSums,
    FunctionOfWeights,
    GroupMean,
    Mean,
    MeanRank,
    Median,
    Proportion,
    Values,
    ratio,
)
from cosmos_eval.stats.jackknife import sums_without_each
from cosmos_eval.stats.mean_rank import mean_rank_interval
from cosmos_eval.stats.shares import (
    ALL_OR_NONE,
    OR_LIKELIHOOD,
    all_or_none,
    lowest_share,
    or_likelihood,
    stratified,
)
from cosmos_eval.types import Interval

LEVEL = 0.95
RESAMPLES = 2_000
BOOTSTRAP = "bootstrap"
CLUSTER_BOOTSTRAP = "cluster bootstrap"
CROSSED_BOOTSTRAP = "crossed bootstrap"
JACKKNIFE = "jackknife t"
ALL_ALIKE = "exact, all alike"
_NO_WIDTH = 1e-9  # the width of an interval that rounding explains
_RESAMPLES_AT_ONCE = 200  # bounds memory: 200 x samples x 8 bytes

Estimates = Mapping[str, Estimate]
"""The estimates of one model, by name. For example, {"accuracy": Proportion(hits)}."""
Statistic = Callable[[Values], Mapping[str, Values]]
"""A function that computes estimates of one model in R resamples.

Its argument are weights (R, C): how often each of C clusters is drawn in each resample. It returns
the values (R,) of the estimates by name."""


def resample(
    statistics: Sequence[Statistic],
    counts: NDArray[np.integer],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    multinomial: bool = False,
    sizes: Sequence[int] = (),
) -> list[dict[str, Values]]:
    """Draw clusters of samples with replacement, and compute statistics of each resample.

    Args:
        statistics: Functions that compute values of a resample, for example one for each model.
            Each maps weights (R, C), how often each of C clusters is drawn in each of R resamples,
            to values (R,) by name. A resample that draws three clusters 2, 0 and 1 times has the
            weights [2, 0, 1]. All functions get the same weights.
        counts: (C,) is 1 for each cluster. Equal clusters may also be listed once, as a kind of
            clusters: the count is then the number of clusters of the kind, and the weights say how
            many clusters of the kind are drawn.
        seed: The seed of the random numbers.
        resamples: R, the number of resamples.
        multinomial: True if counts that are all 1 are drawn by a multinomial draw, as other counts
            are. By default, they are drawn one by one, which is ten times as fast. The distribution
            is the same, but the random numbers differ.
        sizes: The lengths of consecutive sections of `counts` that are drawn independently of each
            other. For example, (3, 2) stands for the first three and the last two of five
            clusters. By default, all clusters are one section.

    Returns:
        For each statistic, its values (R,) in all resamples, by name.

    Raises:
        ValueError: Clusters are not formed.
    """
    if not counts.sum():
        raise ValueError("no samples to resample")
    rng = np.random.default_rng(seed)
    is_multinomial = multinomial or (counts != 1).any()
    counts_of_sections = np.split(counts, np.cumsum(sizes[:-1], dtype=int))

    # To bound memory, weights are drawn for a chunk of the resamples at a time.
    chunks_of_statistics: list[list[Mapping[str, Values]]] = [[] for _ in statistics]
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        n_resamples = min(_RESAMPLES_AT_ONCE, resamples - start)
        weights_of_sections = []
        for section_counts in counts_of_sections:
            if is_multinomial:
                n_clusters = int(section_counts.sum())
                probabilities = section_counts / n_clusters
                weights = rng.multinomial(n_clusters, probabilities, n_resamples).astype(np.float64)
            else:
                weights = _draw_clusters(rng, len(section_counts), n_resamples)
            weights_of_sections.append(weights)
        joint_weights = np.concatenate(weights_of_sections, axis=1)
        for statistic, chunks in zip(statistics, chunks_of_statistics, strict=True):
            chunks.append(statistic(joint_weights))

    # Join the values of all chunks, which have the same names.
    values_of_statistics = []
    for chunks in chunks_of_statistics:
        values_by_name = {}
        for name in chunks[0]:
            values_by_name[name] = np.concatenate([chunk[name] for chunk in chunks])
        values_of_statistics.append(values_by_name)
    return values_of_statistics


def _draw_clusters(rng: np.random.Generator, n_clusters: int, n_resamples: int) -> Values:
    """Return how often each cluster is drawn in each resample, (n_resamples, n_clusters).

    Each resample draws `n_clusters` clusters from the generator of random numbers, with
    replacement. For example, a resample of three clusters may draw the first one twice and the last
    one once, which gives the row [2, 0, 1].
    """
    weights = np.empty((n_resamples, n_clusters))
    for weights_of_resample in weights:  # one at a time, which fits into a processor's cache
        drawn_clusters = rng.integers(n_clusters, size=n_clusters)
        weights_of_resample[:] = np.bincount(drawn_clusters, minlength=n_clusters)
    return weights


def group_by_drawn_sizes(estimates: Estimates) -> dict[tuple[int, ...], dict[str, Estimate]]:
    """Group estimates by how many clusters a bootstrap draws, so that each group can share draws.

    A cluster is a set of samples that depend on each other. An independent sample is a cluster of
    its own. Proportions, and means over groups of independent samples, are left out, because
    `resample` does not draw them by clusters.

    Returns:
        The estimates by name, by the sizes that are drawn. These are the number of clusters and,
        for a `CrossedMean`, the number of draws of its classifier. For example, {(500,):
        {"accuracy": ...}, (500, 10): {"few-shot accuracy": ...}}.
    """
    estimates_by_sizes: dict[tuple[int, ...], dict[str, Estimate]] = {}
    for name, estimate in estimates.items():
        sizes: tuple[int, ...]
        match estimate:
            case Proportion():
                continue
            case Mean(clusters=clusters) | Median(clusters=clusters):
                sizes = (len(np.unique(clusters)),)
            case GroupMean(clusters=clusters_or_none):
                if clusters_or_none is None:
                    continue
                sizes = (len(np.unique(clusters_or_none)),)
            case CrossedMean(hits):
                sizes = hits.shape
            case FunctionOfSums(terms):
                sizes = (len(terms[0]),)
            case FunctionOfWeights(samples):
                sizes = (len(samples),)
        estimates_by_sizes.setdefault(sizes, {})[name] = estimate
    return estimates_by_sizes


def statistic_of(estimates: Estimates, products: dict[int, Product] | None = None) -> Statistic:
    """Return the function that computes all estimates of a model in a bootstrap.

    Estimates that have an array in common are computed together, by one matrix product.

    Args:
        estimates: The estimates of the model by name. All of them have the same C clusters.
        products: A cache that the functions of several models may share. Terms of sums that the
            models have in common, such as labelled pixels, are then multiplied with the weights
            once for all models.

    Returns:
        A function that maps weights (R, C), how often each of C clusters is drawn in each of R
        resamples, to the values (R,) of the estimates by name.

    Example:
        >>> mean = Mean(values=np.array([1, 0, 1]), clusters=np.array([0, 1, 1]))
        >>> statistic_of({"accuracy": mean})(np.array([[1.0, 1.0], [2.0, 0.0]]))
        {"accuracy": array([0.667, 1.0])}
    """
    shared_products = {} if products is None else products
    statistics: list[Statistic] = []
    for means in _split_by_array(estimates, Mean, "clusters"):
        statistics.append(_Means(means))
    for functions in _split_by_array(estimates, FunctionOfSums, "terms"):
        statistics.append(_FunctionsOfSums(functions, shared_products))
    for means_of_clusters in _split_by_array(estimates, GroupMean, "clusters"):
        for means_of_groups in _split_by_array(means_of_clusters, GroupMean, "groups"):
            clusters = next(iter(means_of_groups.values())).clusters
            if clusters is not None:
                cluster_index = np.unique(clusters, return_inverse=True)[1]
                statistics.append(_GroupMeans(means_of_groups, cluster_index))
    for name, estimate in estimates.items():
        if isinstance(estimate, Median):
            statistics.append(_Median(name, estimate))
        elif isinstance(estimate, CrossedMean):
            statistics.append(_CrossedMean(name, estimate.hits.astype(np.float64)))
        elif isinstance(estimate, FunctionOfWeights):
            function = estimate.prepare(estimate.samples)
            statistics.append(_FunctionOfWeights(name, function))
    return _JointStatistic([*estimates], statistics)


def _split_by_array(
    estimates: Estimates, estimate_class: type[Any], field: str
) -> list[dict[str, Any]]:
    """Return the estimates of one class, split into dictionaries that share the array of a field.

    Arrays count as the same if they are one object. Equal copies are different arrays.

    Args:
        estimates: Estimates by name. Those of other classes are left out.
        estimate_class: The class, such as `Mean`.
        field: The name of the field that holds the array, such as "clusters".

    Example:
        The means a and c hold the same array of clusters, and b holds another one. Then
        _split_by_array({"a": a, "b": b, "c": c}, Mean, "clusters") is
        [{"a": a, "c": c}, {"b": b}].
    """
    estimates_by_array_id: dict[int, dict[str, Any]] = {}
    for name, estimate in estimates.items():
        if isinstance(estimate, estimate_class):
            array_id = id(getattr(estimate, field))
            estimates_by_array_id.setdefault(array_id, {})[name] = estimate
    return list(estimates_by_array_id.values())


@dataclass(frozen=True)
class _JointStatistic:
    """A function that computes the values of several statistics."""

    # The names of all estimates that the statistics compute.
    names: Sequence[str]
    statistics: Sequence[Statistic]

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the values (R,) of all estimates by name, in the order of `names`.

        `weights` (R, C) says how often each of C clusters is drawn in each of R resamples.
        """
        values: dict[str, Values] = {}
        for statistic in self.statistics:
            values.update(statistic(weights))
        return {name: values[name] for name in self.names}


class _Means:
    """A function that computes resampled means. All means have the same clusters.

    If cluster c is drawn weight[c] times, a mean is
        sum(weight[c] * sum of cluster c) / sum(weight[c] * samples in cluster c).
    """

    def __init__(self, means: Mapping[str, Mean]) -> None:
        """Sum up the values of each mean within each cluster.

        For example, the values [1, 0, 1] of a mean in the clusters [7, 3, 7] have the sums [0, 2],
        and the clusters have the sizes [1, 2].

        Args:
            means: Means by name, all with the same array of C clusters. (A cluster is a set of
                samples that depend on each other.)
        """
        self.names = [*means]
        clusters = next(iter(means.values())).clusters
        # (N,): the index 0, ..., C - 1 of each sample's cluster.
        cluster_index = np.unique(clusters, return_inverse=True)[1]
        sums_of_means = [np.bincount(cluster_index, weights=mean.values) for mean in means.values()]
        self.cluster_sums = np.stack(sums_of_means, axis=1)  # (C, number of means)
        self.cluster_sizes = np.bincount(cluster_index).astype(np.float64)  # (C,)

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the means (R,) of R resamples by name.

        `weights` (R, C) says how often each of C clusters is drawn in each resample.
        """
        n_drawn_samples = weights @ self.cluster_sizes  # (R,)
        sums_of_drawn_samples = weights @ self.cluster_sums  # (R, number of means)
        means = sums_of_drawn_samples / n_drawn_samples[:, None]
        return dict(zip(self.names, means.T, strict=True))


class _Median:
    """A function that computes resampled medians.

    The median of n drawn values in rising order is the mean of the value at place (n + 1) // 2 and
    the value at place n // 2 + 1, counted from 1. For example, the places of four values are 2 and
    3, and both places of five values are 3. The value at place i is the least distinct value for
    which at least i drawn values are not greater.
    """

    def __init__(self, name: str, median: Median) -> None:
        """Sort the values of the median, and find where each distinct value begins.

        For example, the values [5, 2, 5] are [2, 5, 5] if sorted. The distinct values [2, 5] begin
        at the places [0, 1] of the sorted values.

        Args:
            name: The name under which the resampled medians are returned.
            median: The values, the clusters of their samples, and whether to round down.
        """
        self.name = name
        self.rounds_down = median.floor
        order = np.argsort(median.values, kind="stable")
        sorted_values = median.values[order]
        self.distinct_values, self.starts = np.unique(sorted_values, return_index=True)
        cluster_index = np.unique(median.clusters, return_inverse=True)[1]
        self.cluster_of_sorted = cluster_index[order]  # (N,)

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the medians (R,) of R resamples, under the name of the median.

        The median of n drawn values in rising order is the mean of the values at the places
        floor((n + 1) / 2) and floor(n / 2) + 1, counted from 1: the places 2 and 3 of four values.

        Args:
            weights: (R, C) says how often each of C clusters is drawn in each resample.
        """
        # How often each sample is drawn, (R, N), with the samples sorted by their values.
        sample_weights = weights[:, self.cluster_of_sorted]
        n_drawn_by_value = np.add.reduceat(sample_weights, self.starts, axis=1)
        # How many drawn values are not greater than each distinct value, (R, distinct values).
        n_not_greater = n_drawn_by_value.cumsum(axis=1)
        n_drawn = n_not_greater[:, -1:]  # (R, 1)

        # The value at place i is the first distinct value for which n_not_greater is i or more.
        # The argmax of truth values is the index of the first True.
        lower_place = np.floor((n_drawn + 1) / 2)
        upper_place = np.floor(n_drawn / 2) + 1
        lower_index = (n_not_greater >= lower_place).argmax(axis=1)
        upper_index = (n_not_greater >= upper_place).argmax(axis=1)
        medians = (self.distinct_values[lower_index] + self.distinct_values[upper_index]) / 2
        if self.rounds_down:
            medians = np.floor(medians)
        return {self.name: medians}


@dataclass(frozen=True)
class _CrossedMean:
    """A function that computes resampled means of the hits of N samples by D draws.

    A draw is one of several random versions of a classifier, such as a few-shot classifier. Both
    samples and draws are resampled. If sample i is drawn s[i] times and draw j is drawn d[j] times,
    the mean is the sum of s[i] * hits[i, j] * d[j] over all i and j, divided by N * D.
    """

    # The name under which the resampled means are returned.
    name: str
    # (N, D): 1 if the classifier of the draw is right about the sample, else 0.
    hits: Values

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the means (R,) of R resamples, under the name of the mean.

        Args:
            weights: (R, N + D). The first N columns say how often each sample is drawn in each
                resample, and the last D columns how often each draw of the classifier is drawn.
        """
        n_samples = len(self.hits)
        sample_weights = weights[:, :n_samples]
        draw_weights = weights[:, n_samples:]
        n_drawn_hits = ((sample_weights @ self.hits) * draw_weights).sum(axis=1)
        return {self.name: n_drawn_hits / self.hits.size}


@dataclass(frozen=True)
class _FunctionOfWeights:
    """A function that computes the resampled values of a single `FunctionOfWeights`."""

    # The name under which the values are returned.
    name: str
    # Maps weights (R, N), how often each of N samples is drawn in R resamples, to values (R,).
    function: Callable[[Values], Values]

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the values (R,) for weights (R, N), under the name of the estimate."""
        return {self.name: self.function(weights)}


class _GroupMeans:
    """A function that computes means, or lowest values, of the groups' resampled shares of hits.

    All means have the same samples in the same groups, such as classes. The mean over the G groups
    that are drawn is
        sum over groups of (drawn hits in group / drawn samples in group) / G.
    This equals the sum over all samples of
        weight * hit / (drawn samples in the sample's group * G),
    so that all means are one matrix product of scaled weights with hits.
    """

    def __init__(self, means: Mapping[str, GroupMean], cluster_index: NDArray[np.integer]) -> None:
        """Sort the hits of each mean by group.

        Lowest shares are kept apart from means, because they are computed in another way.

        Args:
            means: Means, or lowest shares, by name. All have the same groups (N,) of N samples.
            cluster_index: (N,), the index 0, ..., C - 1 of each sample's cluster.
        """
        groups = next(iter(means.values())).groups
        order = np.argsort(groups, kind="stable")
        # Where each of G groups begins among the sorted samples, and its number of samples. For
        # example, the sorted groups [4, 4, 7] begin at [0, 2] and have the sizes [2, 1].
        _, self.starts, self.sizes = np.unique(groups[order], return_index=True, return_counts=True)
        self.cluster_of_sorted = cluster_index[order]

        self.hits_of_lowest: dict[str, NDArray[np.bool_]] = {}
        hits_of_means: dict[str, NDArray[np.bool_]] = {}
        for name, mean in means.items():
            if mean.lowest:
                self.hits_of_lowest[name] = mean.hits[order]
            else:
                hits_of_means[name] = mean.hits[order]
        self.names_of_means = [*hits_of_means]
        # The hits of means as one array, (N, number of means). Its shape is given explicitly,
        # because there may be no means.
        shape = (len(hits_of_means), len(order))
        self.hits_of_means = np.reshape([*hits_of_means.values()], shape).T.astype(np.float64)

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the means, or the lowest, of the groups' shares of hits in R resamples, by name.

        The values are (R,) each. Groups without drawn samples do not count.

        Args:
            weights: (R, C) says how often each of C clusters is drawn in each resample.
        """
        # How often each sample is drawn, (R, N), with the samples sorted by group.
        sample_weights = weights[:, self.cluster_of_sorted]
        n_drawn_samples = np.add.reduceat(sample_weights, self.starts, axis=1)  # (R, G)

        values = {}
        for name, hits in self.hits_of_lowest.items():
            n_drawn_hits = np.add.reduceat(sample_weights * hits, self.starts, axis=1)
            shares = ratio(n_drawn_hits, n_drawn_samples)  # NaN for groups that are not drawn
            values[name] = np.nanmin(shares, axis=1)

        # The mean share is the sum of weight * hit / (drawn samples in group * drawn groups).
        is_drawn = n_drawn_samples > 0
        inverse = np.divide(1, n_drawn_samples, out=np.zeros(is_drawn.shape), where=is_drawn)
        n_drawn_groups = is_drawn.sum(axis=1, keepdims=True)
        sample_weights *= np.repeat(inverse / n_drawn_groups, self.sizes, axis=1)
        means = (sample_weights @ self.hits_of_means).T
        values.update(zip(self.names_of_means, means, strict=True))
        return values


def statistics_of_kinds(
    name: str, means: Sequence[GroupMean]
) -> tuple[list[Statistic], NDArray[np.integer]]:
    """Return the statistic of each model's group mean, and the number of samples of each kind.

    Samples with the same groups and hits in all models form one kind, so that a resample of many
    samples is a multinomial draw of few kinds.

    Args:
        name: The name under which the statistics return their values.
        means: The same metric of several models, on the same independent samples.

    Returns:
        For each model, a function that maps weights (R, C), how often each of C kinds is drawn in
        each of R resamples, to values (R,) by name; and the number of samples of each kind, (C,).

    Example:
        One model with the groups [0, 0, 0, 1] and the hits [1, 1, 0, 1] has the kinds (0, 0),
        (0, 1) and (1, 1) of a group and a hit. Their counts are [1, 2, 1].
    """
    # A table (N, 2 * models) with one row for each sample: its groups, then its hits.
    columns = [mean.groups for mean in means] + [mean.hits for mean in means]
    table = np.stack(columns, axis=1).astype(np.int64)
    kinds, counts = np.unique(table, axis=0, return_counts=True)

    # The same means with one sample, and one cluster, for each kind.
    groups_of_models, hits_of_models = np.split(kinds.T, 2)
    cluster_index = np.arange(len(kinds))
    statistics: list[Statistic] = []
    for mean, groups, hits in zip(means, groups_of_models, hits_of_models, strict=True):
        mean_of_kinds = mean._replace(groups=groups, hits=hits.astype(bool))
        statistics.append(_GroupMeans({name: mean_of_kinds}, cluster_index))
    return statistics, counts


class Product:
    """A function that multiplies weights (R, C) with a term (C, ...).

    The term has one row for each of C clusters, and R is the number of resamples. The last product
    is kept. If the next call has the same array of weights, it is returned again without computing.
    """

    def __init__(self, term: NDArray[Any]) -> None:
        """Keep the term, also as floating-point numbers."""
        self.term = term
        self._float_term = term.astype(np.float64)
        self._last_weights: Values | None = None
        self._last_product: Values = np.zeros(0)

    def __call__(self, weights: Values) -> Values:
        """Return weights @ term, (R, ...)."""
        has_same_weights = weights is self._last_weights
        if not has_same_weights:
            self._last_product = weights @ self._float_term
            self._last_weights = weights
        return self._last_product


class _FunctionsOfSums:
    """A function that computes functions of resampled sums, such as intersections over unions.

    All functions have the same terms, the arrays that are summed up over samples.
    """

    def __init__(
        self, functions: Mapping[str, FunctionOfSums], shared_products: dict[int, Product]
    ) -> None:
        """Choose the object that multiplies weights with each term.

        If two models have equal terms, such as labelled pixels, one product serves both.

        Args:
            functions: Functions by name, all with the same NamedTuple of terms (N, ...).
            shared_products: The products of models so far, by the index of the term in the
                NamedTuple. For an index that is missing, the product of this term is added.
        """
        self.functions = functions
        self.terms = next(iter(functions.values())).terms
        self.products = []
        for index, term in enumerate(self.terms):
            shared_product = shared_products.setdefault(index, Product(term))
            has_equal_term = np.array_equal(shared_product.term, term)
            self.products.append(shared_product if has_equal_term else Product(term))

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the values (R,) of all functions in R resamples by name.

        `weights` (R, N) says how often each of N samples is drawn in each resample.
        """
        sums = self.terms._make(product(weights) for product in self.products)
        return {name: estimate.function(sums) for name, estimate in self.functions.items()}


def wilson(successes: int, n: int, level: float = LEVEL) -> Interval:
    """Return Wilson's score interval of the proportion successes / n.

    Args:
        successes: The number of samples that are successes.
        n: The number of samples, which are independent.
        level: The probability that the interval contains the true proportion.

    Raises:
        ValueError: n is 0, or `successes` is not in 0, ..., n.

    Example:
        >>> wilson(8, 10)
        Interval(low=0.490, high=0.943, method='wilson', level=0.95)
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"no share of {successes} in {n}")
    return share_interval(successes / n, n, "wilson", level)


def share_interval(
    share: float, n: float, method: str, level: float, dof: float = math.inf
) -> Interval:
    """Return Wilson's score interval of a share of n samples.

    With the quantile z of the level, such as 1.96 for 95%, its ends are
        (share + z^2 / 2n -+ z * sqrt(share * (1 - share) / n + z^2 / 4n^2)) / (1 + z^2 / n).
    For example, a share of 0.8 of 10 samples has the 95% interval from 0.490 to 0.943.

    Args:
        share: The share of successes, in [0, 1].
        n: The number of samples, which may be a fraction.
        method: The name of the method in results.
        level: The probability that the interval contains the true share, such as 0.95.
        dof: The degrees of freedom of the standard error. If they are finite, z is a quantile of
            Student's t instead of the normal distribution.
    """
    probability = (1 + level) / 2
    quantile = ndtri(probability) if math.isinf(dof) else stdtrit(dof, probability)
    z2 = float(quantile) ** 2
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half_width = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(max(0.0, center - half_width), min(1.0, center + half_width), method, level)


def clustered_wilson(
    hits: NDArray[np.bool_], clusters: NDArray[np.integer], level: float = LEVEL
) -> Interval:
    """Return Wilson's interval of the proportion of hits of samples that depend on each other.

    The number of samples in Wilson's formula is the effective one: the number of independent
    samples that would have the same standard error. With C clusters, it is
        effective_n = share * (1 - share) * N^2 / variance, where
        variance = C / (C - 1) * sum over clusters of (hits - share * cluster size)^2.
    It is at most N. It is at least N^2 / sum(cluster size^2), its value if all hits of each cluster
    are equal. For example, two clusters of 5 equal hits count as 100 / 50 = 2 samples. The least
    number is also used if the standard error is 0.

    Args:
        hits: (N,), whether each sample is a hit.
        clusters: (N,) numbers. Samples with the same number depend on each other.
        level: The probability that the interval contains the true proportion.
    """
    cluster_index = np.unique(clusters, return_inverse=True)[1]
    hits_of_clusters = np.bincount(cluster_index, weights=hits).astype(np.float64)
    sizes = np.bincount(cluster_index).astype(np.float64)
    return wilson_of_clusters(hits_of_clusters, sizes, level)


def wilson_of_clusters(
    hits_of_clusters: NDArray[np.number], sizes: NDArray[np.number], level: float = LEVEL
) -> Interval:
    """Return the interval of `clustered_wilson` from the sums of each cluster.

    Args:
        hits_of_clusters: (C,), the number of hits in each cluster, which may be a fraction.
        sizes: (C,), the number of samples in each cluster. Clusters without samples do not count.
        level: The probability that the interval contains the true proportion.
    """
    n_samples = float(sizes.sum())
    n_clusters = int(np.count_nonzero(sizes))
    share = float(hits_of_clusters.sum()) / n_samples
    if n_clusters == n_samples:  # all samples are independent
        return share_interval(share, n_samples, "wilson", level)

    deviations = hits_of_clusters - share * sizes
    variance = float(np.square(deviations).sum()) * n_clusters / max(1, n_clusters - 1)
    least_n = n_samples**2 / float(np.square(sizes).sum())
    effective_n = least_n
    if 0 < share < 1 and variance:
        effective_n = share * (1 - share) * n_samples**2 / variance
    effective_n = min(max(effective_n, least_n), n_samples)
    return share_interval(share, effective_n, "wilson, effective n", level)


def jackknife(estimate: FunctionOfSums, level: float = LEVEL) -> Interval | None:
    """Return the jackknife interval of a function of sums: value -+ t x standard error.

    The standard error follows from the values without each of N samples in turn:
        sqrt((N - 1) / N * sum of (value without sample - mean of these values)^2).
    The interval is for the expected value at N samples. Unlike a resample, N - 1 samples hardly
    ever lack a class, which would have an IoU of 0 if it is predicted anywhere.

    Args:
        estimate: The terms of N samples, and the function of their sums.
        level: The probability that the interval contains the expected value.

    Returns:
        The interval, or None if fewer than two of the values without a sample are defined.
    """
    values_without_each = sums_without_each(estimate)  # (N,), NaN if a value is not defined
    defined_values = values_without_each[~np.isnan(values_without_each)]
    if len(defined_values) < 2:
        return None
    low, high = jackknife_ends(estimate.value, defined_values, level)
    return Interval(low, high, JACKKNIFE, level)


def percentiles(resampled_values: Values, method: str, level: float = LEVEL) -> Interval:
    """Return the interval between two quantiles of resampled values.

    At a level of 95%, it goes from the 2.5% quantile to the 97.5% quantile.

    Args:
        resampled_values: (R,), the value in each of R resamples. NaN is ignored.
        method: The name of the method in results, such as "bootstrap".
        level: The share of the values that lie in the interval.
    """
    low, high = np.nanquantile(resampled_values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), method, level)


def intervals(
    estimates: Estimates,
    *,
    seed: int = 0,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    methods: Mapping[str, str] = MappingProxyType({}),
    bounds: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> dict[str, Interval]:
    """Return the confidence intervals of estimates by name.

    Some intervals follow from a formula, others from the percentiles of a bootstrap. A resample in
    which an estimate has no value (NaN) does not count for that estimate. An estimate without a
    value in any resample has no interval, and its name is missing in the result.

    Args:
        estimates: The estimates of one model by name.
        seed: The seed of the bootstrap.
        level: The probability that an interval contains the true value.
        resamples: The number of resamples of the bootstrap.
        methods: The methods of intervals that a stored result has, by name of the estimate. Such an
            interval is computed again by its stored method, because earlier versions resampled more
            kinds of estimates.
        bounds: The least and the largest possible value of an estimate by name, by default 0 and 1.
            They are needed if all samples are equal, see `with_width`.

    Raises:
        ValueError: An estimate has no samples.

    Example:
        >>> intervals({"accuracy": Proportion(hits)})  # 8 hits of 10
        {"accuracy": Interval(low=0.490, high=0.943, method='wilson', level=0.95)}
    """
    # Compute each interval by its formula, or by resampling.
    intervals_by_name: dict[str, Interval | None] = {}
    resampled_estimates = {}
    for name, estimate in estimates.items():
        stored_method = methods.get(name, "")
        if _uses_bootstrap(estimate, stored_method):
            resampled_estimates[name] = estimate
        else:
            intervals_by_name[name] = _interval_by_formula(estimate, stored_method, level)
    for method, values_by_name in _resampled_values(resampled_estimates, seed, resamples):
        for name, values in values_by_name.items():
            if not np.isnan(values).all():
                intervals_by_name[name] = percentiles(values, method, level)

    # Widen intervals that the stored method widens, and intervals of samples that are all equal.
    widened_intervals = {}
    for name, estimate in estimates.items():
        interval = intervals_by_name.get(name)
        stored_method = methods.get(name, "")
        if isinstance(estimate, GroupMean) and interval and stored_method == OR_LIKELIHOOD:
            interval = or_likelihood(interval, estimate, level)
        is_by_stored_method = interval is not None and interval.method == stored_method
        if not is_by_stored_method:
            interval = with_width(interval, estimate, bounds.get(name, (0.0, 1.0)), level)
        if interval is not None:
            widened_intervals[name] = interval
    return widened_intervals


def _resampled_values(
    estimates: Estimates, seed: int, resamples: int
) -> Iterator[tuple[str, Mapping[str, Values]]]:
    """Resample estimates by the kinds of bootstrap that they need.

    Each bootstrap begins with the same seed, and draws once for all its estimates. Therefore, the
    values of an estimate do not depend on the other estimates.

    Args:
        estimates: The estimates of one model by name.
        seed: The seed of each bootstrap.
        resamples: R, the number of resamples.

    Yields:
        For each bootstrap: the name of its method in results, such as "cluster bootstrap", and the
        resampled values (R,) of its estimates by name.
    """
    sums: dict[str, Estimate] = {}
    sums_one_by_one: dict[str, Estimate] = {}
    functions_of_weights: dict[str, Estimate] = {}
    clustered: dict[str, Estimate] = {}
    for name, estimate in estimates.items():
        if isinstance(estimate, FunctionOfSums) and estimate.one_by_one:
            sums_one_by_one[name] = estimate
        elif isinstance(estimate, FunctionOfSums):
            sums[name] = estimate
        elif isinstance(estimate, FunctionOfWeights):
            functions_of_weights[name] = estimate
        else:
            clustered[name] = estimate

    for estimates_of_kind in (sums, sums_one_by_one, functions_of_weights, clustered):
        is_multinomial = estimates_of_kind is sums
        # Estimates that draw the same numbers of clusters share their draws.
        for sizes, estimates_of_sizes in group_by_drawn_sizes(estimates_of_kind).items():
            (values_by_name,) = resample(
                [statistic_of(estimates_of_sizes)],
                np.ones(sum(sizes), int),
                seed=seed,
                resamples=resamples,
                multinomial=is_multinomial,
                sizes=sizes,
            )
            method = CLUSTER_BOOTSTRAP if estimates_of_kind is clustered else BOOTSTRAP
            draws_classifiers = len(sizes) > 1  # besides the samples
            if draws_classifiers:
                method = CROSSED_BOOTSTRAP
            yield method, values_by_name

    # Means over groups of independent samples have no clusters: equal samples are drawn as kinds.
    for name, estimate in clustered.items():
        if isinstance(estimate, GroupMean) and estimate.clusters is None:
            statistics, counts = statistics_of_kinds(name, [estimate])
            (values_by_name,) = resample(
                statistics, counts, seed=seed, resamples=resamples, multinomial=True
            )
            yield BOOTSTRAP, values_by_name


def with_width(
    interval: Interval | None, estimate: Estimate, bounds: tuple[float, float], level: float
) -> Interval | None:
    """Return the interval, or a wider one if it has no width because all samples are equal.

    If N samples are all equal, a share of the population with other values may be missing in them.
    The largest share that N samples miss with a probability of (1 - level) / 2 is
        missed_share = 1 - ((1 - level) / 2)^(1 / N),
    which is 3.6% for 100 samples and a level of 95%. The wider interval holds for any values of
    that share within the bounds:
        value - missed_share * (value - least) to value + missed_share * (most - value).
    For example, a value of 1 for all of 100 samples has the interval from 0.964 to 1.

    Args:
        interval: The interval of the estimate, or None if it has none so far.
        estimate: The estimate, whose samples are counted.
        bounds: The least and the largest possible value of the estimate.
        level: The probability that the interval contains the true value.

    Returns:
        The interval. It is None if the bounds are infinite, or if the value is not within them.
        Medians may well be known exactly: their intervals are returned as they are.
    """
    has_width = interval is not None and interval.high - interval.low > _NO_WIDTH
    if has_width or isinstance(estimate, Median):
        return interval
    value = estimate.value
    least, most = bounds
    if math.isinf(most - least) or not least <= value <= most:
        return None
    if interval is not None and isinstance(estimate, GroupMean):
        return or_likelihood(interval, estimate, level)

    # expm1 keeps the digits of a small share: 1 - p^(1 / N) = -expm1(log(p) / N).
    n_samples = _count_independent_samples(estimate)
    missed_share = -math.expm1(math.log((1 - level) / 2) / n_samples)
    low = value - missed_share * (value - least)
    high = value + missed_share * (most - value)
    return Interval(low, high, ALL_ALIKE, level)


def _count_independent_samples(estimate: Estimate) -> int:
    """Return how many independent samples of an estimate have a value.

    Samples that depend on each other count as one. The number is 1 for classes of estimates whose
    intervals are not widened by the number of their samples.
    """
    match estimate:
        case Mean(clusters=clusters):
            return len(np.unique(clusters))
        case FunctionOfSums(terms, function):
            values_of_samples = function(terms)
            n_with_value = int((~np.isnan(values_of_samples)).sum())
            return max(1, n_with_value)
        case FunctionOfWeights(samples):
            return len(samples)
        case CrossedMean(hits):
            return len(hits)
    return 1


def _uses_bootstrap(estimate: Estimate, stored_method: str) -> bool:
    """Return whether the interval of an estimate is by a bootstrap, and not by a formula.

    `stored_method` is the method of the interval in a stored result, such as "cluster bootstrap",
    or "" if there is none. A stored interval that is by a bootstrap stays so.
    """
    match estimate:
        case Proportion():
            return False
        case MeanRank():
            return stored_method == CLUSTER_BOOTSTRAP
        case CrossedMean():
            return stored_method == CROSSED_BOOTSTRAP
        case Mean(values):
            is_proportion = values.dtype == np.bool_
            return not is_proportion or stored_method == CLUSTER_BOOTSTRAP
        case FunctionOfSums():
            has_formula = estimate.jackknife or estimate.interval is not None
            return not has_formula or stored_method == BOOTSTRAP
        case FunctionOfWeights():
            has_formula = estimate.interval is not None
            return not has_formula or stored_method == BOOTSTRAP
        case GroupMean():
            return _group_mean_uses_bootstrap(estimate, stored_method)
        case Median():
            return True


def _group_mean_uses_bootstrap(estimate: GroupMean, stored_method: str) -> bool:
    """Return whether the interval of a mean over groups is by a bootstrap, as `_uses_bootstrap`."""
    if stored_method in (BOOTSTRAP, CLUSTER_BOOTSTRAP, OR_LIKELIHOOD):
        return True
    if not len(estimate.hits):
        return True  # and resampling raises ValueError
    if estimate.lowest or estimate.clusters is None:
        return False
    return estimate.value not in (0, 1)


def _interval_by_formula(estimate: Estimate, stored_method: str, level: float) -> Interval | None:
    """Return the interval of an estimate that is not resampled, or None if it has no interval.

    Args:
        estimate: An estimate for which `_uses_bootstrap` is False.
        stored_method: The method of the interval in a stored result, or "" if there is none.
        level: The probability that the interval contains the true value.
    """
    match estimate:
        case Proportion(hits):
            return wilson(int(hits.sum()), len(hits), level)
        case MeanRank():
            return mean_rank_interval(estimate, level)
        case CrossedMean():
            effective = effective_samples(estimate)
            return share_interval(estimate.value, effective.n, OVER_DRAWS, level, effective.dof)
        case Mean(hits, clusters):
            return clustered_wilson(hits, clusters, level)
        case FunctionOfSums(terms) if estimate.interval is not None:
            return estimate.interval(terms, level)
        case FunctionOfSums():
            return jackknife(estimate, level)
        case FunctionOfWeights(samples):
            return estimate.interval(samples, level) if estimate.interval else None
        # The mean, or the lowest, of the shares of hits of groups.
        case GroupMean(lowest=True) if stored_method != ALL_OR_NONE:
            return lowest_share(estimate, level)
        case GroupMean() if estimate.value in (0, 1):
            return all_or_none(estimate, level)
        case GroupMean():
            return stratified(estimate, level)
        case Median():
            return None
