"""Means over several data sets: joint resamples of many models, ranks, and who is above whom.

Samples of different data sets are resampled independently. The samples of one data set are drawn
alike for all models, so that differences of means are paired. Shapes: M models, N samples, R
resamples.
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

_SAMPLES_PER_KIND = 10  # samples are drawn one by one in the time that a draw of one kind takes


class Standing(NamedTuple):
    """The standing of a mean among others."""

    # The first and the last rank that it may have.
    ranks: tuple[int, int]
    # The indices of the means that are not told apart from it.
    tied: frozenset[int]
    # The two-sided p-value of its difference from the next mean, None for the last mean.
    p_next: float | None


def resample(
    estimates: Mapping[str, Estimate], *, seed: int, resamples: int = intervals.RESAMPLES
) -> tuple[dict[str, Values], int]:
    """Return resampled values (R,) of estimates, and the smallest number of clusters.

    All estimates have the same samples, and are computed from the same draws. Raises ValueError
    if there are fewer than two clusters.
    """
    estimates_of_kinds = _estimates_of_kinds(estimates)
    if estimates_of_kinds is not None:
        few_estimates, counts = estimates_of_kinds
        (drawn,) = intervals.resample(
            [intervals.statistic_of(few_estimates)],
            counts,
            seed=seed,
            resamples=resamples,
            multinomial=True,
        )
        return drawn, int(counts.sum())
    shared_arrays: dict[bytes, Ints] = {}
    clustered = {name: _clustered(e, shared_arrays) for name, e in estimates.items()}
    by_sizes = intervals.by_clusters(clustered)
    n = min(sizes[0] for sizes in by_sizes)  # a second size is a number of draws
    if n < 2:
        raise ValueError("two images or more are needed to tell models apart")
    drawn = {}
    for sizes, group in by_sizes.items():
        statistic, counts = intervals.statistic_of(group, {}), np.ones(sum(sizes), int)
        (drawn_group,) = intervals.resample(
            [statistic], counts, seed=seed, resamples=resamples, sizes=sizes
        )
        drawn.update(drawn_group)
    return drawn, n


def _estimates_of_kinds(
    estimates: Mapping[str, Estimate],
) -> tuple[dict[str, Estimate], Ints] | None:
    """Return estimates of kinds of samples, and the number of samples of each kind.

    Samples of a kind are alike for all estimates: their hits and groups are the same. Return None
    if samples depend on each other, or if there are too many kinds for this to be faster.
    """
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
    if len(kinds) * _SAMPLES_PER_KIND > len(columns[0]):
        return None
    each_kind, columns_of_kinds = np.arange(len(kinds)), iter(kinds.T)
    few_estimates: dict[str, Estimate] = {}
    for name, estimate in estimates.items():
        hits = next(columns_of_kinds).astype(bool)
        if isinstance(estimate, GroupMean):
            groups = next(columns_of_kinds)
            few_estimates[name] = estimate._replace(hits=hits, groups=groups, clusters=each_kind)
        else:
            few_estimates[name] = Mean(hits, each_kind)
    return few_estimates, counts


def _clustered(estimate: Estimate, shared_arrays: dict[bytes, Ints]) -> Estimate:
    """Return an estimate that is resampled by clusters, if the bootstrap knows such a form.

    Equal clusters become the same array, and so do equal groups, so that the means of many models
    are one matrix product.
    """
    match estimate:
        case Proportion(hits):
            return Mean(hits, _shared_array(np.arange(len(hits)), shared_arrays))
        case Mean(values, clusters):
            return Mean(values, _shared_array(clusters, shared_arrays))
        case GroupMean(hits, groups, None):
            return estimate._replace(
                groups=_shared_array(groups, shared_arrays),
                clusters=_shared_array(np.arange(len(hits)), shared_arrays),
            )
    return estimate


def _shared_array(numbers: Ints, shared_arrays: dict[bytes, Ints]) -> Ints:
    """Return the array among those shared that is equal to `numbers`, which is added if missing."""
    array = numbers.astype(np.int64)
    return shared_arrays.setdefault(array.tobytes(), array)


def interval_of(value: float, drawn: Values, n: int) -> Interval:
    """Return value -+ t x standard error of a mean, from its draws (R,) of at least n clusters."""
    return difference_of_draws(value, 0.0, drawn, n).interval()._replace(method="bootstrap t")


def standings(
    means: Sequence[float],
    drawn: Sequence[Values],
    n: int,
    between: Callable[[int, int], GroupDifference] | None = None,
) -> list[Standing]:
    """Return the standings of M means, which are sorted, the greatest first.

    A mean ranks behind all means that are greater by the paired interval of the difference, and
    before all that are smaller. The ranks of all means hold at once with 95%, because intervals are
    corrected for the number of pairs (Bonferroni). `drawn` holds the draws (R,) of each mean, and
    `n` is the smallest number of clusters. If `between` is given, it returns the difference of two
    means by their indices, and the draws are not used.
    """
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
            frozenset(int(tied) for tied in np.flatnonzero(row == 0) if tied != index),
            p_next[index],
        )
        for index, row in enumerate(signs)
    ]
