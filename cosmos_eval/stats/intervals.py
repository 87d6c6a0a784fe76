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
"""Maps weights (R, C), how often each cluster is drawn, to values (R,) by names of estimates."""


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

    Each of the statistics, for example one for each model, is a function that maps weights to
    values by name. Weights (R, C) say how often each of C clusters is drawn in each of R resamples:
    three clusters that are drawn 2, 0 and 1 times are a row [2, 0, 1]. All statistics get the same
    draws. Return the resampled values (R,) by name, for each statistic.

    Clusters may be given as kinds: clusters of one kind are equal, and `counts` (C,) holds how many
    there are of each kind. If all counts are 1, clusters are drawn one by one, which is ten times
    as fast as a multinomial draw. With `multinomial`, the draw is always multinomial. Both ways
    draw from the same distribution, but the random numbers differ.

    `sizes` cuts the kinds into sections that are drawn independently of each other. For example,
    sizes (3, 2) stand for the first three and the last two of five kinds. By default, there is one
    section. Raises ValueError without clusters.
    """
    if not counts.sum():
        raise ValueError("no samples to resample")
    rng = np.random.default_rng(seed)
    counts_of_sections = np.split(counts, np.cumsum(sizes[:-1], dtype=int))
    chunks_of_statistics: list[list[Mapping[str, Values]]] = [[] for _ in statistics]
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        n_resamples = min(_RESAMPLES_AT_ONCE, resamples - start)
        weights_of_sections = []
        for section_counts in counts_of_sections:
            # A single count above 1 makes the draws of all sections multinomial.
            if multinomial or (counts != 1).any():
                weights = _draw_kinds(rng, section_counts, n_resamples)
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


def _draw_kinds(rng: np.random.Generator, counts: NDArray[np.integer], n_resamples: int) -> Values:
    """Return how often each of C kinds of clusters is drawn in each of R resamples, (R, C).

    There are `counts` (C,) clusters of each kind. Each resample draws as many clusters as there are
    in all, with replacement. For example, one resample for the counts [3, 1] may be [[4, 0]].
    """
    n_clusters = int(counts.sum())
    weights = rng.multinomial(n_clusters, counts / n_clusters, n_resamples)
    return weights.astype(np.float64)


def _draw_clusters(rng: np.random.Generator, n_clusters: int, n_resamples: int) -> Values:
    """Return how often each of C clusters is drawn in each of R resamples, (R, C).

    Each resample draws C of the C clusters, with replacement. For example, one resample of three
    clusters may be [[2, 0, 1]].
    """
    weights = np.empty((n_resamples, n_clusters))
    for row in weights:  # a row fits into a processor's cache
        drawn_clusters = rng.integers(n_clusters, size=n_clusters)
        row[:] = np.bincount(drawn_clusters, minlength=n_clusters)
    return weights


def group_by_drawn_sizes(estimates: Estimates) -> dict[tuple[int, ...], dict[str, Estimate]]:
    """Group estimates by how many clusters a bootstrap draws, so that a group can share draws.

    The keys are the `drawn_sizes()` of the estimates: the number of clusters, and the number of
    draws of a classifier if they are drawn, too. For example, {(500,): {"accuracy": ...},
    (500, 10): {"few-shot accuracy": ...}}. Estimates that are not resampled by clusters are left
    out.
    """
    estimates_by_sizes: dict[tuple[int, ...], dict[str, Estimate]] = {}
    for name, estimate in estimates.items():
        sizes = estimate.drawn_sizes()
        if sizes is not None:
            estimates_by_sizes.setdefault(sizes, {})[name] = estimate
    return estimates_by_sizes


def statistic_of(estimates: Estimates, products: dict[int, Product] | None = None) -> Statistic:
    """Return the function that computes all estimates of a model in a bootstrap.

    The function maps weights (R, C), how often each of C clusters is drawn in each of R resamples,
    to values (R,) by names of estimates. All estimates have C clusters. Estimates that share an
    array are computed together, by one matrix product. `products` is a cache that the functions of
    several models may share: terms of sums that the models have in common, such as labelled pixels,
    are then multiplied with the weights once for all models.
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
                statistics.append(_GroupMeans(means_of_groups, _cluster_indices(clusters)))
    for name, estimate in estimates.items():
        if isinstance(estimate, Median):
            statistics.append(_Median(name, estimate))
        elif isinstance(estimate, CrossedMean):
            statistics.append(_CrossedMean(name, estimate))
        elif isinstance(estimate, FunctionOfWeights):
            statistics.append(_FunctionOfWeights(name, estimate))
    return _JointStatistic([*estimates], statistics)


