"""Ranks of results, and ties with the best one, which hold for the K results of a column together.

Two results differ by the paired test of their samples if that is given. Otherwise they differ if
their intervals, widened to hold all K values at once, do not overlap, which finds fewer
differences.

A model is no longer tied with the best one by a test at 0.05 / (K - 1), one-sided, as in multiple
comparisons with the best (Hsu 1984, Annals of Statistics 12), and never by a looser test than for
two models. Ranks hold at once: by simultaneous intervals (Klein, Wright and Wieczorek 2020, JRSS
C 69), and near the best by tests of all K (K - 1) / 2 pairs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.leaderboard.entries import Entry, Key, headlines_of
from cosmos_eval.results.store import read_samples
from cosmos_eval.results.text import round_metric
from cosmos_eval.tasks import metric_of, task_named
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from cosmos_eval.stats.paired import PairedDifference  # SciPy takes long

Tie = Literal["", "paired", "intervals"]
TieRule = Literal["auto", "paired", "intervals"]

# `auto` compares no samples beyond these limits: a bootstrap of COCO's 5,000 images takes seconds.
_MOST_PAIRS = 16  # pairs of results
_MOST_SAMPLES = 10_000  # resampled samples of all pairs together
_LEVEL = 0.05  # the probability of an error anywhere in a column


class Pair(NamedTuple):
    """The best result of a column and another result of the column."""

    # The keys of their entries.
    best: Key
    other: Key
    # The name of the metric of the column.
    metric: str


RankedNumber = tuple[Key, str]
"""The key of an entry, and a metric of the entry."""

Ties = Mapping[Pair, float]
"""The one-sided p-values of paired tests on the samples. If the p-value of a pair is small, the
best result of the column is truly better than the other one."""

NO_TIES: Ties = MappingProxyType({})


class Rank(NamedTuple):
    """How a number compares with the others of its column."""

    # Whether it is the best number after rounding.
    best: bool = False
    # Why the number counts as tied with the best: "paired" if a paired test does not tell them
    # apart, "intervals" if their intervals overlap, empty without a tie.
    tie: Tie = ""
    # The first and last rank that the number can have, from 1; None if it has no ranks.
    ranks: tuple[int, int] | None = None
    # Whether it is the second best number after rounding.
    second: bool = False


class _Column:
    """The numbers of several ranked entries for one metric on one data set under one protocol.

    Attributes:
        metric: The name of the metric.
        entries: The entries. All of them have the metric.
        higher_is_better: True for metrics such as accuracies, false for metrics such as mean ranks.
        best: The entry with the best number. If entries are equally good, it is the first by key.
        widening: The factor that widens the intervals of the entries so that all of them hold at
            once, see `_simultaneous_widening`.
    """

    def __init__(self, metric: str, entries: Sequence[Entry]) -> None:
        """Find the best of the entries, and the widening of their intervals.

        Args:
            metric: The name of the metric.
            entries: At least one entry. All of them have the metric.
        """
        self.metric = metric
        self.entries = entries
        self.higher_is_better = metric_of(entries[0].task, metric).higher_is_better

        # With the sign, the best entry is the lowest one for all metrics.
        sign = -1 if self.higher_is_better else 1
        self.best = min(entries, key=lambda entry: (sign * entry.metrics[metric], entry.key))

        n_intervals = sum(metric in entry.intervals for entry in entries)
        self.widening = _simultaneous_widening(n_intervals)

    def overlaps_best(self, other: Entry) -> bool:
        """Return whether the widened intervals of the best entry and another entry overlap.

        A number without an interval counts as a point. Two points never overlap.
        """
        if self.metric not in self.best.intervals and self.metric not in other.intervals:
            return False
        best_low, _ = self.widened_interval(self.best)
        _, other_high = self.widened_interval(other)
        return other_high >= best_low

    def widened_interval(self, entry: Entry) -> tuple[float, float]:
        """Return both ends of an entry's interval, whose distances from the value are widened.

        The worse end comes first. If lower is better, both ends change their sign, so that greater
        is always better. An entry without an interval has its value as both ends.

        Example:
            An accuracy of 0.6 with the interval from 0.5 to 0.7 and a widening of 1.5 gives
            (0.45, 0.75). The widened interval from 3 to 5 of a mean rank gives (-5, -3).
        """
        value = entry.metrics[self.metric]
        interval = entry.intervals.get(self.metric, {"low": value, "high": value})
        low = value + self.widening * (interval["low"] - value)
        high = value + self.widening * (interval["high"] - value)
        if self.higher_is_better:
            return low, high
        return -high, -low

    def ranks_by_intervals(self) -> dict[Key, tuple[int, int]]:
        """Return the first and last rank that each measured entry with an interval can have.

        An entry ranks behind all entries whose widened intervals lie above its own, and before all
        entries whose widened intervals lie below. The ranks are empty for fewer than two such
        entries.

        Example:
            The widened intervals (1, 2), (3, 5) and (4, 6) give the ranks (3, 3), (1, 2), (1, 2).
        """
        intervals = {}
        for entry in self.entries:
            if entry.source == "measured" and self.metric in entry.intervals:
                intervals[entry.key] = self.widened_interval(entry)
        if len(intervals) < 2:
            return {}
        sorted_lows = sorted(low for low, _ in intervals.values())
        sorted_highs = sorted(high for _, high in intervals.values())
        ranks = {}
        for key, (low, high) in intervals.items():
            n_better = len(intervals) - bisect_right(sorted_lows, high)  # they begin above this one
            n_worse = bisect_left(sorted_highs, low)  # they end below this one
            first_rank = 1 + n_better
            last_rank = len(intervals) - n_worse
            ranks[key] = (first_rank, last_rank)
        return ranks


def _simultaneous_widening(n_intervals: int) -> float:
    """Return the factor that widens K 95% intervals so that, with 95%, all of them hold at once.

    Each 95% interval misses the true value with a probability of 0.05. The probability that any of
    K intervals misses its value is therefore greater: up to K times 0.05. Bonferroni's correction
    divides the 0.05 among the intervals: if each misses with a probability of 0.05 / K, the
    probability that any of them misses is at most 0.05.

    The errors are taken as normal. An interval that misses with the probability p, half of it on
    each side, reaches z(1 - p / 2) standard errors to both sides, in which z is the quantile of the
    normal distribution. The factor is the ratio of the wide and the usual reach:

        z(1 - 0.05 / K / 2) / z(1 - 0.05 / 2)

    Args:
        n_intervals: The number K of intervals. Without intervals, the factor is 1.

    Example:
        One interval reaches 1.96 standard errors. Two that hold at once reach 2.24 each, so that
        the factor is 1.14. It is 1.43 for ten intervals.
    """
    quantile = NormalDist().inv_cdf
    probability_of_miss = _LEVEL / max(1, n_intervals)
    usual_reach = quantile(1 - _LEVEL / 2)
    wide_reach = quantile(1 - probability_of_miss / 2)
    return wide_reach / usual_reach


def close_pairs(entries: Iterable[Entry]) -> list[Pair]:
    """Return the pairs of results that are so close that only a paired test can tell them apart.

    A pair is the best result of a column, which is a metric on one data set under one protocol, and
    another result of the column whose widened interval overlaps with the best one's. Both must be
    measured here, since the test needs their samples.

    Args:
        entries: The entries of all data sets and protocols, each with one model's metrics on one
            data set.
    """
    pairs = []
    for column in _columns(entries):
        best = column.best
        if best.source != "measured":
            continue
        for other in column.entries:
            is_testable = other is not best and other.source == "measured"
            if is_testable and column.overlaps_best(other):
                pairs.append(Pair(best.key, other.key, column.metric))
    return pairs


def rank_entries(
    entries: Iterable[Entry], ties: Ties = NO_TIES, decimals: int | None = None
) -> dict[RankedNumber, Rank]:
    """Return the rank of each number, by the key of its entry and the metric.

    A number is ranked among the numbers of the same data set, protocol and metric. Partial results,
    unverified numbers, and metrics that are not ranked have no rank.

    Args:
        entries: The results and published numbers of all data sets and protocols.
        ties: The p-values of paired tests from `find_ties`. Intervals decide which results without
            a test are tied.
        decimals: The digits after the point to which numbers are rounded before they are compared;
            None for the usual digits of the metric.
    """
    ranks: dict[RankedNumber, Rank] = {}
    for column in _columns(entries):
        for key, rank in _rank_column(column, ties, decimals).items():
            ranks[key, column.metric] = rank
    return ranks


def _columns(entries: Iterable[Entry]) -> list[_Column]:
    """Return every column of a headline metric that has at least two ranked entries.

    A column is a metric on one data set under one protocol. Entries with other settings than the
    protocol's have columns of their own.
    """
    entries_by_column: dict[tuple[str, str, str, bool], list[Entry]] = {}
    for entry in entries:
        if not entry.is_ranked:
            continue
        for metric in headlines_of(entry):
            if metric in entry.metrics and metric_of(entry.task, metric).is_ranked:
                column_key = (entry.protocol, entry.dataset, metric, entry.has_other_settings)
                entries_by_column.setdefault(column_key, []).append(entry)

    columns = []
    for (_, _, metric, _), column_entries in entries_by_column.items():
        if len(column_entries) > 1:
            columns.append(_Column(metric, column_entries))
    return columns


def _rank_column(column: _Column, ties: Ties, decimals: int | None) -> dict[Key, Rank]:
    """Return the rank of each number of a column, by the key of its entry.

    Numbers that are equal after rounding are equally good, so several can be the best.

    Args:
        column: The entries with their numbers for one metric.
        ties: The p-values of paired tests, see `find_ties`.
        decimals: The digits to which numbers are rounded; None for the usual digits.
    """
    metric = metric_of(column.entries[0].task, column.metric)
    rounded_values = {}
    for entry in column.entries:
        rounded_values[entry.key] = round_metric(metric, entry.metrics[column.metric], decimals)

    # Find the best and the second best rounded number.
    best_value = rounded_values[column.best.key]
    other_values = [value for value in rounded_values.values() if value != best_value]
    second_value = None
    if other_values:
        second_value = max(other_values) if metric.higher_is_better else min(other_values)

    comparisons = _compare_with_best(column, ties)
    possible_ranks = _possible_ranks(column, comparisons)
    column_ranks = {}
    for key, value in rounded_values.items():
        is_best = value == best_value
        column_ranks[key] = Rank(
            best=is_best,
            tie="" if is_best else comparisons[key].tie,
            ranks=possible_ranks.get(key),
            second=value == second_value,
        )
    return column_ranks


class _ComparisonWithBest(NamedTuple):
    """True if an entry of a column may be as good as the best entry."""

    # Why the number is marked as tied in tables: "paired" or "intervals"; empty if it is not.
    tie: Tie
    # Whether the entry can have rank 1, at the stricter level that ranks need.
    can_be_first: bool
    # Whether a paired test decided `can_be_first`; otherwise the intervals did.
    is_paired: bool


def _compare_with_best(column: _Column, ties: Ties) -> dict[Key, _ComparisonWithBest]:
    """Compare each other entry of a column with the best entry. Return the outcomes by key.

    An entry may be as good as the best one if the p-value of their paired test is large. Without a
    test, it may be as good if both intervals overlap.

    The levels are corrected for the number K of entries with ranks. Marks of ties compare K - 1
    entries with the best one, so each one-sided test has the level 0.05 / (K - 1). Ranks compare
    all K (K - 1) / 2 pairs by two-sided tests, so each one-sided test has the level
    0.05 / (K (K - 1)).

    Args:
        column: The entries with their numbers for one metric.
        ties: The p-values of the paired tests with the best entry. Entries may lack one.
    """
    best = column.best

    # The levels of single tests. The level for marks is never looser than for two models.
    ranked_keys = column.ranks_by_intervals().keys()
    k = max(2, len(ranked_keys))
    tie_level = min(_LEVEL / 2, _LEVEL / (k - 1))
    rank_level = _LEVEL / (k * (k - 1))

    comparisons = {}
    for entry in column.entries:
        if entry is best:
            continue
        p_value = ties.get(Pair(best.key, entry.key, column.metric))
        is_overlapping = column.overlaps_best(entry)
        tie: Tie = ""
        is_paired = False
        can_be_first = is_overlapping
        if p_value is None:
            # Only the intervals can tell the entries apart.
            if is_overlapping:
                tie = "intervals"
        else:
            # The paired test tells them apart, in ranks only if both entries have ranks.
            if p_value > tie_level:
                tie = "paired"
            is_paired = best.key in ranked_keys and entry.key in ranked_keys
            if is_paired:
                can_be_first = p_value > rank_level
        comparisons[entry.key] = _ComparisonWithBest(tie, can_be_first, is_paired)
    return comparisons


def _possible_ranks(
    column: _Column, comparisons: Mapping[Key, _ComparisonWithBest]
) -> dict[Key, tuple[int, int]]:
    """Return the first and last rank that each entry of a column can have, by key.

    Intervals give the ranks. A paired test with the best entry, which finds more differences, then
    decides whether the first rank of an entry is 1. The last rank of the best entry is the number
    of entries, including itself, that are not certainly worse.

    Args:
        column: The entries with their numbers for one metric.
        comparisons: The comparison of each other entry with the best entry, by key.

    Returns:
        The ranks, counted from 1. Entries that were not measured here, or without an interval, have
        none.
    """
    ranks = column.ranks_by_intervals()
    n_worse = 0  # the number of entries that are certainly worse than the best one
    for key, comparison in comparisons.items():
        if key not in ranks:
            continue
        first_rank, last_rank = ranks[key]
        if comparison.is_paired:
            first_rank = 1 if comparison.can_be_first else max(2, first_rank)
        ranks[key] = (first_rank, last_rank)
        if not comparison.can_be_first:
            n_worse += 1
    if column.best.key in ranks:
        ranks[column.best.key] = (1, len(ranks) - n_worse)
    return ranks


def find_ties(entries: Sequence[Entry], rule: TieRule) -> Ties:
    """Return the p-value of the paired test of each close pair of results, see `close_pairs`.

    Args:
        entries: The entries of all data sets and protocols.
        rule: The pairs that are tested:
            - `intervals`: none, so no samples are read.
            - `paired`: all of them.
            - `auto`: those that can be compared, or none if that would take long.

    Raises:
        UsageError: If the rule is `paired`, and the results of a pair cannot be compared.
    """
    if rule == "intervals":
        return NO_TIES
    results = {entry.key: entry.stored for entry in entries if entry.stored is not None}

    # Two results may be close in several metrics. One comparison covers them all.
    pairs_by_results: dict[tuple[Key, Key], list[Pair]] = {}
    for pair in close_pairs(entries):
        pairs_by_results.setdefault((pair.best, pair.other), []).append(pair)

    # Resampling many samples, or comparing many results, takes long.
    n_resampled = 0
    for best, _ in pairs_by_results:
        row = results[best].row
        if task_named(row.task).resamples:
            n_resampled += row.n_samples
    is_slow = len(pairs_by_results) > _MOST_PAIRS or n_resampled > _MOST_SAMPLES
    if rule == "auto" and is_slow:
        return NO_TIES

    ties: dict[Pair, float] = {}
    for (best, other), pairs in pairs_by_results.items():
        try:
            p_values = _paired_p_values(results[best], results[other], pairs)
        except UsageError:
            if rule == "paired":
                raise
        else:
            ties.update(p_values)
    return ties


def p_value_of(task: str, metric: str, difference: PairedDifference) -> float:
    """Return the one-sided p-value of the hypothesis that the best result is not truly better.

    Args:
        task: The name of the task of the results.
        metric: The name of the metric in which they were compared.
        difference: The metric of the best result minus the metric of the other result.
    """
    # Turn the metric into a loss, for which lower is better, by changing its sign if needed. The
    # best result is truly better if the difference of the losses is below 0.
    loss_difference = difference
    if metric_of(task, metric).higher_is_better:
        loss_difference = difference.flipped()
    return loss_difference.p_below(0)


def _paired_p_values(
    best: StoredResult, other: StoredResult, pairs: Sequence[Pair]
) -> dict[Pair, float]:
    """Return the p-values of several metrics of the same two results, by pair.

    Args:
        best: The best result of the columns that `pairs` name.
        other: The result that is close to it.
        pairs: One pair of these two results for each metric to test.

    Returns:
        The p-values, without metrics that cannot be tested on samples.

    Raises:
        UsageError: If the results were measured with different settings, such as another list of
            samples.
    """
    # Imported here, since SciPy takes long.
    from cosmos_eval.results.compare import paired_differences
    from cosmos_eval.results.settings import require_same_settings, setting_of_result

    try:
        require_same_settings([setting_of_result(best.row), setting_of_result(other.row)])
    except ValueError as error:
        models = f"{best.model} and {other.model} on {best.row.dataset}"
        raise UsageError(f"{models} cannot be compared: {error}") from error
    metrics = {pair.metric for pair in pairs}
    differences = paired_differences(
        best.row, read_samples(best.path), other.row, read_samples(other.path), metrics
    )
    p_values = {}
    for pair in pairs:
        if pair.metric in differences:
            difference = differences[pair.metric]
            p_values[pair] = p_value_of(best.row.task, pair.metric, difference)
    return p_values
