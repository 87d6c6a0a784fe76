"""Confidence intervals of estimates, and paired differences of the estimates of several models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import (
    Estimate,
    FunctionOfSums,
    GroupMean,
    Mean,
    Median,
    Proportion,
    Values,
)
from cosmos_eval.stats.intervals import (
    cluster_bootstrap,
    cluster_median_bootstrap,
    mean_class_recall_bootstrap,
    mean_of_groups_bootstrap,
    statistic_bootstrap,
    wilson,
)
from cosmos_eval.stats.paired import (
    Compare,
    PairedDifference,
    Statistic,
    by_bootstrap,
    group_mean_statistic,
    joined,
    mcnemar,
    mean_statistic,
    median_statistic,
    paired_group_mean,
)
from cosmos_eval.types import Interval

Estimates = Mapping[str, Estimate]


def is_slow(estimate: Estimate) -> bool:
    """Return whether comparing such an estimate takes longer than all others together."""
    return isinstance(estimate, Median) or (
        isinstance(estimate, GroupMean) and estimate.clusters is None
    )


def intervals(estimates: Estimates, seed: int = 0) -> dict[str, Interval]:
    """95% intervals by name; an estimate without a value in any resample has none."""
    found = {**_mean_intervals(estimates, seed), **_sum_intervals(estimates, seed)}
    for name, estimate in estimates.items():
        match estimate:
            case Proportion(hits):
                found[name] = wilson(int(hits.sum()), len(hits))
            case Median(values, clusters):
                found[name] = cluster_median_bootstrap(values, clusters, seed=seed)
            case GroupMean(hits, groups, clusters) if clusters is not None:
                found[name] = mean_of_groups_bootstrap(groups, hits, clusters, seed=seed)
            case GroupMean(hits, groups):
                found[name] = mean_class_recall_bootstrap(groups, hits, seed=seed)
    return {name: found[name] for name in estimates if name in found}


def _mean_intervals(estimates: Estimates, seed: int) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    for means in _sharing(estimates, Mean, lambda mean: id(mean.clusters)):
        clusters = next(iter(means.values())).clusters
        table = np.column_stack([mean.values for mean in means.values()])
        found.update(zip(means, cluster_bootstrap(table, clusters, seed=seed), strict=True))
    return found


def _sum_intervals(estimates: Estimates, seed: int) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    for functions in _sharing(estimates, FunctionOfSums, lambda one: id(one.terms)):
        n_samples = len(next(iter(functions.values())).terms[0])
        found |= statistic_bootstrap(_sums_statistic(functions, {}), n_samples, seed=seed)
    return found


def differences(several: Sequence[Estimates], *, without_slow: bool = False) -> Compare:
    """Paired differences of two of several models by their indices, of the same samples."""
    some = [_without_slow(one) if without_slow else one for one in several]
    compared = [_closed_forms(some), *_bootstraps(some)]

    def compare(a: int, b: int) -> dict[str, PairedDifference]:
        found = {name: one for part in compared for name, one in part(a, b).items()}
        return {name: found[name] for name in some[a] if name in found}

    return compare


def _without_slow(estimates: Estimates) -> Estimates:
    return {name: one for name, one in estimates.items() if not is_slow(one)}


def _closed_forms(several: Sequence[Estimates]) -> Compare:
    def compare(a: int, b: int) -> dict[str, PairedDifference]:
        found = {}
        for name, one in several[a].items():
            match one, several[b].get(name):
                case Proportion(hits_a), Proportion(hits_b):
                    found[name] = mcnemar(hits_a, hits_b)
                case GroupMean(clusters=None), GroupMean(clusters=None) as other:
                    found[name] = paired_group_mean(
                        (one.groups, other.groups), (one.hits, other.hits)
                    )
        return found

    return compare


def _bootstraps(several: Sequence[Estimates]) -> list[Compare]:
    """One bootstrap per number of clusters, in which all models and estimates are resampled."""
    resampled = [{n: e for n, e in one.items() if _n_clusters(e)} for one in several]
    sizes = sorted({_n_clusters(e) for one in resampled for e in one.values()})
    found = []
    for size in sizes:
        shared: dict[int, _Product] = {}
        statistics = [
            statistic_of({n: e for n, e in one.items() if _n_clusters(e) == size}, shared)
            for one in resampled
        ]
        found.append(by_bootstrap(statistics, size))
    return found


def _n_clusters(estimate: Estimate) -> int:
    """How many clusters are resampled; 0 where none are."""
    match estimate:
        case FunctionOfSums(terms):
            return len(terms[0])
        case Mean(_, clusters) | Median(_, clusters) | GroupMean(_, _, clusters):
            return 0 if clusters is None else len(np.unique(clusters))
    return 0


def statistic_of(estimates: Estimates, shared: dict[int, _Product] | None = None) -> Statistic:
    """Return a function from weights (R, C) to the values (R,) of resampled estimates.

    All must have as many clusters; `shared` are products that several models have in common.
    """
    parts: list[Statistic] = []
    for means in _sharing(estimates, Mean, lambda mean: id(mean.clusters)):
        table = {name: mean.values for name, mean in means.items()}
        parts.append(mean_statistic(table, _numbered(next(iter(means.values())).clusters)))
    for functions in _sharing(estimates, FunctionOfSums, lambda one: id(one.terms)):
        parts.append(_sums_statistic(functions, {} if shared is None else shared))
    for name, one in estimates.items():
        match one:
            case Median(values, clusters):
                parts.append(median_statistic(name, values, _numbered(clusters)))
            case GroupMean(hits, groups, clusters) if clusters is not None:
                parts.append(group_mean_statistic(name, groups, hits, _numbered(clusters)))
    return joined(*parts)


def _numbered(clusters: NDArray[np.integer]) -> NDArray[np.integer]:
    """Labels of clusters as numbers from 0."""
    return np.unique(clusters, return_inverse=True)[1]


class _Product:
    """`weights @ term`, computed once while the same weights come again."""

    def __init__(self, term: NDArray[Any]) -> None:
        self.term = term
        self._factor = term.astype(np.float64)
        self._last: tuple[Values, Values] | None = None

    def __call__(self, weights: Values) -> Values:
        if self._last is None or self._last[0] is not weights:
            self._last = weights, weights @ self._factor
        return self._last[1]


def _sums_statistic(
    functions: Mapping[str, FunctionOfSums], shared: dict[int, _Product]
) -> Statistic:
    """Functions of the same terms; `shared` holds the products of each term's first model.

    Models have terms in common, such as the labelled pixels, which are summed once for all.
    """
    terms = next(iter(functions.values())).terms
    products = []
    for index, term in enumerate(terms):
        first = shared.setdefault(index, _Product(term))
        products.append(first if np.array_equal(first.term, term) else _Product(term))

    def statistic(weights: Values) -> Mapping[str, Values]:
        sums = terms._make(product(weights) for product in products)
        return {name: one.function(sums) for name, one in functions.items()}

    return statistic


def _sharing(
    estimates: Estimates, kind: type[Any], key: Callable[[Any], int]
) -> list[dict[str, Any]]:
    """The estimates of one kind, those of equal keys together."""
    groups: dict[int, dict[str, Any]] = {}
    for name, estimate in estimates.items():
        if isinstance(estimate, kind):
            groups.setdefault(key(estimate), {})[name] = estimate
    return list(groups.values())
