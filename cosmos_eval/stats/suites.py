"""Means over several data sets: joint resamples of many models, ranks, and who is above whom.

Samples of different data sets are resampled independently. The samples of one data set are drawn
alike for all models, so that differences of means are paired. Shapes: M models, N samples, R
resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats import intervals
from cosmos_eval.stats.estimates import (
    Estimate,
    FunctionOfSums,
    GroupMean,
    Ints,
    Mean,
    Proportion,
    Values,
)
from cosmos_eval.stats.paired import PairedDifference, difference_of_draws
from cosmos_eval.types import Interval

if TYPE_CHECKING:
    from cosmos_eval.stats.groups import GroupDifference

# Drawing the count of one kind of samples takes as long as drawing 10 samples one by one.
_SAMPLES_PER_KIND = 10


class Standing(NamedTuple):
    """The standing of a mean in a list of means that are sorted, the greatest first."""

    # The first and the last rank that the mean may have.
    ranks: tuple[int, int]
    # The indices of the means that do not differ significantly from this mean.
    tied: frozenset[int]
    # The two-sided p-value of the difference from the next mean, None for the last mean.
    p_next: float | None


def resample(
    estimates: Mapping[str, Estimate], *, seed: int, resamples: int = intervals.RESAMPLES
) -> tuple[dict[str, Values], int]:
    """Resample estimates of several models, all from the same draws of their samples.

    If there are few kinds of samples, the number of samples of each kind is drawn. Otherwise,
    samples, or clusters of samples that depend on each other, are drawn one by one.

    Args:
        estimates: Estimates by name, such as the accuracy of several models on the same samples.
        seed: The seed of the draws.
        resamples: The number R of resamples.

    Returns:
        The resampled values (R,) of the estimates by name, and the smallest number of clusters that
        any estimate has.

    Raises:
        ValueError: There are fewer than two clusters.
    """
    estimates_by_kinds = _estimates_by_kinds(estimates)
    if estimates_by_kinds is not None:
        counts = estimates_by_kinds.counts
        (values_by_name,) = intervals.resample(
            [intervals.statistic_of(estimates_by_kinds.estimates)],
            counts,
            seed=seed,
            resamples=resamples,
            multinomial=True,
        )
        return values_by_name, int(counts.sum())

    # Equal arrays become one object, so that the estimates that hold it are computed together.
    shared_arrays: dict[bytes, Ints] = {}
    clustered_estimates: dict[str, Estimate] = {}
    for name, estimate in estimates.items():
        clustered_estimates[name] = _with_clusters(estimate, shared_arrays)
    # By the sizes that are drawn: the number of clusters and, if a classifier is drawn several
    # times, the number of its draws.
    estimates_by_sizes = intervals.group_by_drawn_sizes(clustered_estimates)
    n_clusters = min(sizes[0] for sizes in estimates_by_sizes)
    if n_clusters < 2:
        raise ValueError("two images or more are needed to tell models apart")
    values_by_name = {}
    for sizes, estimates_of_sizes in estimates_by_sizes.items():
        (values_of_sizes,) = intervals.resample(
            [intervals.statistic_of(estimates_of_sizes, {})],
            np.ones(sum(sizes), int),
            seed=seed,
            resamples=resamples,
            sizes=sizes,
        )
        values_by_name.update(values_of_sizes)
    return values_by_name, n_clusters


def resample_overlapping(
    estimates: Sequence[Mapping[str, Estimate]],
    sample_names: Sequence[Sequence[str]],
    *,
    seed: int,
    resamples: int = intervals.RESAMPLES,
) -> tuple[list[dict[str, Values]], int]:
    """Resample estimates on lists of samples that overlap, all from the same draws.

    The samples of all lists together are drawn. A list gets the drawn samples that it has, so that
    lists with common samples vary alike; the number of these samples varies too.

    Args:
        estimates: For each list of samples, estimates by name. Samples are independent.
        sample_names: For each list, the names (N,) of its samples. Samples of several lists with
            one name are the same sample.
        seed: The seed of the draws.
        resamples: The number R of resamples.

    Returns:
        For each list, the resampled values (R,) of its estimates by name, and the number of samples
        of the shortest list.

    Raises:
        ValueError: A list has fewer than two samples or repeats one, or its samples depend on each
            other.

    Example:
        The lists [a, b] and [b, c] have the samples a, b and c. If these are drawn 1, 2 and 0
        times, an accuracy of the second list is the accuracy of the sample b.
    """
    # Number all samples in the order in which the lists have them.
    index_of_name: dict[str, int] = {}
    indices_of_lists = []
    for names in sample_names:
        list_indices = [index_of_name.setdefault(name, len(index_of_name)) for name in names]
        if len(names) < 2:
            raise ValueError("two images or more are needed to tell models apart")
        if len({*list_indices}) < len(names):
            raise ValueError("several images have the same name")
        indices_of_lists.append(np.array(list_indices))

    # Proportions of all lists are one matrix product. Choosing the samples of each list is slow.
    shares = _shares_of_lists(estimates, indices_of_lists, len(index_of_name))
    statistics: list[intervals.Statistic] = [intervals.statistic_of(shares)]
    for list_estimates, indices in zip(estimates, indices_of_lists, strict=True):
        statistics.append(_StatisticOfList(list_estimates, indices))
    each_once = np.ones(len(index_of_name), int)
    with np.errstate(invalid="ignore"):  # a value is NaN if no sample of the list is drawn
        resampled_shares, *resampled_lists = intervals.resample(
            statistics, each_once, seed=seed, resamples=resamples
        )
    for number, list_estimates in enumerate(estimates):
        for name, estimate in list_estimates.items():
            if isinstance(estimate, Proportion):
                resampled_lists[number][name] = resampled_shares[f"{number} {name}"]
    return resampled_lists, min(len(names) for names in sample_names)


class _Sums(NamedTuple):
    """The terms whose sums give P proportions of L lists of samples."""

    # (C, P): whether each of all C samples is in the list of each of P proportions, and a hit.
    hits: NDArray[np.bool_]
    # (C, L): whether each sample is in each list.
    members: NDArray[np.bool_]


@dataclass(frozen=True)
class _Share:
    """The function that computes a proportion from the sums of the terms of `_Sums`."""

    # The columns of the proportion and of its list in the terms.
    proportion_index: int
    list_index: int

    def __call__(self, sums: _Sums) -> Values:
        """Return the drawn hits divided by the drawn samples of the list."""
        share: Values = sums.hits[..., self.proportion_index] / sums.members[..., self.list_index]
        return share


def _shares_of_lists(
    estimates: Sequence[Mapping[str, Estimate]], indices_of_lists: Sequence[Ints], n_samples: int
) -> dict[str, Estimate]:
    """Return the proportions of all lists as functions of the same sums over all samples.

    Args:
        estimates: For each list, estimates by name. Those of other classes are left out.
        indices_of_lists: For each list, the indices of its samples among all samples.
        n_samples: The number of all samples.

    Returns:
        The estimates by the number of the list and the name, such as "0 accuracy".
    """
    columns: list[NDArray[np.bool_]] = []
    functions: dict[str, _Share] = {}
    members = np.zeros((n_samples, len(estimates)), bool)
    for number, (list_estimates, indices) in enumerate(
        zip(estimates, indices_of_lists, strict=True)
    ):
        members[indices, number] = True
        for name, estimate in list_estimates.items():
            if isinstance(estimate, Proportion):
                functions[f"{number} {name}"] = _Share(len(columns), number)
                column = np.zeros(n_samples, bool)
                column[indices] = estimate.hits
                columns.append(column)
    if not columns:
        return {}
    sums = _Sums(np.stack(columns, axis=1), members)
    return {name: FunctionOfSums(sums, function) for name, function in functions.items()}


class _StatisticOfList:
    """A function that computes the estimates of a list that are not proportions."""

    def __init__(self, estimates: Mapping[str, Estimate], indices: Ints) -> None:
        """Keep the estimates of N samples, and the indices (N,) of these among all samples.

        Raises:
            ValueError: An estimate does not have N independent samples.
        """
        self._indices = indices
        shared_arrays: dict[bytes, Ints] = {}
        clustered_estimates: dict[str, Estimate] = {}
        for name, estimate in estimates.items():
            if not isinstance(estimate, Proportion):
                clustered_estimates[name] = _with_clusters(estimate, shared_arrays)
        if intervals.group_by_drawn_sizes(clustered_estimates).keys() - {(len(indices),)}:
            raise ValueError("dependent samples are not resampled over several lists")
        self._has_estimates = bool(clustered_estimates)
        self._statistic = intervals.statistic_of(clustered_estimates, {})

    def __call__(self, weights: Values) -> Mapping[str, Values]:
        """Return the values (R,) by name, from the weights (R, C) of all C samples."""
        if not self._has_estimates:  # choosing the weights would take long for nothing
            return {}
        return self._statistic(weights[:, self._indices])


class _EstimatesByKinds(NamedTuple):
    """Estimates of K kinds of samples. The samples of a kind are equal in all estimates."""

    # Estimates whose samples are the kinds, by name.
    estimates: dict[str, Estimate]
    # (K,): the number of samples of each kind.
    counts: Ints


def _estimates_by_kinds(estimates: Mapping[str, Estimate]) -> _EstimatesByKinds | None:
    """Return estimates in which each kind of equal samples is a single sample.

    Samples belong to one kind if all estimates have the same hits and groups for them. Return None
    if samples depend on each other, or if there are so many kinds that drawing samples one by one
    is faster.

    Example:
        Two proportions with the hits [1, 1, 0] and [0, 0, 1] have the kinds (0, 1) and (1, 0), with
        the counts 1 and 2. They become the hits [0, 1] and [1, 0] of two samples.
    """
    # A table with one row for each sample, and its distinct rows.
    columns: list[NDArray[Any]] = []
    for estimate in estimates.values():
        match estimate:
            case Proportion(hits):
                columns.append(hits)
            case GroupMean(hits, groups, None):
                columns += [hits, groups]
            case _:
                return None
    table = np.stack(columns, axis=1).astype(np.int64)
    kinds, counts = np.unique(table, axis=0, return_counts=True)
    has_too_many_kinds = len(kinds) * _SAMPLES_PER_KIND > len(table)
    if has_too_many_kinds:
        return None

    # The same estimates with one sample, and one cluster, for each kind.
    each_kind = np.arange(len(kinds))
    columns_of_kinds = iter(kinds.T)  # in the order of `columns`
    estimates_of_kinds: dict[str, Estimate] = {}
    for name, estimate in estimates.items():
        hits = next(columns_of_kinds).astype(bool)
        if isinstance(estimate, GroupMean):
            groups = next(columns_of_kinds)
            mean = estimate._replace(hits=hits, groups=groups, clusters=each_kind)
            estimates_of_kinds[name] = mean
        else:
            estimates_of_kinds[name] = Mean(hits, each_kind)
    return _EstimatesByKinds(estimates_of_kinds, counts)


def _with_clusters(estimate: Estimate, shared_arrays: dict[bytes, Ints]) -> Estimate:
    """Return the estimate with one cluster for each sample, if its samples are independent.

    Equal clusters, and equal groups, become one array, because the bootstrap computes means that
    hold the same arrays in one matrix product. Estimates of other classes are returned as they are.

    Args:
        estimate: The estimate.
        shared_arrays: The arrays so far, by their bytes. New arrays are added.

    Example:
        Proportion([1, 0, 1]) becomes Mean([1, 0, 1], clusters=[0, 1, 2]).
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


