"""Means over several data sets: joint resamples of many models, ranks, and who is above whom.

Samples of different data sets are resampled independently, those of one alike for all models, so
that differences of means are paired. Shapes: M models, N samples, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats import intervals
from cosmos_eval.stats.estimates import Estimate, GroupMean, Ints, Mean, Proportion, Values
from cosmos_eval.stats.paired import PairedDifference, difference_of_draws
from cosmos_eval.types import Interval

if TYPE_CHECKING:
    from cosmos_eval.stats.groups import GroupDifference

_AT_ONCE = 10  # samples drawn one by one in the time of a kind


class Standing(NamedTuple):
    """Where a mean stands among others.

    - `ranks`: the first and last rank that it can have.
    - `tied`: the indices of means that are not told apart from it.
    - `p_next`: the two-sided p-value of its difference from the next mean, None for the last.
    """

    ranks: tuple[int, int]
    tied: frozenset[int]
    p_next: float | None


def resample(
    estimates: Mapping[str, Estimate], *, seed: int, resamples: int = intervals.RESAMPLES
) -> tuple[dict[str, Values], int]:
    """Return values (R,) of estimates of the same samples, in the same draws, and the smallest
    number of clusters. Raises ValueError where that is less than two."""
    if alike := _of_kinds(estimates):
        of_kinds, counts = alike
        (drawn,) = intervals.resample(
            [intervals.statistic_of(of_kinds)],
            counts,
            seed=seed,
            resamples=resamples,
            multinomial=True,
        )
        return drawn, int(counts.sum())
    shared: dict[bytes, Ints] = {}
    by_sizes = intervals.by_clusters({n: _clustered(e, shared) for n, e in estimates.items()})
    n = min(sizes[0] for sizes in by_sizes)  # the others are of draws
    if n < 2:
        raise ValueError("two images or more are needed to tell models apart")
    drawn = {}
    for sizes, some in by_sizes.items():
        statistic, ones = intervals.statistic_of(some, {}), np.ones(sum(sizes), int)
        drawn |= intervals.resample([statistic], ones, seed=seed, resamples=resamples, sizes=sizes)[
            0
        ]
    return drawn, n


def _of_kinds(estimates: Mapping[str, Estimate]) -> tuple[dict[str, Estimate], Ints] | None:
    """Return estimates of kinds of samples, which are alike for all of them, and the number of
    samples of each kind; None where samples depend on each other or are of many kinds."""
    columns: list[NDArray[Any]] = []
    for estimate in estimates.values():
        match estimate:
            case Proportion(hits):
                columns.append(hits)
            case GroupMean(hits, groups, None):
                columns += [hits, groups]
            case _:
                return None
    kinds, counts = np.unique(
        np.stack(columns, axis=1).astype(np.int64), axis=0, return_counts=True
    )
    if len(kinds) * _AT_ONCE > len(columns[0]):
        return None
    own, values = np.arange(len(kinds)), iter(kinds.T)
    found: dict[str, Estimate] = {}
    for name, estimate in estimates.items():
        hits = next(values).astype(bool)
        found[name] = (
            estimate._replace(hits=hits, groups=next(values), clusters=own)
            if isinstance(estimate, GroupMean)
            else Mean(hits, own)
        )
    return found, counts


def _clustered(estimate: Estimate, shared: dict[bytes, Ints]) -> Estimate:
    """Return an estimate that is resampled by clusters; equal clusters and groups become one array
    each, whose means of many models are one matrix product."""

    def same(numbers: Ints) -> Ints:
        plain = numbers.astype(np.int64)
        return shared.setdefault(plain.tobytes(), plain)

    match estimate:
        case Proportion(hits):
            return Mean(hits, same(np.arange(len(hits))))
        case Mean(values, clusters):
            return Mean(values, same(clusters))
        case GroupMean(hits, groups, None):
            return estimate._replace(groups=same(groups), clusters=same(np.arange(len(hits))))
    return estimate


def interval_of(value: float, drawn: Values, n: int) -> Interval:
    """Return value -+ t x the standard error of a mean's draws (R,), of n clusters at least."""
    return difference_of_draws(value, 0.0, drawn, n).interval()._replace(method="bootstrap t")


def standings(
    means: Sequence[float],
    drawn: Sequence[Values],
    n: int,
    between: Callable[[int, int], GroupDifference] | None = None,
) -> list[Standing]:
    """Rank M means, the greatest first, by the paired intervals of their differences: behind all
    that are greater, before all that are smaller. The ranks of all hold at once with 95%, since
    intervals are corrected for the number of pairs (Bonferroni). `drawn` holds (R,) of each, n is
    the smallest number of clusters; `between` returns the differences in their place."""
    signs = np.zeros((len(means), len(means)), int)
    p_next: list[float | None] = [None] * len(means)
    level = 1 - (1 - intervals.LEVEL) / max(1, math.comb(len(means), 2))

    def by_draws(a: int, b: int) -> PairedDifference:
        changes = drawn[a] - drawn[b]
        return difference_of_draws(means[a], means[b], changes[~np.isnan(changes)], n)

    for a in range(len(means)):
        for b in range(a):
            difference = (between or by_draws)(a, b)
            interval = difference.interval(level)
            if b == a - 1:
                p_next[b] = difference.p_value
            signs[a, b] = (interval.low > 0) - (interval.high < 0)
            signs[b, a] = -signs[a, b]
    return [
        Standing(
            (1 + int((row < 0).sum()), len(means) - int((row > 0).sum())),
            frozenset(int(other) for other in np.flatnonzero(row == 0) if other != index),
            p_next[index],
        )
        for index, row in enumerate(signs)
    ]
