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
    """Return the resampled values (R,) of several statistics by name, from the same draws.

    `counts` (C,) holds the number of clusters of each kind. If all counts are 1, clusters are drawn
    one by one, which is ten times as fast as a multinomial draw. With `multinomial`, they are drawn
    by a multinomial draw all the same: the random numbers are others. `sizes` are the numbers of
    kinds in groups that are drawn independently of each other. Their sum is C, and by default there
    is one group. Raises ValueError if there are no clusters.
    """
    if not counts.sum():
        raise ValueError("no samples to resample")
    has_single_clusters = bool((counts == 1).all())
    draw = _one_by_one if has_single_clusters and not multinomial else _multinomial
    rng = np.random.default_rng(seed)
    counts_of_groups = np.split(counts, np.cumsum(sizes[:-1], dtype=int))
    chunks: list[list[Mapping[str, Values]]] = [[] for _ in statistics]
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        n_rows = min(_RESAMPLES_AT_ONCE, resamples - start)
        weights_of_groups = [draw(rng, group_counts, n_rows) for group_counts in counts_of_groups]
        weights = np.concatenate(weights_of_groups, axis=1)
        for statistic, chunks_of_statistic in zip(statistics, chunks, strict=True):
            chunks_of_statistic.append(statistic(weights))
    return [_concatenate_by_name(chunks_of_statistic) for chunks_of_statistic in chunks]


def _concatenate_by_name(chunks: Sequence[Mapping[str, Values]]) -> dict[str, Values]:
    """Return the values of all chunks by name. All chunks have the same names."""
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _multinomial(rng: np.random.Generator, counts: NDArray[np.integer], size: int) -> Values:
    """Return how often each kind is drawn in `size` resamples, (size, C).

    Each resample draws as many clusters as there are, with replacement.
    """
    n = int(counts.sum())
    return rng.multinomial(n, counts / n, size).astype(np.float64)


def _one_by_one(rng: np.random.Generator, counts: NDArray[np.integer], size: int) -> Values:
    """Return how often each cluster is drawn in `size` resamples, (size, C).

    Each resample draws C of the C clusters, with replacement.
    """
    n = len(counts)
    weights = np.empty((size, n))
    for row in weights:  # a row fits into a processor's cache
        row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
    return weights


def by_clusters(estimates: Estimates) -> dict[tuple[int, ...], dict[str, Estimate]]:
    """Return estimates by the numbers that a bootstrap draws of them, their `drawn_sizes`.

    Estimates that are not resampled by clusters are left out.
    """
    estimates_by_sizes: dict[tuple[int, ...], dict[str, Estimate]] = {}
    for name, estimate in estimates.items():
        sizes = estimate.drawn_sizes()
        if sizes is not None:
            estimates_by_sizes.setdefault(sizes, {})[name] = estimate
    return estimates_by_sizes


def statistic_of(estimates: Estimates, products: dict[int, Product] | None = None) -> Statistic:
    """Return the statistic that computes all estimates from weights (R, C).

    All estimates have C clusters. Estimates that share an array are computed together. `products`
    is a cache that the statistics of several models may share: terms of sums that the models have
    in common, such as labelled pixels, are then multiplied with the weights once for all models.
    """
    shared_products = {} if products is None else products
    statistics: list[Statistic] = []
    for means in _by_shared_array(estimates, Mean, "clusters"):
        statistics.append(_Means(means))
    for functions in _by_shared_array(estimates, FunctionOfSums, "terms"):
        statistics.append(_FunctionsOfSums(functions, shared_products))
    for group_means in _by_shared_array(estimates, GroupMean, "clusters"):
        for means_of_same_groups in _by_shared_array(group_means, GroupMean, "groups"):
            clusters = next(iter(means_of_same_groups.values())).clusters
            if clusters is not None:
                cluster_indices = _cluster_indices(clusters)
                statistics.append(_GroupMeans(means_of_same_groups, cluster_indices))
    for name, estimate in estimates.items():
        if isinstance(estimate, Median):
            statistics.append(_Median(name, estimate))
        elif isinstance(estimate, CrossedMean):
            statistics.append(_CrossedMean(name, estimate))
        elif isinstance(estimate, FunctionOfWeights):
            statistics.append(_FunctionOfWeights(name, estimate))
    return _JointStatistic([*estimates], statistics)


