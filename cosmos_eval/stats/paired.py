"""Two models on the same samples: tests, intervals, and the difference that could be seen.

Shares of independent samples: McNemar's exact test (McNemar 1947, Psychometrika 12) and the
interval of Agresti and Min 2005, Statistics in Medicine 24. Everything else: a bootstrap that draws
whole clusters for both models at once, so that what makes a sample hard for both cancels out
(Efron and Tibshirani 1993, "An Introduction to the Bootstrap", sections 6.2 and 12.2: the standard
error of the difference, with Student's t for few clusters). Of the t interval and the percentile
interval, the former holds its level where the models differ on a handful of samples only.
Several tests: Holm 1979, Scandinavian Journal of Statistics 6.

Shapes: N samples, C kinds of clusters, R resamples, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtr, stdtrit

from cosmos_eval.stats.intervals import LEVEL, RESAMPLES, draw_counts
from cosmos_eval.types import Interval

POWER = 0.8
MCNEMAR = "exact McNemar"
AGRESTI_MIN = "Agresti and Min"
BOOTSTRAP = "paired cluster bootstrap"
INDEPENDENT = "independent intervals"
_RESAMPLES_AT_ONCE = 200  # bounds memory: 200 x samples x 8 bytes
_NORMAL = math.inf  # degrees of freedom

Values = NDArray[np.float64]
Statistic = Callable[[Values], Mapping[str, Values]]
"""Metrics (R,) by name, given how often each kind of cluster is drawn, (R, C)."""


class PairedDifference(NamedTuple):
    """A metric of one model (`a`) minus that of another (`b`), in the metric's unit.

    `center`, `error` (a standard error) and `dof` (degrees of freedom) make its interval; `p_value`
    is two-sided, of no difference; `units` counts independent samples or clusters. `changed` says
    how many samples only `a` and only `b` gets right, where there is right and wrong.
    """

    a: float
    b: float
    center: float
    error: float
    dof: float
    p_value: float
    units: int
    method: str
    changed: tuple[int, int] | None = None

    @property
    def difference(self) -> float:
        """The difference that was observed."""
        return self.a - self.b

    def interval(self, level: float = LEVEL) -> Interval:
        """The two-sided confidence interval of the difference."""
        half = _quantile(self.dof, (1 + level) / 2) * self.error
        method = AGRESTI_MIN if self.method == MCNEMAR else self.method
        return Interval(self.center - half, self.center + half, method, level)

    def p_below(self, bound: float) -> float:
        """One-sided p-value against a true difference of `bound` or more.

        It is below (1 - level) / 2 exactly where the interval of that level lies below `bound`.
        """
        if self.error == 0:
            return 1.0 if self.center >= bound else _least_p(self.units) / 2
        return float(stdtr(self.dof, (self.center - bound) / self.error))

    def detectable(self, alpha: float = 1 - LEVEL, power: float = POWER) -> float | None:
        """The true difference that a two-sided test at `alpha` finds with probability `power`.

        Of a size of (t(1 - alpha / 2) + t(power)) x standard error, for models that differ on as
        many samples as these do. Of matched shares it is (t(1 - alpha / 2) + t(power))^2 / n at
        least, since a difference of so much makes as many samples differ. None where a bootstrap
        saw no difference at all.
        """
        factor = _quantile(self.dof, 1 - alpha / 2) + _quantile(self.dof, power)
        least = factor**2 / self.units if self.method == MCNEMAR else 0.0
        return max(factor * self.error, least) or None

    def flipped(self) -> PairedDifference:
        """The difference the other way round."""
        changed = self.changed and self.changed[::-1]
        return self._replace(a=self.b, b=self.a, center=-self.center, changed=changed)


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> PairedDifference:
    """Difference of two shares of hits, (N,) each, of the same independent samples."""
    both, only_a, only_b = (int(some.sum()) for some in (a & b, a & ~b, b & ~a))
    return matched_shares(both, only_a, only_b, len(a))


def matched_shares(both: int, only_a: int, only_b: int, n: int) -> PairedDifference:
    """The same from how many of n samples both, only the one, and only the other get right.

    The p-value is the two-sided binomial one of (only_a, only_b) at a half. The interval is Wald's
    after half a sample is added to each of the four cells. Raises ValueError without samples.
    """
    if n < 1:
        raise ValueError("no samples to compare")
    p_value = min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))
    center = (only_a - only_b) / (n + 2)
    error = math.sqrt((only_a + only_b + 1) / (n + 2) - center**2) / math.sqrt(n + 2)
    shares = (both + only_a) / n, (both + only_b) / n
    changed = (only_a, only_b)
    return PairedDifference(*shares, center, error, _NORMAL, p_value, n, MCNEMAR, changed)


Compare = Callable[[int, int], Mapping[str, PairedDifference]]
"""Two of several results, by their places -> the difference of every metric."""


class Resampled(NamedTuple):
    """Metrics of one model: `observed` on all clusters, `drawn` (R,) on resamples of `units`."""

    observed: Mapping[str, float]
    drawn: Mapping[str, Values]
    units: int


def resampled(
    statistics: Sequence[Statistic],
    clusters: NDArray[np.integer],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Resampled]:
    """The metrics of several models, by drawing the same clusters for all of them.

    `clusters` (C,) holds how many clusters there are of each kind; 1 where each is its own.
    Raises ValueError for fewer than two clusters.
    """
    n = int(clusters.sum())
    if n < 2:
        raise ValueError("two images or more are needed to tell models apart")
    rng = np.random.default_rng(seed)
    parts: list[list[Mapping[str, Values]]] = [[] for _ in statistics]
    for size in _block_sizes(resamples):
        weights = _draw(rng, clusters, size)
        for part, statistic in zip(parts, statistics, strict=True):
            part.append(statistic(weights))
    once = clusters[None].astype(np.float64)
    return [
        Resampled(
            {name: float(values[0]) for name, values in statistic(once).items()},
            {name: np.concatenate([block[name] for block in part]) for name in part[0]},
            n,
        )
        for statistic, part in zip(statistics, parts, strict=True)
    ]


def _draw(rng: np.random.Generator, clusters: NDArray[np.integer], size: int) -> Values:
    """How often each kind of cluster is drawn, (size, C)."""
    if (clusters == 1).all():
        return draw_counts(rng, len(clusters), size)  # ten times as fast
    n = int(clusters.sum())
    return rng.multinomial(n, clusters / n, size).astype(np.float64)


def resampled_difference(a: Resampled, b: Resampled) -> dict[str, PairedDifference]:
    """Difference of every metric that both have, of the same draws.

    A resample in which a metric has no value does not count for it; a metric without any is left
    out.
    """
    found = {}
    for name in (name for name in a.drawn if name in b.drawn):
        drawn = a.drawn[name] - b.drawn[name]
        drawn = drawn[~np.isnan(drawn)]
        values = a.observed[name], b.observed[name]
        if len(drawn) > 1 and not any(map(math.isnan, values)):
            # Resampling n clusters varies by a factor (n - 1) / n too little.
            error = float(drawn.std(ddof=1)) * math.sqrt(a.units / (a.units - 1))
            found[name] = _bootstrapped(*values, error, a.units)
    return found


def by_bootstrap(statistics: Sequence[Statistic], units: int) -> Compare:
    """The difference of two of several models, by their places; every cluster is its own kind."""
    drawn = resampled(statistics, np.ones(units, int))
    return lambda a, b: resampled_difference(drawn[a], drawn[b])


def paired_bootstrap(
    a: Statistic,
    b: Statistic,
    clusters: NDArray[np.integer],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, PairedDifference]:
    """Difference of every metric of two models: both functions above, one after the other."""
    return resampled_difference(*resampled([a, b], clusters, seed=seed, resamples=resamples))


def independent_difference(a: float, b: float, error: float, units: int) -> PairedDifference:
    """A difference whose standard error is known, of results whose samples are not."""
    p_value = 2 * float(stdtr(_NORMAL, -abs(a - b) / error)) if error > 0 else 1.0
    return PairedDifference(a, b, a - b, error, _NORMAL, p_value, units, INDEPENDENT)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    Rejecting those at most alpha errs on any of the tests with probability alpha at most, however
    they depend on each other.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    stepped = np.maximum.accumulate(factors * np.asarray(p_values, np.float64)[order])
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(p) for p in adjusted]


def mean_statistic(values: Mapping[str, NDArray[Any]], cluster: NDArray[np.integer]) -> Statistic:
    """Means over samples of every (N,) array; `cluster` (N,) numbers clusters from 0, all used."""
    sums = np.stack([np.bincount(cluster, weights=column) for column in values.values()], axis=1)
    sizes = np.bincount(cluster).astype(np.float64)

    def statistic(weights: Values) -> Mapping[str, Values]:
        means = (weights @ sums) / (weights @ sizes)[:, None]
        return dict(zip(values, means.T, strict=True))

    return statistic


def median_statistic(
    name: str, values: NDArray[np.integer], cluster: NDArray[np.integer]
) -> Statistic:
    """The median of values (N,)."""
    order = np.argsort(values, kind="stable")
    distinct, starts = np.unique(values[order], return_index=True)
    owner = cluster[order]

    def statistic(weights: Values) -> Mapping[str, Values]:
        up_to = np.add.reduceat(weights[:, owner], starts, axis=1).cumsum(axis=1)
        return {name: _medians(distinct, up_to)}

    return statistic


def group_mean_statistic(
    name: str,
    groups: NDArray[np.integer],
    hits: NDArray[np.bool_],
    cluster: NDArray[np.integer],
) -> Statistic:
    """The mean over groups (N,) of their share of hits (N,); what is not drawn is left out."""
    _, group = np.unique(groups, return_inverse=True)
    shape = (int(cluster.max()) + 1, int(group.max()) + 1)
    cells = cluster * shape[1] + group
    counts = np.bincount(cells, minlength=math.prod(shape)).reshape(shape).astype(np.float64)
    sums = np.bincount(cells, weights=hits, minlength=math.prod(shape)).reshape(shape)

    def statistic(weights: Values) -> Mapping[str, Values]:
        total = weights @ counts
        share = np.divide(weights @ sums, total, out=np.zeros(total.shape), where=total > 0)
        return {name: share.sum(axis=1) / (total > 0).sum(axis=1)}

    return statistic


def paired_group_mean(
    groups: tuple[NDArray[np.integer], NDArray[np.integer]],
    hits: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> PairedDifference:
    """Difference of the mean over groups (N,) of the proportion of hits (N,), of two models.

    Samples of one group on which both models do alike are of one kind, so that a resample of many
    samples is a draw over few kinds.
    """
    table = np.stack([*groups, *hits], axis=1).astype(np.int64)
    kinds, counts = np.unique(table, axis=0, return_counts=True)
    own = np.arange(len(kinds))
    of_a, of_b = (
        group_mean_statistic("mean", kinds[:, column], kinds[:, 2 + column].astype(bool), own)
        for column in (0, 1)
    )
    return paired_bootstrap(of_a, of_b, counts, seed=seed, resamples=resamples)["mean"]


def joined(*statistics: Statistic) -> Statistic:
    """The metrics of all, of the same clusters."""

    def statistic(weights: Values) -> Mapping[str, Values]:
        return {name: some for one in statistics for name, some in one(weights).items()}

    return statistic


def _bootstrapped(a: float, b: float, error: float, n: int) -> PairedDifference:
    if error > 0:
        p_value = 2 * float(stdtr(n - 1, -abs(a - b) / error))
    else:
        p_value = 1.0 if a == b else _least_p(n)
    return PairedDifference(a, b, a - b, error, n - 1, p_value, n, BOOTSTRAP)


def _least_p(n: int) -> float:
    """What all n samples pointing the same way tell, two-sided."""
    return 2 * 0.5**n


def _medians(distinct: NDArray[np.integer], up_to: Values) -> Values:
    """Medians (R,) of the distinct values, of which `up_to` (R, U) counts those drawn so far."""
    total = up_to[:, -1:]
    lower = (up_to >= np.floor((total + 1) / 2)).argmax(axis=1)
    upper = (up_to >= np.floor(total / 2) + 1).argmax(axis=1)
    return (distinct[lower] + distinct[upper]) / 2


def _quantile(dof: float, probability: float) -> float:
    return float(stdtrit(dof, probability))


def _block_sizes(resamples: int) -> list[int]:
    whole, rest = divmod(resamples, _RESAMPLES_AT_ONCE)
    return [_RESAMPLES_AT_ONCE] * whole + [rest] * (rest > 0)
