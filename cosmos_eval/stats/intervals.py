"""Confidence intervals of estimates: Wilson's score interval, the jackknife, the percentile
bootstrap, those of shares of groups (`stats.shares`), of ranks (`stats.mean_rank`), and of samples
that are all alike.

Wilson 1927, "Probable inference", for clusters with an effective number of samples (Dean and Pagano
2015, "Evaluating confidence interval methods for binomial proportions in clustered surveys");
Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 11 and 13. Resampling whole
clusters keeps the dependence inside them: captions of one image are not independent.

Shapes: N samples, C kinds of clusters, R resamples.
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
_NO_WIDTH = 1e-9
_RESAMPLES_AT_ONCE = 200  # bounds memory: 200 x samples x 8 bytes

Estimates = Mapping[str, Estimate]
Statistic = Callable[[Values], Mapping[str, Values]]
"""Values (R,) by name, given how often each kind of cluster is drawn, (R, C)."""


def resample(
    statistics: Sequence[Statistic],
    counts: NDArray[np.integer],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    multinomial: bool = False,
    sizes: Sequence[int] = (),
) -> list[dict[str, Values]]:
    """Return values (R,) of several statistics, of the same draws.

    `counts` (C,) holds how many clusters there are of each kind; 1 where each is its own. These are
    drawn one by one, which is ten times as fast as a multinomial draw, unless `multinomial`.
    `sizes`, which sum to C, are of groups of clusters that are drawn each on their own.
    Raises ValueError without clusters.
    """
    if not counts.sum():
        raise ValueError("no samples to resample")
    draw = _multinomial if multinomial or (counts != 1).any() else _one_by_one
    rng = np.random.default_rng(seed)
    parts: list[list[Mapping[str, Values]]] = [[] for _ in statistics]
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        rows = min(_RESAMPLES_AT_ONCE, resamples - start)
        groups = np.split(counts, np.cumsum(sizes[:-1], dtype=int))
        weights = np.concatenate([draw(rng, group, rows) for group in groups], axis=1)
        for part, statistic in zip(parts, statistics, strict=True):
            part.append(statistic(weights))
    return [
        {name: np.concatenate([one[name] for one in part]) for name in part[0]} for part in parts
    ]


def _multinomial(rng: np.random.Generator, counts: NDArray[np.integer], size: int) -> Values:
    n = int(counts.sum())
    return rng.multinomial(n, counts / n, size).astype(np.float64)


def _one_by_one(rng: np.random.Generator, counts: NDArray[np.integer], size: int) -> Values:
    n = len(counts)
    weights = np.empty((size, n))
    for row in weights:  # each of which fits a processor's cache
        row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
    return weights


def by_clusters(estimates: Estimates) -> dict[tuple[int, ...], dict[str, Estimate]]:
    """Group resampled estimates by how many clusters they have, of which kinds are drawn each on
    their own; leave out all others."""
    found: dict[tuple[int, ...], dict[str, Estimate]] = {}
    for name, estimate in estimates.items():
        match estimate:
            case FunctionOfSums(terms):
                found.setdefault((len(terms[0]),), {})[name] = estimate
            case FunctionOfWeights(samples):
                found.setdefault((len(samples),), {})[name] = estimate
            case CrossedMean(hits):
                found.setdefault(hits.shape, {})[name] = estimate
            case Mean(_, clusters) | Median(_, clusters) | GroupMean(_, _, clusters):
                if clusters is not None:
                    found.setdefault((len(np.unique(clusters)),), {})[name] = estimate
    return found


def statistic_of(estimates: Estimates, products: dict[int, Product] | None = None) -> Statistic:
    """Return the statistic of resampled estimates, which have as many clusters each.

    `products` are those of the terms of another model's sums: models have terms in common, such as
    the labelled pixels, which are then multiplied once for all.
    """
    parts: list[Statistic] = []
    for means in _sharing(estimates, Mean, "clusters"):
        parts.append(_means(means))
    for functions in _sharing(estimates, FunctionOfSums, "terms"):
        parts.append(_functions(functions, {} if products is None else products))
    for some in _sharing(estimates, GroupMean, "clusters"):
        for means in _sharing(some, GroupMean, "groups"):
            clusters = next(iter(means.values())).clusters
            if clusters is not None:
                parts.append(_group_means(means, _numbered(clusters)))
    for name, estimate in estimates.items():
        if isinstance(estimate, Median):
            parts.append(_median(name, estimate))
        elif isinstance(estimate, CrossedMean):
            parts.append(_crossed_mean(name, estimate))
        elif isinstance(estimate, FunctionOfWeights):
            parts.append(_of_weights(name, estimate))

    def statistic(weights: Values) -> Mapping[str, Values]:
        found = {name: values for part in parts for name, values in part(weights).items()}
        return {name: found[name] for name in estimates}

    return statistic


def _sharing(estimates: Estimates, kind: type[Any], field: str) -> list[dict[str, Any]]:
    groups: dict[int, dict[str, Any]] = {}
    for name, estimate in estimates.items():
        if isinstance(estimate, kind):
            groups.setdefault(id(getattr(estimate, field)), {})[name] = estimate
    return list(groups.values())


def _numbered(clusters: NDArray[np.integer]) -> NDArray[np.integer]:
    return np.unique(clusters, return_inverse=True)[1]


def _means(means: Mapping[str, Mean]) -> Statistic:
    cluster = _numbered(next(iter(means.values())).clusters)
    columns = [np.bincount(cluster, weights=mean.values) for mean in means.values()]
    sums, sizes = np.stack(columns, axis=1), np.bincount(cluster).astype(np.float64)

    def statistic(weights: Values) -> Mapping[str, Values]:
        values = (weights @ sums) / (weights @ sizes)[:, None]
        return dict(zip(means, values.T, strict=True))

    return statistic


def _median(name: str, median: Median) -> Statistic:
    order = np.argsort(median.values, kind="stable")
    distinct, starts = np.unique(median.values[order], return_index=True)
    owner = _numbered(median.clusters)[order]

    def statistic(weights: Values) -> Mapping[str, Values]:
        up_to = np.add.reduceat(weights[:, owner], starts, axis=1).cumsum(axis=1)
        total = up_to[:, -1:]
        lower = (up_to >= np.floor((total + 1) / 2)).argmax(axis=1)
        upper = (up_to >= np.floor(total / 2) + 1).argmax(axis=1)
        middle = (distinct[lower] + distinct[upper]) / 2
        return {name: np.floor(middle) if median.floor else middle}

    return statistic


def _crossed_mean(name: str, mean: CrossedMean) -> Statistic:
    hits, n = mean.hits.astype(np.float64), len(mean.hits)

    def statistic(weights: Values) -> Mapping[str, Values]:
        samples, draws = weights[:, :n], weights[:, n:]
        return {name: ((samples @ hits) * draws).sum(axis=1) / hits.size}

    return statistic


def _of_weights(name: str, estimate: FunctionOfWeights) -> Statistic:
    function = estimate.prepare(estimate.samples)
    return lambda weights: {name: function(weights)}


def _group_means(means: Mapping[str, GroupMean], cluster: NDArray[np.integer]) -> Statistic:
    """Return the statistic of means over the same groups of the same samples."""
    groups = next(iter(means.values())).groups
    order = np.argsort(groups, kind="stable")
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    owner = cluster[order]
    lowest = {name: mean.hits[order] for name, mean in means.items() if mean.lowest}
    others = {name: mean.hits[order] for name, mean in means.items() if not mean.lowest}
    right = np.reshape([*others.values()], (len(others), len(order))).T.astype(np.float64)

    def statistic(weights: Values) -> Mapping[str, Values]:
        drawn = weights[:, owner]
        total = np.add.reduceat(drawn, starts, axis=1)
        found = {}
        for name, hits in lowest.items():
            shares = ratio(np.add.reduceat(drawn * hits, starts, axis=1), total)
            found[name] = np.nanmin(shares, axis=1)
        share = np.divide(1, total, out=np.zeros(total.shape), where=total > 0)
        drawn *= np.repeat(share / (total > 0).sum(axis=1, keepdims=True), sizes, axis=1)
        return found | dict(zip(others, (drawn @ right).T, strict=True))

    return statistic


def statistics_of_kinds(
    name: str, means: Sequence[GroupMean]
) -> tuple[list[Statistic], NDArray[np.integer]]:
    """Return the statistics of group means of independent samples, and counts of their kinds.

    Samples of the same groups and hits in all models are of one kind, so that a resample of many
    samples is a draw of few kinds.
    """
    columns = [mean.groups for mean in means] + [mean.hits for mean in means]
    table = np.stack(columns, axis=1).astype(np.int64)
    kinds, counts = np.unique(table, axis=0, return_counts=True)
    own = np.arange(len(kinds))
    groups, hits = np.split(kinds.T, 2)
    of_kinds = [
        mean._replace(groups=group, hits=hit)
        for mean, group, hit in zip(means, groups, hits.astype(bool), strict=True)
    ]
    return [_group_means({name: mean}, own) for mean in of_kinds], counts


class Product:
    """`weights @ term`, computed once while the same weights come again."""

    def __init__(self, term: NDArray[Any]) -> None:
        self.term = term
        self._factor = term.astype(np.float64)
        self._last: tuple[Values, Values] | None = None

    def __call__(self, weights: Values) -> Values:
        if self._last is None or self._last[0] is not weights:
            self._last = weights, weights @ self._factor
        return self._last[1]


def _functions(functions: Mapping[str, FunctionOfSums], products: dict[int, Product]) -> Statistic:
    terms = next(iter(functions.values())).terms
    own = []
    for index, term in enumerate(terms):
        first = products.setdefault(index, Product(term))
        own.append(first if np.array_equal(first.term, term) else Product(term))

    def statistic(weights: Values) -> Mapping[str, Values]:
        sums = terms._make(product(weights) for product in own)
        return {name: one.function(sums) for name, one in functions.items()}

    return statistic


def wilson(successes: int, n: int, level: float = LEVEL) -> Interval:
    """Return Wilson's interval of a proportion; ValueError unless 0 <= successes <= n > 0."""
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
    """Return Wilson's interval of a proportion of hits (N,) in clusters (N,), for the number of
    independent samples that would have the same standard error. That is at least their number if
    all hits of a cluster were equal, also where the error is 0, and N at most."""
    cluster, n = _numbered(clusters), len(hits)
    sizes = np.bincount(cluster)
    if len(sizes) == n:
        return wilson(int(hits.sum()), n, level)
    share = float(hits.mean())
    deviations = np.bincount(cluster, weights=hits) - share * sizes
    variance = float(np.square(deviations).sum()) * len(sizes) / max(1, len(sizes) - 1)
    least = n**2 / float(np.square(sizes).sum())
    effective = share * (1 - share) * n**2 / variance if 0 < share < 1 and variance else least
    return _wilson(share, min(max(effective, least), n), "wilson, effective n", level)