def _shared_array(array: Ints, shared_arrays: dict[bytes, Ints]) -> Ints:
    """Return the array of `shared_arrays` that is equal to `array`.

    `shared_arrays` holds arrays by their bytes. If none of them is equal, the array itself, as
    64-bit integers, is added and returned.
    """
    int64_array = array.astype(np.int64)
    return shared_arrays.setdefault(int64_array.tobytes(), int64_array)


def interval_of(value: float, drawn: Values, n: int) -> Interval:
    """Return the 95% interval of a mean over data sets: value -+ t x standard error.

    Args:
        value: The mean.
        drawn: (R,), the mean in each of R resamples. The standard error is the standard deviation
            of these values.
        n: The number of clusters of the data set that has the fewest, which decides the quantile t
            of Student's distribution. (A cluster is a set of samples that depend on each other.)
    """
    difference_from_zero = difference_of_draws(value, 0.0, drawn, n)
    return difference_from_zero.interval()._replace(method="bootstrap t")


def standings(
    means: Sequence[float],
    drawn: Sequence[Values],
    n: int,
    between: Callable[[int, int], GroupDifference] | None = None,
) -> list[Standing]:
    """Return the ranks of M means, such as scores of models, and who is significantly above whom.

    A mean ranks behind all means that are significantly greater, and before all means that are
    significantly smaller. Two means differ significantly if the paired interval of their difference
    does not contain 0. The ranks of all means hold at once with 95%, because the intervals are
    corrected for the number of pairs (Bonferroni).

    Args:
        means: The M means, the greatest first.
        drawn: The resampled values (R,) of each mean, from the same draws.
        n: The number of clusters of the data set that has the fewest. (A cluster is a set of
            samples that depend on each other.)
        between: A function that returns the difference of two means by their indices. If it is
            given, the resampled values are not used.

    Example:
        If only the first of three means differs from the last one, their ranks are 1 to 2, 1 to 3
        and 2 to 3.
    """
    # Compare all pairs of means.
    n_means = len(means)
    n_pairs = math.comb(n_means, 2)
    level = 1 - (1 - intervals.LEVEL) / max(1, n_pairs)
    is_greater = np.zeros((n_means, n_means), bool)  # [a, b]: mean a is greater than mean b
    p_next: list[float | None] = [None] * n_means
    for a in range(n_means):
        for b in range(a):
            # Mean b comes before mean a.
            difference: PairedDifference | GroupDifference
            if between is not None:
                difference = between(a, b)
            else:
                changes = drawn[a] - drawn[b]
                has_value = ~np.isnan(changes)
                difference = difference_of_draws(means[a], means[b], changes[has_value], n)
            are_neighbours = b == a - 1
            if are_neighbours:
                p_next[b] = difference.p_value
            interval = difference.interval(level)
            is_greater[a, b] = interval.low > 0
            is_greater[b, a] = interval.high < 0

    # Count how many means are greater and smaller than each mean.
    all_standings = []
    for index in range(n_means):
        n_greater = int(is_greater[:, index].sum())
        n_smaller = int(is_greater[index].sum())
        is_tied = ~is_greater[:, index] & ~is_greater[index]
        is_tied[index] = False  # a mean is not tied with itself
        standing = Standing(
            ranks=(1 + n_greater, n_means - n_smaller),
            tied=frozenset(np.flatnonzero(is_tied).tolist()),
            p_next=p_next[index],
        )
        all_standings.append(standing)
    return all_standings