def _split_by_array(
    estimates: Estimates, estimate_class: type[Any], field: str
) -> list[dict[str, Any]]:
    """Return the estimates of one class, split into dictionaries that share the array of a field.

    Arrays count as the same if they are one object. Equal copies are different arrays. For example,
    for the field "clusters" and means a, b, c of which a and c have the same array, the result is
    [{"a": a, "c": c}, {"b": b}].
    """
    estimates_by_array_id: dict[int, dict[str, Any]] = {}
    for name, estimate in estimates.items():
        if isinstance(estimate, estimate_class):
            array_id = id(getattr(estimate, field))
            estimates_by_array_id.setdefault(array_id, {})[name] = estimate
    return list(estimates_by_array_id.values())


def _cluster_indices(clusters: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the index of each sample's cluster, (N,), in 0, ..., C - 1.

    For example, the clusters [7, 3, 7] have the indices [1, 0, 1].
    """
    return np.unique(clusters, return_inverse=True)[1]


class _JointStatistic:
    """The values of several statistics, in the order of `names`."""

    def __init__(self, names: Sequence[str], statistics: Sequence[Statistic]) -> None:
        """Keep the names of all estimates, and the statistics that compute them."""
        self.names = names
        self.statistics = statistics

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the values (R,) of all estimates by name, in the order of `names`.

        The weights (R, C) say how often each of C clusters is drawn in each of R resamples.
        """
        values: dict[str, Values] = {}
        for statistic in self.statistics:
            values.update(statistic(weights))
        return {name: values[name] for name in self.names}


class _Means:
    """Means of resampled values. All means have the same clusters.

    If cluster c is drawn weight[c] times, the mean is
        sum(weight[c] * sum of cluster c) / sum(weight[c] * samples in cluster c).
    """

    def __init__(self, means: Mapping[str, Mean]) -> None:
        """Sum up the values of each mean by clusters, (C, number of means).

        All means have the same C clusters, sets of samples that depend on each other.
        """
        self.names = [*means]
        first_mean = next(iter(means.values()))
        cluster = _cluster_indices(first_mean.clusters)
        sums_of_means = [np.bincount(cluster, weights=mean.values) for mean in means.values()]
        self.cluster_sums = np.stack(sums_of_means, axis=1)
        self.cluster_sizes = np.bincount(cluster).astype(np.float64)

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the means (R,) of R resamples by name.

        The weights (R, C) say how often each of C clusters is drawn in each resample.
        """
        n_drawn_samples = weights @ self.cluster_sizes
        values = (weights @ self.cluster_sums) / n_drawn_samples[:, None]
        return dict(zip(self.names, values.T, strict=True))


class _Median:
    """The median of resampled values.

    The median of n drawn values in rising order is the mean of the value at place (n + 1) // 2 and
    the value at place n // 2 + 1, counted from 1. For example, the places of four values are 2 and
    3, and both places of five values are 3. The value at place i is the least distinct value for
    which at least i drawn values are not greater.
    """

    def __init__(self, name: str, median: Median) -> None:
        """Sort the values of the median, and find where each distinct value begins.

        For example, the values [5, 2, 5] have the distinct values [2, 5], which begin at the places
        [0, 1] of the sorted values. `name` is the name of the median among other estimates.
        """
        self.name = name
        self.floor = median.floor
        order = np.argsort(median.values, kind="stable")
        sorted_values = median.values[order]
        self.distinct_values, self.starts = np.unique(sorted_values, return_index=True)
        self.cluster_of_sorted = _cluster_indices(median.clusters)[order]

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the median (R,) of each of R resamples, under its name.

        The weights (R, C) say how often each of C clusters is drawn in each resample. The median of
        n drawn values in rising order is the mean of the values at the places floor((n + 1) / 2)
        and floor(n / 2) + 1, counted from 1: the places 2 and 3 of four values.
        """
        sample_weights = weights[:, self.cluster_of_sorted]
        # How many drawn values are not greater than each distinct value, (R, distinct values).
        n_drawn_by_value = np.add.reduceat(sample_weights, self.starts, axis=1)
        n_up_to = n_drawn_by_value.cumsum(axis=1)
        n_drawn = n_up_to[:, -1:]
        # The value at a place is the first distinct value up to which so many values are drawn.
        lower_place = np.floor((n_drawn + 1) / 2)
        upper_place = np.floor(n_drawn / 2) + 1
        lower_index = (n_up_to >= lower_place).argmax(axis=1)
        upper_index = (n_up_to >= upper_place).argmax(axis=1)
        medians = (self.distinct_values[lower_index] + self.distinct_values[upper_index]) / 2
        if self.floor:
            medians = np.floor(medians)
        return {self.name: medians}


class _CrossedMean:
    """The mean of hits (N, D) of N samples by D draws of a classifier, such as few-shot ones.

    Both samples and draws are resampled. If sample i is drawn s[i] times and draw j is drawn d[j]
    times, the mean is the sum of s[i] * hits[i, j] * d[j] over all i and j, divided by N * D.
    """

    def __init__(self, name: str, mean: CrossedMean) -> None:
        """Keep the hits as floating-point numbers."""
        self.name = name
        self.hits = mean.hits.astype(np.float64)

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the mean of the hits (N, D) in each of R resamples, (R,), under its name.

        The first N columns of the weights (R, N + D) say how often each sample is drawn, the last D
        columns how often each draw of the classifier is. The mean is the sum of
        sample weight * hit * draw weight, divided by N * D.
        """
        n_samples = len(self.hits)
        sample_weights = weights[:, :n_samples]
        draw_weights = weights[:, n_samples:]
        n_hits = ((sample_weights @ self.hits) * draw_weights).sum(axis=1)
        return {self.name: n_hits / self.hits.size}


class _FunctionOfWeights:
    """The statistic of a single `FunctionOfWeights`."""

    def __init__(self, name: str, estimate: FunctionOfWeights) -> None:
        """Prepare the function that maps weights to values."""
        self.name = name
        self.function = estimate.prepare(estimate.samples)

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the values (R,) by name for weights (R, N)."""
        return {self.name: self.function(weights)}


class _GroupMeans:
    """Means, or lowest shares, of resampled hits. All have the same groups of the same samples.

    The mean over the G groups that are drawn is the mean of their shares of hits,
        sum over groups of (drawn hits in group / drawn samples in group) / G.
    This equals the sum over all samples of
        weight * hit / (drawn samples in the sample's group * G),
    so that all means are one matrix product of scaled weights with hits.
    """

    def __init__(self, means: Mapping[str, GroupMean], cluster: NDArray[np.integer]) -> None:
        """Sort the hits of each mean by groups, which all means share.

        `cluster` (N,) holds the index of each sample's cluster. Lowest shares are kept apart from
        means, because they are computed in another way.
        """
        groups = next(iter(means.values())).groups
        order = np.argsort(groups, kind="stable")
        # Where each group begins in the sorted order, and the number of its samples, (G,).
        _, self.starts, self.sizes = np.unique(groups[order], return_index=True, return_counts=True)
        self.cluster_of_sorted = cluster[order]
        self.hits_of_lowest: dict[str, NDArray[np.bool_]] = {}
        hits_by_name = {}
        for name, mean in means.items():
            if mean.lowest:
                self.hits_of_lowest[name] = mean.hits[order]
            else:
                hits_by_name[name] = mean.hits[order]
        self.names_of_means = [*hits_by_name]
        shape = (len(hits_by_name), len(order))  # also if there are no means
        hits = np.reshape([*hits_by_name.values()], shape)
        self.hits_of_means = hits.T.astype(np.float64)  # (N, number of means)

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the mean, or the lowest, of the groups' shares of hits in R resamples, by name.

        The weights (R, C) say how often each of C clusters is drawn in each resample. Groups that
        are not drawn do not count.
        """
        # The weights (R, N) of the samples, sorted by group, and their sums (R, G) by group.
        sample_weights = weights[:, self.cluster_of_sorted]
        n_drawn_samples = np.add.reduceat(sample_weights, self.starts, axis=1)
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

    `means` holds the same metric of several models, on the same independent samples. Samples with
    the same groups and hits in all models form one kind, so that a resample of many samples is a
    multinomial draw of few kinds. For example, one model with the groups [0, 0, 0, 1] and the hits
    [1, 1, 0, 1] has the kinds (0, 0), (0, 1) and (1, 1), with the counts 1, 2 and 1.

    The statistics map weights (R, C) of C kinds to values (R,) under `name`.
    """
    columns = [mean.groups for mean in means] + [mean.hits for mean in means]
    table = np.stack(columns, axis=1).astype(np.int64)
    kinds, counts = np.unique(table, axis=0, return_counts=True)
    each_kind = np.arange(len(kinds))
    groups_of_models, hits_of_models = np.split(kinds.T, 2)
    statistics: list[Statistic] = []
    for mean, groups, hits in zip(means, groups_of_models, hits_of_models, strict=True):
        mean_of_kinds = mean._replace(groups=groups, hits=hits.astype(bool))
        statistics.append(_GroupMeans({name: mean_of_kinds}, each_kind))
    return statistics, counts


class Product:
    """The product of weights (R, C) with a term (C, ...), an array with one row per cluster.

    The last product is kept. If the next call has the same array of weights, it is returned instead
    of being computed again.
    """

    def __init__(self, term: NDArray[Any]) -> None:
        """Keep the term, also as floating-point numbers."""
        self.term = term
        self._float_term = term.astype(np.float64)
        self._last_weights: Values | None = None
        self._last_product: Values = np.zeros(0)

    def __call__(self, weights: Values) -> Values:
        """Return weights @ term, (R, ...)."""
        if self._last_weights is not weights:
            self._last_product = weights @ self._float_term
            self._last_weights = weights
        return self._last_product


class _FunctionsOfSums:
    """Functions of resampled sums, such as intersections over unions. All have the same terms."""

    def __init__(
        self, functions: Mapping[str, FunctionOfSums], shared_products: dict[int, Product]
    ) -> None:
        """Choose the product that computes the sums of each term.

        `shared_products` maps the index of a term to the product of the first model that had this
        term. The product is shared if the terms are equal. A missing product is added to
        `shared_products`.
        """
        self.functions = functions
        self.terms = next(iter(functions.values())).terms
        self.products = []
        for index, term in enumerate(self.terms):
            shared_product = shared_products.setdefault(index, Product(term))
            is_equal = np.array_equal(shared_product.term, term)
            self.products.append(shared_product if is_equal else Product(term))

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the values (R,) of all functions in R resamples by name.

        The weights (R, N) say how often each of N samples is drawn in each resample.
        """
        sums = self.terms._make(product(weights) for product in self.products)
        return {name: estimate.function(sums) for name, estimate in self.functions.items()}


def wilson(successes: int, n: int, level: float = LEVEL) -> Interval:
    """Return Wilson's score interval of the proportion successes / n.

    For example, 8 of 10 has the 95% interval from 0.490 to 0.943. Raises ValueError unless
    0 <= successes <= n and n > 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"no share of {successes} in {n}")
    return _wilson(successes / n, n, "wilson", level)