def jackknife(estimate: FunctionOfSums, level: float = LEVEL) -> Interval | None:
    """Return value -+ t x standard error of a fraction, by leaving out each of N samples in turn;
    None of one sample. It is of the expected value at N samples. Unlike a resample, what is left
    hardly ever lacks a class that is found wrongly elsewhere, whose IoU would be 0."""
    left = estimate.terms._make(term.sum(0) - term for term in estimate.terms)
    values = estimate.function(left)
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return None
    return Interval(*jackknife_ends(estimate.value, values, level), JACKKNIFE, level)


def percentiles(drawn: Values, method: str, level: float = LEVEL) -> Interval:
    """Return the interval of drawn values (R,), of which NaN does not count."""
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

    A resample in which an estimate has no value (NaN) does not count for it; an estimate without a
    value in any resample has no interval. `methods` are those of stored intervals by name, since
    earlier versions resampled more. `bounds` are the least and the largest value of each estimate,
    by default 0 and 1, which decide how far samples that are all alike may mislead. Raises
    ValueError for estimates of no samples.
    """
    ends: dict[str, Interval | None] = {}
    resampled = {}
    for name, estimate in estimates.items():
        if _is_resampled(estimate, methods.get(name, "")):
            resampled[name] = estimate
        else:
            ends[name] = _by_formula(estimate, methods.get(name, ""), level)
    for method, drawn in _draws(resampled, seed, resamples):
        for name, values in drawn.items():
            if not np.isnan(values).all():
                ends[name] = percentiles(values, method, level)
    for name, estimate in estimates.items():
        interval, stored = ends.get(name), methods.get(name)
        if isinstance(estimate, GroupMean) and interval and stored == OR_LIKELIHOOD:
            interval = or_likelihood(interval, estimate, level)
        if interval is None or interval.method != stored:
            interval = with_width(interval, estimate, bounds.get(name, (0.0, 1.0)), level)
        ends[name] = interval
    return {name: interval for name in estimates if (interval := ends[name]) is not None}


def _draws(
    estimates: Estimates, seed: int, resamples: int
) -> Iterator[tuple[str, Mapping[str, Values]]]:
    """Yield the method of a bootstrap and values (R,) of the estimates that it draws together."""
    sums = {n: e for n, e in estimates.items() if isinstance(e, FunctionOfSums)}
    in_turn = {n: e for n, e in sums.items() if e.one_by_one}
    at_once = {n: e for n, e in sums.items() if not e.one_by_one}
    of_weights = {n: e for n, e in estimates.items() if isinstance(e, FunctionOfWeights)}
    for independent in (at_once, in_turn, of_weights):
        for (size,), group in by_clusters(independent).items():
            (drawn,) = resample(
                [statistic_of(group)],
                np.ones(size, int),
                seed=seed,
                resamples=resamples,
                multinomial=independent is at_once,
            )
            yield BOOTSTRAP, drawn
    clustered = {n: e for n, e in estimates.items() if n not in sums | of_weights}
    for sizes, group in by_clusters(clustered).items():
        method = CLUSTER_BOOTSTRAP if len(sizes) == 1 else CROSSED_BOOTSTRAP
        (drawn,) = resample(
            [statistic_of(group)],
            np.ones(sum(sizes), int),
            seed=seed,
            resamples=resamples,
            sizes=sizes,
        )
        yield method, drawn
    for name, estimate in clustered.items():
        if isinstance(estimate, GroupMean) and estimate.clusters is None:
            statistics, counts = statistics_of_kinds(name, [estimate])
            (drawn,) = resample(
                statistics, counts, seed=seed, resamples=resamples, multinomial=True
            )
            yield BOOTSTRAP, drawn


def with_width(
    interval: Interval | None, estimate: Estimate, bounds: tuple[float, float], level: float
) -> Interval | None:
    """Return an interval, or that of samples that are all alike if it is missing or has no width.

    A share of the population that no sample is of may have any value within the bounds: the largest
    share that N samples all miss with a probability of (1 - level) / 2. There is none if the bounds
    are infinite, or do not hold the value. Medians may well be known exactly.
    """
    has_width = interval is not None and interval.high - interval.low > _NO_WIDTH
    if has_width or isinstance(estimate, Median):
        return interval
    value, (least, most) = estimate.value, bounds
    if math.isinf(most - least) or not least <= value <= most:
        return None
    if interval is not None and isinstance(estimate, GroupMean):
        return or_likelihood(interval, estimate, level)
    missed = -math.expm1(math.log((1 - level) / 2) / _n_independent(estimate))
    low, high = value - missed * (value - least), value + missed * (most - value)
    return Interval(low, high, ALL_ALIKE, level)


def _n_independent(estimate: Estimate) -> int:
    """Return how many samples, or clusters, of an estimate have a value."""
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


def _is_resampled(estimate: Estimate, stored: str) -> bool:
    """Return whether an interval is by a bootstrap; `stored` is its method in a stored result."""
    match estimate:
        case MeanRank():
            return stored == CLUSTER_BOOTSTRAP
        case CrossedMean():
            return stored == CROSSED_BOOTSTRAP
        case Mean(hits, _):
            return hits.dtype != np.bool_ or stored == CLUSTER_BOOTSTRAP
        case FunctionOfSums():
            has_formula = estimate.jackknife or estimate.interval is not None
            return not has_formula or stored == BOOTSTRAP
        case FunctionOfWeights():
            return estimate.interval is None or stored == BOOTSTRAP
        case GroupMean(hits, _, clusters):
            if not len(hits) or stored in (BOOTSTRAP, CLUSTER_BOOTSTRAP, OR_LIKELIHOOD):
                return True
            return not (estimate.lowest or clusters is None or estimate.value in (0, 1))
        case _:
            return not isinstance(estimate, Proportion)


def _by_formula(estimate: Estimate, stored: str, level: float) -> Interval | None:
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
        case FunctionOfWeights(samples) if estimate.interval is not None:
            return estimate.interval(samples, level)
        case GroupMean() if estimate.lowest and stored != ALL_OR_NONE:
            return lowest_share(estimate, level)
        case GroupMean():
            extreme = estimate.value in (0, 1)
            return all_or_none(estimate, level) if extreme else stratified(estimate, level)
    return None
