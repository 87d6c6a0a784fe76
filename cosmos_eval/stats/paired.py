"""Two models on the same samples: tests, intervals, and the detectable difference.

Proportions of independent samples: McNemar's exact test (McNemar 1947, Psychometrika 12) and the
interval of Agresti and Min 2005, Statistics in Medicine 24. Means over classes, such as mIoU: the
jackknife of the difference, since a resample lacks classes that occur in few images. Means of
proportions per class: the variance of weighted signs, `by_class`. Everything else: a bootstrap that
draws whole clusters for both models at once, so that what makes a sample hard for both cancels out
(Efron and Tibshirani 1993, "An Introduction to the Bootstrap", sections 6.2, 11 and 12.2), with
Student's t, which unlike the percentile interval holds its level where the models differ on a
handful of samples only. Several tests: Holm 1979, Scandinavian Journal of Statistics 6.
Shapes: N samples, C kinds of clusters, R resamples, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtr, stdtrit

from cosmos_eval.stats import intervals
from cosmos_eval.stats.estimates import (
    Estimate,
    FunctionOfSums,
    GroupMean,
    Ints,
    Median,
    Proportion,
    Values,
)
from cosmos_eval.stats.jackknife import sums_without_each
from cosmos_eval.types import Interval

POWER = 0.8
MCNEMAR = "exact McNemar"
AGRESTI_MIN = "Agresti and Min"
BOOTSTRAP = "paired cluster bootstrap"
JACKKNIFE = "paired jackknife"
BY_CLASS = "paired t by class"
INDEPENDENT = "independent intervals"
_NORMAL = math.inf  # degrees of freedom


class PairedDifference(NamedTuple):
    """A metric of one model (`a`) minus that of another (`b`), in the metric's unit. `center`,
    `error` (a standard error) and `dof` (degrees of freedom) make its interval; `p_value` is
    two-sided, of no difference; `units` counts independent samples or clusters. `changed` says how
    many samples only `a` and only `b` gets right, where there is right and wrong."""

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
        return self.a - self.b

    def interval(self, level: float = intervals.LEVEL) -> Interval:
        half = float(stdtrit(self.dof, (1 + level) / 2)) * self.error
        method = AGRESTI_MIN if self.method == MCNEMAR else self.method
        return Interval(self.center - half, self.center + half, method, level)

    def p_below(self, bound: float) -> float:
        """One-sided p-value against a true difference of `bound` or more. It is below (1 - level) /
        2 exactly where the interval of that level lies below `bound`."""
        if self.error == 0:  # all samples point the same way
            return 1.0 if self.center >= bound else 0.5**self.units
        return float(stdtr(self.dof, (self.center - bound) / self.error))

    def detectable(self, alpha: float = 1 - intervals.LEVEL, power: float = POWER) -> float | None:
        """The true difference that a two-sided test at `alpha` finds with probability `power`.

        Of a size of (t(1 - alpha / 2) + t(power)) x standard error, for models that differ on as
        many samples as these do. Of matched shares it is (t(1 - alpha / 2) + t(power))^2 / n at
        least, since a difference of so much makes as many samples differ. None where a bootstrap
        saw no difference at all.
        """
        factor = float(stdtrit(self.dof, [1 - alpha / 2, power]).sum())
        least = factor**2 / self.units if self.method == MCNEMAR else 0.0
        return max(factor * self.error, least) or None

    def flipped(self) -> PairedDifference:
        changed = self.changed and self.changed[::-1]
        return self._replace(a=self.b, b=self.a, center=-self.center, changed=changed)


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> PairedDifference:
    """Compare the proportions of hits (N,) of two models on the same independent samples."""
    both, only_a, only_b = (int(some.sum()) for some in (a & b, a & ~b, b & ~a))
    return matched_shares(both, only_a, only_b, len(a))


def matched_shares(both: int, only_a: int, only_b: int, n: int) -> PairedDifference:
    """Compare from how many of n samples both, only the first, and only the second get right. The
    p-value is the two-sided binomial one of (only_a, only_b) at a half. The interval is Wald's
    after half a sample is added to each of the four cells. Raises ValueError without samples."""
    if n < 1:
        raise ValueError("no samples to compare")
    p_value = min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))
    center = (only_a - only_b) / (n + 2)
    error = math.sqrt((only_a + only_b + 1) / (n + 2) - center**2) / math.sqrt(n + 2)
    shares = (both + only_a) / n, (both + only_b) / n
    changed = (only_a, only_b)
    return PairedDifference(*shares, center, error, _NORMAL, p_value, n, MCNEMAR, changed)


Compare = Callable[[int, int], Mapping[str, PairedDifference]]
"""Two of several models by their indices -> the difference of every estimate that both have."""


def is_slow(estimate: Estimate) -> bool:
    """Return whether comparing such an estimate takes longer than all others together."""
    by_kinds = isinstance(estimate, GroupMean) and estimate.clusters is None and estimate.lowest
    return by_kinds or isinstance(estimate, Median)


def differences(
    several: Sequence[intervals.Estimates],
    *,
    without_slow: bool = False,
    seed: int = 0,
    resamples: int = intervals.RESAMPLES,
) -> Compare:
    """Return the paired differences of two of several models, of the same samples. Raises
    ValueError where fewer than two clusters would be resampled."""
    chosen = [
        {
            name: estimate
            for name, estimate in model.items()
            if not (without_slow and is_slow(estimate))
        }
        for model in several
    ]
    left_out = [
        {
            name: sums_without_each(estimate)
            for name, estimate in model.items()
            if isinstance(estimate, FunctionOfSums) and estimate.jackknife
        }
        for model in chosen
    ]
    draw = partial(intervals.resample, seed=seed, resamples=resamples)
    clustered = [
        intervals.by_clusters({name: e for name, e in model.items() if name not in values})
        for model, values in zip(chosen, left_out, strict=True)
    ]
    bootstraps = []
    for sizes in sorted({sizes for model in clustered for sizes in model}):
        products: dict[int, intervals.Product] = {}
        statistics = [intervals.statistic_of(model.get(sizes, {}), products) for model in clustered]
        ones, within = np.ones(sum(sizes), int), partial(draw, sizes=sizes)
        bootstraps.append(_by_bootstrap(statistics, ones, within, units=sizes[0]))

    def compare(a: int, b: int) -> dict[str, PairedDifference]:
        found = {name: one for some in bootstraps for name, one in some(a, b).items()}
        for name, of_a in chosen[a].items():
            match of_a, chosen[b].get(name):
                case Proportion(hits), Proportion(others):
                    found[name] = mcnemar(hits, others)
                case FunctionOfSums(jackknife=True), FunctionOfSums(jackknife=True) as of_b:
                    changes = left_out[a][name] - left_out[b][name]
                    if difference := _by_jackknife(of_a.value, of_b.value, changes):
                        found[name] = difference
                case GroupMean(clusters=None), GroupMean(clusters=None) as of_b:
                    if not of_a.lowest and np.array_equal(of_a.groups, of_b.groups):
                        found[name] = by_class(of_a, of_b)
                    else:  # such as precision per class, whose classes are those predicted
                        kinds = intervals.statistics_of_kinds(name, [of_a, of_b])
                        found |= _by_bootstrap(*kinds, draw)(0, 1)
        return {name: found[name] for name in chosen[a] if name in found}

    return compare


def by_class(a: GroupMean, b: GroupMean) -> PairedDifference:
    """Compare mean proportions of hits (N,) per class of two models, of the same samples.

    The difference is a sum of weighted signs, 1 for a sample that only A gets right and -1 for one
    that only B does, each weighted by one over its class's size and the number of classes. Its
    variance is that of the terms around the difference, which needs no two samples of a class, and
    of one sample more of the average squared weight, so that it is not 0. Degrees of freedom are
    Satterthwaite's, about the number of samples on which the models differ.
    """
    n = len(a.hits)
    if n < 2:
        raise ValueError("two images or more are needed to tell models apart")
    _, group, sizes = np.unique(a.groups, return_inverse=True, return_counts=True)
    weights = 1 / (len(sizes) * sizes[group])
    signs = a.hits.astype(np.float64) - b.hits
    squares = np.square(weights * (signs - weights @ signs))
    variance = float(squares.sum() + np.square(weights).mean())
    fourth = float(np.square(squares).sum())
    dof = variance**2 / fourth if fourth > 0 else _NORMAL
    return _by_student(a.value, b.value, math.sqrt(variance), n, dof, BY_CLASS)


def _by_jackknife(a: float, b: float, changes: Values) -> PairedDifference | None:
    """Return the difference of values, which is `changes` (N,) without each of N samples, NaN if
    there is none; None if that is so of nearly all. Raises ValueError for fewer than two samples.
    """
    if len(changes) < 2:
        raise ValueError("two images or more are needed to tell models apart")
    changes = changes[~np.isnan(changes)]
    n = len(changes)
    if n < 2 or math.isnan(a - b):
        return None
    return _by_student(a, b, math.sqrt((n - 1) * changes.var()), n, n - 1, JACKKNIFE)


def _by_bootstrap(
    statistics: Sequence[intervals.Statistic],
    counts: Ints,
    draw: Callable[..., list[dict[str, Values]]],
    units: int | None = None,
) -> Compare:
    """Compare what two models have in common, by the standard error of the drawn differences.
    Resamples in which an estimate has no value do not count for it. `units` of the clusters are
    samples, by default all."""
    drawn, n = draw(statistics, counts), units or int(counts.sum())
    if n < 2:
        raise ValueError("two images or more are needed to tell models apart")
    observed = [statistic(counts[None].astype(np.float64)) for statistic in statistics]

    def compare(a: int, b: int) -> dict[str, PairedDifference]:
        found = {}
        for name in (name for name in observed[a] if name in observed[b]):
            values = float(observed[a][name][0]), float(observed[b][name][0])
            changes = drawn[a][name] - drawn[b][name]
            changes = changes[~np.isnan(changes)]
            if len(changes) > 1 and not any(map(math.isnan, values)):
                found[name] = difference_of_draws(*values, changes, n)
        return found

    return compare


def difference_of_draws(a: float, b: float, changes: Values, n: int) -> PairedDifference:
    """Return the difference of values whose resampled differences are `changes` (R,), of n clusters
    or, of a mean over several sets of samples, of the smallest number of clusters."""
    # Resampling n clusters varies by a factor (n - 1) / n too little.
    error = float(changes.std(ddof=1)) * math.sqrt(n / (n - 1))
    return _by_student(a, b, error, n, n - 1, BOOTSTRAP)


def independent_difference(a: float, b: float, error: float, units: int) -> PairedDifference:
    """Return a difference whose standard error is known, of results whose samples are not."""
    p_value = 2 * float(stdtr(_NORMAL, -abs(a - b) / error)) if error > 0 else 1.0
    return PairedDifference(a, b, a - b, error, _NORMAL, p_value, units, INDEPENDENT)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given. Rejecting those at most alpha errs on
    any of the tests with probability alpha at most, however they depend on each other."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    stepped = np.maximum.accumulate(factors * np.asarray(p_values, np.float64)[order])
    adjusted: list[float] = np.minimum(stepped, 1.0)[np.argsort(order)].tolist()
    return adjusted


def _by_student(
    a: float, b: float, error: float, n: int, dof: float, method: str
) -> PairedDifference:
    if error > 0:
        p_value = 2 * float(stdtr(dof, -abs(a - b) / error))
    else:
        p_value = 1.0 if a == b else 2 * 0.5**n  # all clusters point the same way
    return PairedDifference(a, b, a - b, error, dof, p_value, n, method)