def _wilson(share: float, n: float, method: str, level: float, dof: float = math.inf) -> Interval:
    """Return Wilson's interval of a share of n samples, where n may be a fraction.

    With the quantile z of the level, its ends are
        (share + z^2 / 2n -+ z * sqrt(share * (1 - share) / n + z^2 / 4n^2)) / (1 + z^2 / n).
    With finite degrees of freedom `dof`, z is the quantile of Student's t instead of the normal
    distribution. `method` is the name of the method in results.
    """
    probability = (1 + level) / 2
    quantile = ndtri(probability) if math.isinf(dof) else stdtrit(dof, probability)
    z2 = float(quantile) ** 2
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(max(0.0, center - half), min(1.0, center + half), method, level)


def clustered_wilson(
    hits: NDArray[np.bool_], clusters: NDArray[np.integer], level: float = LEVEL
) -> Interval:
    """Return Wilson's interval of the proportion of hits (N,), whose samples are in clusters (N,).

    The number of samples in Wilson's formula is the effective one: the number of independent
    samples that would have the same standard error. With C clusters, it is
        share * (1 - share) * N^2 / variance, where
        variance = C / (C - 1) * sum over clusters of (hits - share * cluster size)^2.
    It is at most N. It is at least N^2 / sum(cluster size^2), its value if all hits of each cluster
    are equal. For example, two clusters of 5 equal hits count as 100 / 50 = 2 samples. The least
    number is also used if the standard error is 0.
    """
    n_samples = len(hits)
    cluster = _cluster_indices(clusters)
    sizes = np.bincount(cluster)
    n_clusters = len(sizes)
    if n_clusters == n_samples:
        return wilson(int(hits.sum()), n_samples, level)
    share = float(hits.mean())
    deviations = np.bincount(cluster, weights=hits) - share * sizes
    variance = float(np.square(deviations).sum()) * n_clusters / max(1, n_clusters - 1)
    least_n = n_samples**2 / float(np.square(sizes).sum())
    effective_n = least_n
    if 0 < share < 1 and variance:
        effective_n = share * (1 - share) * n_samples**2 / variance
    effective_n = min(max(effective_n, least_n), n_samples)
    return _wilson(share, effective_n, "wilson, effective n", level)