def _by_shared_array(estimates: Estimates, kind: type[Any], field: str) -> list[dict[str, Any]]:
    """Return groups of the estimates of a kind, by name. Each group has the same array in a field.

    Arrays count as the same if they are one object. Equal copies are different arrays.
    """
    groups: dict[int, dict[str, Any]] = {}
    for name, estimate in estimates.items():
        if isinstance(estimate, kind):
            array_id = id(getattr(estimate, field))
            groups.setdefault(array_id, {})[name] = estimate
    return list(groups.values())


def _cluster_indices(clusters: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the index of each sample's cluster, (N,), in 0, ..., C - 1."""
    return np.unique(clusters, return_inverse=True)[1]


class _JointStatistic:
    """The values of several statistics, in the order of `names`."""

    def __init__(self, names: Sequence[str], statistics: Sequence[Statistic]) -> None:
        self.names = names
        self.statistics = statistics

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the values (R,) of all estimates for weights (R, C)."""
        values: dict[str, Values] = {}
        for statistic in self.statistics:
            values.update(statistic(weights))
        return {name: values[name] for name in self.names}


class _Means:
    """Means of values with the same clusters: drawn sums over drawn numbers of samples."""

    def __init__(self, means: Mapping[str, Mean]) -> None:
        self.names = [*means]
        cluster = _cluster_indices(next(iter(means.values())).clusters)
        columns = [np.bincount(cluster, weights=mean.values) for mean in means.values()]
        self.sums = np.stack(columns, axis=1)
        self.sizes = np.bincount(cluster).astype(np.float64)

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the means (R,) for weights (R, C)."""
        values = (weights @ self.sums) / (weights @ self.sizes)[:, None]
        return dict(zip(self.names, values.T, strict=True))


class _Median:
    """The median of drawn values.

    The median of n drawn values in rising order is the mean of the value at place (n + 1) // 2 and
    the value at place n // 2 + 1, counted from 1. The value at place i is the least distinct value
    for which at least i drawn values are not greater.
    """

    def __init__(self, name: str, median: Median) -> None:
        self.name = name
        self.floor = median.floor
        order = np.argsort(median.values, kind="stable")
        self.distinct, self.starts = np.unique(median.values[order], return_index=True)
        self.cluster = _cluster_indices(median.clusters)[order]

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the medians (R,) for weights (R, C)."""
        sample_weights = weights[:, self.cluster]
        # How many drawn values are not greater than each distinct value, (R, distinct values).
        n_up_to = np.add.reduceat(sample_weights, self.starts, axis=1).cumsum(axis=1)
        n_drawn = n_up_to[:, -1:]
        lower = (n_up_to >= np.floor((n_drawn + 1) / 2)).argmax(axis=1)
        upper = (n_up_to >= np.floor(n_drawn / 2) + 1).argmax(axis=1)
        medians = (self.distinct[lower] + self.distinct[upper]) / 2
        if self.floor:
            medians = np.floor(medians)
        return {self.name: medians}


class _CrossedMean:
    """The mean of hits (N, D) over resampled samples and resampled draws of the classifier.

    Weights are (R, N + D): how often each sample and each draw is resampled.
    """

    def __init__(self, name: str, mean: CrossedMean) -> None:
        self.name = name
        self.hits = mean.hits.astype(np.float64)

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the means (R,) for weights (R, N + D)."""
        n_samples = len(self.hits)
        sample_weights, draw_weights = weights[:, :n_samples], weights[:, n_samples:]
        n_hits = ((sample_weights @ self.hits) * draw_weights).sum(axis=1)
        return {self.name: n_hits / self.hits.size}


class _FunctionOfWeights:
    """The statistic of a single `FunctionOfWeights`."""

    def __init__(self, name: str, estimate: FunctionOfWeights) -> None:
        self.name = name
        self.function = estimate.prepare(estimate.samples)

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the values (R,) for weights (R, N)."""
        return {self.name: self.function(weights)}


class _GroupMeans:
    """Means, or lowest shares, over the same groups of the same samples.

    A mean over G drawn groups is sum(weight * hit / (G * drawn samples of the group)), so that all
    means are one matrix product of the samples' weights with their hits.
    """

    def __init__(self, means: Mapping[str, GroupMean], cluster: NDArray[np.integer]) -> None:
        groups = next(iter(means.values())).groups
        order = np.argsort(groups, kind="stable")
        _, self.starts, self.sizes = np.unique(groups[order], return_index=True, return_counts=True)
        self.cluster = cluster[order]
        self.hits_of_lowest: dict[str, NDArray[np.bool_]] = {}
        hits_of_means = {}
        for name, mean in means.items():
            if mean.lowest:
                self.hits_of_lowest[name] = mean.hits[order]
            else:
                hits_of_means[name] = mean.hits[order]
        self.names_of_means = [*hits_of_means]
        shape = (len(hits_of_means), len(order))
        self.hits_of_means = np.reshape([*hits_of_means.values()], shape).T.astype(np.float64)

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the means and the lowest shares (R,) for weights (R, C)."""
        sample_weights = weights[:, self.cluster]  # (R, N), in the order of the groups
        group_weights = np.add.reduceat(sample_weights, self.starts, axis=1)  # (R, G)
        values = {}
        for name, hits in self.hits_of_lowest.items():
            n_hits = np.add.reduceat(sample_weights * hits, self.starts, axis=1)
            values[name] = np.nanmin(ratio(n_hits, group_weights), axis=1)
        is_drawn = group_weights > 0
        inverse = np.divide(1, group_weights, out=np.zeros(group_weights.shape), where=is_drawn)
        n_drawn_groups = is_drawn.sum(axis=1, keepdims=True)
        sample_weights *= np.repeat(inverse / n_drawn_groups, self.sizes, axis=1)
        means = (sample_weights @ self.hits_of_means).T
        return values | dict(zip(self.names_of_means, means, strict=True))


def statistics_of_kinds(
    name: str, means: Sequence[GroupMean]
) -> tuple[list[Statistic], NDArray[np.integer]]:
    """Return the statistic of each model's group mean, and the number of samples of each kind.

    Samples are independent. Samples with the same groups and hits in all models form one kind, so
    that a resample of many samples is a multinomial draw of few kinds. The statistics take weights
    (R, C) of C kinds, and return their values under `name`.
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
    """The product of weights (R, C) with a term (C, ...).

    The last product is kept. A further call with the same array of weights returns it.
    """

    def __init__(self, term: NDArray[Any]) -> None:
        self.term = term
        self._factor = term.astype(np.float64)
        self._last_weights: Values | None = None
        self._last_product: Values = np.zeros(0)

    def __call__(self, weights: Values) -> Values:
        """Return weights @ term, (R, ...)."""
        if self._last_weights is not weights:
            self._last_weights, self._last_product = weights, weights @ self._factor
        return self._last_product


class _FunctionsOfSums:
    """Functions of the same resampled sums.

    `shared_products` holds a product for each index of a term. It is used, or added if it is
    missing. A model whose term differs from the shared one has a product of its own.
    """

    def __init__(
        self, functions: Mapping[str, FunctionOfSums], shared_products: dict[int, Product]
    ) -> None:
        self.functions = functions
        self.terms = next(iter(functions.values())).terms
        self.products = []
        for index, term in enumerate(self.terms):
            shared_product = shared_products.setdefault(index, Product(term))
            is_equal = np.array_equal(shared_product.term, term)
            self.products.append(shared_product if is_equal else Product(term))

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the values (R,) of the functions for weights (R, N)."""
        sums = self.terms._make(product(weights) for product in self.products)
        return {name: estimate.function(sums) for name, estimate in self.functions.items()}


def wilson(successes: int, n: int, level: float = LEVEL) -> Interval:
    """Return Wilson's interval of a proportion.

    Raises ValueError unless 0 <= successes <= n and n > 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"no share of {successes} in {n}")
    return _wilson(successes / n, n, "wilson", level)


def _wilson(share: float, n: float, method: str, level: float, dof: float = math.inf) -> Interval:
    """Return Wilson's interval with the quantile of Student's t, by default the normal one."""
    quantile = (1 + level) / 2
    z2 = float(ndtri(quantile) if math.isinf(dof) else stdtrit(dof, quantile)) ** 2
    center = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(max(0.0, center - half), min(1.0, center + half), method, level)


def clustered_wilson(
    hits: NDArray[np.bool_], clusters: NDArray[np.integer], level: float = LEVEL
) -> Interval:
    """Return Wilson's interval of a proportion of hits (N,) in clusters (N,).

    The number of samples in its formula is the effective one: the number of independent samples
    that would have the same standard error. It is at most N. It is at least N^2 / sum(cluster
    size^2), its value if all hits of each cluster are equal. This is also the number if the
    standard error is 0.
    """
    cluster, n = _cluster_indices(clusters), len(hits)
    sizes = np.bincount(cluster)
    if len(sizes) == n:
        return wilson(int(hits.sum()), n, level)
    share = float(hits.mean())
    deviations = np.bincount(cluster, weights=hits) - share * sizes
    variance = float(np.square(deviations).sum()) * len(sizes) / max(1, len(sizes) - 1)
    least = n**2 / float(np.square(sizes).sum())
    effective_n = least
    if 0 < share < 1 and variance:
        effective_n = share * (1 - share) * n**2 / variance
    effective_n = min(max(effective_n, least), n)
    return _wilson(share, effective_n, "wilson, effective n", level)


def jackknife(estimate: FunctionOfSums, level: float = LEVEL) -> Interval | None:
    """Return the jackknife interval of a fraction: value -+ t x standard error.

    The standard error follows from the values without each of N samples in turn. Return None for
    fewer than two such values. The interval is for the expected value at N samples. Unlike a
    resample, N - 1 samples hardly ever lack a class, which would have an IoU of 0 if it is
    predicted anywhere.
    """
    sums_without_each = estimate.terms._make(term.sum(0) - term for term in estimate.terms)
    values = estimate.function(sums_without_each)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return None
    low, high = jackknife_ends(estimate.value, values, level)
    return Interval(low, high, JACKKNIFE, level)


def percentiles(drawn: Values, method: str, level: float = LEVEL) -> Interval:
    """Return the percentile interval of resampled values (R,), ignoring NaN."""
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

    A resample in which an estimate has no value (NaN) does not count for that estimate. An estimate
    without a value in any resample has no interval.

    `methods` holds the methods of stored intervals by name. An interval is computed again by its
    stored method, because earlier versions resampled more estimates. `bounds` holds the least and
    the largest possible value of each estimate, by default 0 and 1. `with_width` needs them if all
    samples are equal. Raises ValueError for an estimate without samples.
    """
    first_intervals: dict[str, Interval | None] = {}
    resampled_estimates = {}
    for name, estimate in estimates.items():
        stored_method = methods.get(name, "")
        if _is_resampled(estimate, stored_method):
            resampled_estimates[name] = estimate
        else:
            first_intervals[name] = _by_formula(estimate, stored_method, level)
    for method, values_by_name in _draws(resampled_estimates, seed, resamples):
        for name, values in values_by_name.items():
            if not np.isnan(values).all():
                first_intervals[name] = percentiles(values, method, level)
    final_intervals = {}
    for name, estimate in estimates.items():
        interval, stored_method = first_intervals.get(name), methods.get(name, "")
        if isinstance(estimate, GroupMean) and interval and stored_method == OR_LIKELIHOOD:
            interval = or_likelihood(interval, estimate, level)
        if interval is None or interval.method != stored_method:
            interval = with_width(interval, estimate, bounds.get(name, (0.0, 1.0)), level)
        if interval is not None:
            final_intervals[name] = interval
    return final_intervals


def _draws(
    estimates: Estimates, seed: int, resamples: int
) -> Iterator[tuple[str, Mapping[str, Values]]]:
    """Yield the method of each bootstrap, and the values (R,) of its estimates by name.

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
    yield from _draws_of_groups(sums, seed, resamples, multinomial=True)
    yield from _draws_of_groups(sums_one_by_one, seed, resamples)
    yield from _draws_of_groups(functions_of_weights, seed, resamples)
    yield from _draws_of_groups(clustered, seed, resamples, method=CLUSTER_BOOTSTRAP)
    for name, estimate in clustered.items():
        if isinstance(estimate, GroupMean) and estimate.clusters is None:
            statistics, counts = statistics_of_kinds(name, [estimate])
            (drawn,) = resample(
                statistics, counts, seed=seed, resamples=resamples, multinomial=True
            )
            yield BOOTSTRAP, drawn


def _draws_of_groups(
    estimates: Estimates,
    seed: int,
    resamples: int,
    multinomial: bool = False,
    method: str = BOOTSTRAP,
) -> Iterator[tuple[str, Mapping[str, Values]]]:
    """Yield the method, and the values (R,) by name, of estimates with equal numbers of clusters.

    Estimates of which samples and draws are resampled have the method CROSSED_BOOTSTRAP. All others
    have `method`.
    """
    for sizes, group in by_clusters(estimates).items():
        (drawn,) = resample(
            [statistic_of(group)],
            np.ones(sum(sizes), int),
            seed=seed,
            resamples=resamples,
            multinomial=multinomial,
            sizes=sizes,
        )
        yield method if len(sizes) == 1 else CROSSED_BOOTSTRAP, drawn


def with_width(
    interval: Interval | None, estimate: Estimate, bounds: tuple[float, float], level: float
) -> Interval | None:
    """Return the interval itself if it has a width, or else a wider one for samples without spread.

    If N samples are all equal, a share of the population with other values may be missing in them.
    The wider interval is for the largest share that N samples miss with a probability of
    (1 - level) / 2, and for any values of that share within `bounds`. Return None if the bounds are
    infinite, or if the value is not within them. Medians may well be known exactly: their intervals
    are returned as they are.
    """
    has_width = interval is not None and interval.high - interval.low > _NO_WIDTH
    if has_width or isinstance(estimate, Median):
        return interval
    value, (least, most) = estimate.value, bounds
    if math.isinf(most - least) or not least <= value <= most:
        return None
    if interval is not None and isinstance(estimate, GroupMean):
        return or_likelihood(interval, estimate, level)
    # (1 - missed_share)^n = (1 - level) / 2
    missed_share = -math.expm1(math.log((1 - level) / 2) / _n_independent(estimate))
    low = value - missed_share * (value - least)
    high = value + missed_share * (most - value)
    return Interval(low, high, ALL_ALIKE, level)


def _n_independent(estimate: Estimate) -> int:
    """Return the number of independent samples, or clusters, of an estimate that have a value."""
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


def _is_resampled(estimate: Estimate, stored_method: str) -> bool:
    """Return whether an interval is by a bootstrap.

    `stored_method` is the method of the interval in a stored result, or "".
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
            return _is_resampled_group_mean(estimate, stored_method)
    return True  # Median


def _is_resampled_group_mean(mean: GroupMean, stored_method: str) -> bool:
    """Return whether the interval of a mean over groups is by a bootstrap."""
    if stored_method in (BOOTSTRAP, CLUSTER_BOOTSTRAP, OR_LIKELIHOOD):
        return True
    if not len(mean.hits):
        return True  # and resampling raises ValueError
    return not mean.lowest and mean.clusters is not None and mean.value not in (0, 1)


def _by_formula(estimate: Estimate, stored_method: str, level: float) -> Interval | None:
    """Return the interval of an estimate that is not resampled."""
    match estimate:
        case Proportion(hits):
            return wilson(int(hits.sum()), len(hits), level)
        case MeanRank():
            return mean_rank_interval(estimate, level)
        case CrossedMean():
            n, dof = effective_samples(estimate)
            return _wilson(estimate.value, n, OVER_DRAWS, level, dof)
        case Mean(hits, clusters):
            return clustered_wilson(hits, clusters, level)
        case FunctionOfSums(terms) if estimate.interval is not None:
            return estimate.interval(terms, level)
        case FunctionOfSums():
            return jackknife(estimate, level)
        case FunctionOfWeights(samples):
            return estimate.interval(samples, level) if estimate.interval else None
        case GroupMean():
            return _group_mean_by_formula(estimate, stored_method, level)
        case Median():
            return None


def _group_mean_by_formula(mean: GroupMean, stored_method: str, level: float) -> Interval:
    """Return the interval of a mean over groups, or of the lowest share, by binomial counts."""
    if mean.lowest and stored_method != ALL_OR_NONE:
        return lowest_share(mean, level)
    if mean.value in (0, 1):
        return all_or_none(mean, level)
    return stratified(mean, level)