def jackknife(estimate: FunctionOfSums, level: float = LEVEL) -> Interval | None:
    """Return the jackknife interval of a function of sums: value -+ t x standard error.

    The standard error follows from the values without each of N samples in turn. Return None if
    fewer than two of these values are defined. The interval is for the expected value at N samples.
    Unlike a resample, N - 1 samples hardly ever lack a class, which would have an IoU of 0 if it is
    predicted anywhere.
    """
    # The sums without each sample: the sum of all samples, less the sample's own term.
    sums_without_each = estimate.terms._make(term.sum(0) - term for term in estimate.terms)
    values = estimate.function(sums_without_each)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return None
    low, high = jackknife_ends(estimate.value, values, level)
    return Interval(low, high, JACKKNIFE, level)


def percentiles(drawn: Values, method: str, level: float = LEVEL) -> Interval:
    """Return the percentile interval of resampled values `drawn` (R,), ignoring NaN.

    At a level of 95%, it goes from the 2.5% quantile to the 97.5% quantile of the values.
    """
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
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
    """Return the intervals of estimates by name.

    Some intervals follow from a formula, others from the percentiles of a bootstrap. A resample in
    which an estimate has no value (NaN) does not count for that estimate. An estimate without a
    value in any resample has no interval, and its name is missing in the result.

    `methods` holds the methods of stored intervals by name. An interval is computed again by its
    stored method, because earlier versions resampled more estimates. `bounds` holds the least and
    the largest possible value of each estimate, by default 0 and 1. They are needed if all samples
    are equal, see `with_width`. Raises ValueError for an estimate without samples.
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
        interval, stored_method = intervals_by_name.get(name), methods.get(name, "")
        if isinstance(estimate, GroupMean) and interval and stored_method == OR_LIKELIHOOD:
            interval = or_likelihood(interval, estimate, level)
        if interval is None or interval.method != stored_method:
            interval = with_width(interval, estimate, bounds.get(name, (0.0, 1.0)), level)
        if interval is not None:
            widened_intervals[name] = interval
    return widened_intervals


def _resampled_values(
    estimates: Estimates, seed: int, resamples: int
) -> Iterator[tuple[str, Mapping[str, Values]]]:
    """Yield the name of each bootstrap method, and the resampled values (R,) by name of estimate.

    Each bootstrap begins with the same seed, and draws once for all its estimates. Therefore, the
    values of an estimate do not depend on the other estimates.
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
    yield from _resampled_values_by_sizes(sums, seed, resamples, multinomial=True)
    yield from _resampled_values_by_sizes(sums_one_by_one, seed, resamples)
    yield from _resampled_values_by_sizes(functions_of_weights, seed, resamples)
    yield from _resampled_values_by_sizes(clustered, seed, resamples, method=CLUSTER_BOOTSTRAP)
    # Means over groups of independent samples have no clusters: equal samples are drawn as kinds.
    for name, estimate in clustered.items():
        if isinstance(estimate, GroupMean) and estimate.clusters is None:
            statistics, counts = statistics_of_kinds(name, [estimate])
            (values_by_name,) = resample(
                statistics, counts, seed=seed, resamples=resamples, multinomial=True
            )
            yield BOOTSTRAP, values_by_name


def _resampled_values_by_sizes(
    estimates: Estimates,
    seed: int,
    resamples: int,
    multinomial: bool = False,
    method: str = BOOTSTRAP,
) -> Iterator[tuple[str, Mapping[str, Values]]]:
    """Yield the name of the bootstrap method, and the resampled values (R,) by name of estimate.

    Estimates with equal numbers of clusters are drawn together, and yielded as one item. Estimates
    whose samples and draws of a classifier are both resampled have the method CROSSED_BOOTSTRAP.
    All others have `method`. For `multinomial`, see `resample`.
    """
    for sizes, estimates_of_sizes in group_by_drawn_sizes(estimates).items():
        (values_by_name,) = resample(
            [statistic_of(estimates_of_sizes)],
            np.ones(sum(sizes), int),
            seed=seed,
            resamples=resamples,
            multinomial=multinomial,
            sizes=sizes,
        )
        if len(sizes) > 1:
            yield CROSSED_BOOTSTRAP, values_by_name
        else:
            yield method, values_by_name


def with_width(
    interval: Interval | None, estimate: Estimate, bounds: tuple[float, float], level: float
) -> Interval | None:
    """Return the interval, or a wider one if it has no width because all samples are equal.

    If N samples are all equal, a share of the population with other values may be missing in them.
    The largest share that N samples miss with a probability of (1 - level) / 2 is
        missed_share = 1 - ((1 - level) / 2)^(1 / N),
    which is 3.6% for 100 samples and a level of 95%. The wider interval holds for any values of
    that share within `bounds`:
        value - missed_share * (value - least) to value + missed_share * (most - value).

    Return None if the bounds are infinite, or if the value is not within them. Medians may well be
    known exactly: their intervals are returned as they are.
    """
    has_width = interval is not None and interval.high - interval.low > _NO_WIDTH
    if has_width or isinstance(estimate, Median):
        return interval
    value, (least, most) = estimate.value, bounds
    if math.isinf(most - least) or not least <= value <= most:
        return None
    if interval is not None and isinstance(estimate, GroupMean):
        return or_likelihood(interval, estimate, level)
    missed_share = -math.expm1(math.log((1 - level) / 2) / _count_independent_samples(estimate))
    low = value - missed_share * (value - least)
    high = value + missed_share * (most - value)
    return Interval(low, high, ALL_ALIKE, level)


def _count_independent_samples(estimate: Estimate) -> int:
    """Return the number of independent samples, or of clusters, that have a value.

    It is 1 for kinds of estimates that are not widened by the number of their samples.
    """
    match estimate:
        case Mean(_, clusters):
            return len(np.unique(clusters))
        case FunctionOfSums(terms, function):
            return max(1, int((~np.isnan(function(terms))).sum()))
        case FunctionOfWeights(samples):
            return len(samples)
        case CrossedMean(hits):
            return len(hits)
    return 1


def _uses_bootstrap(estimate: Estimate, stored_method: str) -> bool:
    """Return whether the interval of an estimate is by a bootstrap, and not by a formula.

    `stored_method` is the method of the interval in a stored result, or "" if there is none. A
    stored interval that is by a bootstrap stays so.
    """
    match estimate:
        case Proportion():
            return False
        case MeanRank():
            return stored_method == CLUSTER_BOOTSTRAP
        case CrossedMean():
            return stored_method == CROSSED_BOOTSTRAP
        case Mean(values, _):
            return values.dtype != np.bool_ or stored_method == CLUSTER_BOOTSTRAP
        case FunctionOfSums():
            has_formula = estimate.jackknife or estimate.interval is not None
            return not has_formula or stored_method == BOOTSTRAP
        case FunctionOfWeights():
            return estimate.interval is None or stored_method == BOOTSTRAP
        case GroupMean():
            return _uses_bootstrap_of_groups(estimate, stored_method)
    return True  # Median


def _uses_bootstrap_of_groups(mean: GroupMean, stored_method: str) -> bool:
    """Return whether the interval of a mean over groups is by a bootstrap.

    Without a stored method, it is for means of clustered samples that are neither 0 nor 1.
    """
    if stored_method in (BOOTSTRAP, CLUSTER_BOOTSTRAP, OR_LIKELIHOOD):
        return True
    if not len(mean.hits):
        return True  # and resampling raises ValueError
    return not mean.lowest and mean.clusters is not None and mean.value not in (0, 1)


def _interval_by_formula(estimate: Estimate, stored_method: str, level: float) -> Interval | None:
    """Return the interval of an estimate that is not resampled.

    `stored_method` is the method of the interval in a stored result, or "" if there is none.
    Return None if the estimate has no interval.
    """
    match estimate:
        case Proportion(hits):
            return wilson(int(hits.sum()), len(hits), level)
        case MeanRank():
            return mean_rank_interval(estimate, level)
        case CrossedMean():
            effective = effective_samples(estimate)
            return _wilson(estimate.value, effective.n, OVER_DRAWS, level, effective.dof)
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
