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

from cosmos_eval.results.labels import Stored
from cosmos_eval.results.leaderboard.entries import Entry, Key, headlines_of
from cosmos_eval.results.store import read_samples
from cosmos_eval.results.text import shown
from cosmos_eval.tasks import metric_of, task_named
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from cosmos_eval.stats.paired import PairedDifference  # SciPy takes long

Tie = Literal["", "paired", "intervals"]

# What `auto` compares at most; a bootstrap of COCO's 5,000 images takes seconds.
_MOST_PAIRS = 16
_MOST_SAMPLES = 10_000
_LEVEL = 0.05  # probability of an error anywhere in a column


class Pair(NamedTuple):
    """The best result of a column and another one."""

    best: Key
    other: Key
    metric: str


RankedNumber = tuple[Key, str]
"""An entry and a metric."""

Ties = Mapping[Pair, float]
"""One-sided p-values, by the same samples, of the other result's being as good as the best."""

NO_TIES: Ties = MappingProxyType({})


class Rank(NamedTuple):
    """How a number compares with the others of its column."""

    # Whether it is the best, as rounded for tables.
    best: bool = False
    # What does not distinguish it from the best: a paired test, or overlapping intervals.
    tie: Tie = ""
    # The first and last rank that it can have.
    ranks: tuple[int, int] | None = None
    # Whether it is the best, as rounded, of all numbers that are not the best.
    second: bool = False


class _Column(NamedTuple):
    """A metric of several ranked entries on one data set under one protocol."""

    metric: str
    entries: list[Entry]

    @property
    def higher_is_better(self) -> bool:
        return metric_of(self.entries[0].task, self.metric).higher_is_better

    @property
    def best(self) -> Entry:
        """The entry with the best number; of equal ones the first by its key."""
        sign = -1 if self.higher_is_better else 1
        return min(self.entries, key=lambda entry: (sign * entry.metrics[self.metric], entry.key))

    @property
    def widening(self) -> float:
        """The factor by which 95% intervals must be wider to hold all K values at once."""
        k = sum(self.metric in entry.intervals for entry in self.entries)
        quantile = NormalDist().inv_cdf
        return quantile(1 - _LEVEL / 2 / max(1, k)) / quantile(1 - _LEVEL / 2)

    def overlaps(self, best: Entry, other: Entry, widening: float) -> bool:
        """Return whether intervals overlap. A number without one is a point; points never tie."""
        if self.metric not in best.intervals and self.metric not in other.intervals:
            return False
        _, other_high = self.interval(other, widening)
        best_low, _ = self.interval(best, widening)
        return other_high >= best_low

    def interval(self, entry: Entry, widening: float) -> tuple[float, float]:
        """Return a widened interval, negative if lower is better."""
        value = entry.metrics[self.metric]
        interval = entry.intervals.get(self.metric, {"low": value, "high": value})
        low = value + widening * (interval["low"] - value)
        high = value + widening * (interval["high"] - value)
        return (low, high) if self.higher_is_better else (-high, -low)

    def ranks_by_intervals(self) -> dict[Key, tuple[int, int]]:
        """Return ranks: behind all intervals that lie above, before all that lie below."""
        ranked = [
            entry
            for entry in self.entries
            if entry.source == "measured" and self.metric in entry.intervals
        ]
        if len(ranked) < 2:
            return {}
        widening = self.widening
        intervals = {entry.key: self.interval(entry, widening) for entry in ranked}
        lows = sorted(low for low, _ in intervals.values())
        highs = sorted(high for _, high in intervals.values())
        ranks = {}
        for key, (low, high) in intervals.items():
            n_above = len(lows) - bisect_right(lows, high)
            n_below = bisect_left(highs, low)
            ranks[key] = (1 + n_above, len(highs) - n_below)
        return ranks


def close_pairs(entries: Iterable[Entry]) -> list[Pair]:
    """Return the pairs that samples could distinguish: the best of a column with each result whose
    interval overlaps with the best one's."""
    pairs = []
    for column in _columns(entries):
        best, widening = column.best, column.widening
        if best.source != "measured":
            continue
        for other in column.entries:
            if other is best or other.source != "measured":
                continue
            if column.overlaps(best, other, widening):
                pairs.append(Pair(best.key, other.key, column.metric))
    return pairs


def rank_entries(
    entries: Iterable[Entry], ties: Ties = NO_TIES, decimals: int | None = None
) -> dict[RankedNumber, Rank]:
    """Return the ranks of numbers by entry and metric.

    Partial results, unverified numbers, facts and metrics of unknown tasks have none.

    Numbers are rounded to `decimals`, or to as many as is usual.
    """
    ranks: dict[RankedNumber, Rank] = {}
    for column in _columns(entries):
        for key, rank in _rank_column(column, ties, decimals).items():
            ranks[key, column.metric] = rank
    return ranks


def _columns(entries: Iterable[Entry]) -> list[_Column]:
    """Return every column of headline metrics that has several ranked entries."""
    columns: dict[tuple[str, str, str, bool], _Column] = {}
    for entry in entries:
        if not entry.is_ranked:
            continue
        for metric in headlines_of(entry):
            if metric in entry.metrics and metric_of(entry.task, metric).is_ranked:
                key = (entry.protocol, entry.dataset, metric, entry.aside)
                columns.setdefault(key, _Column(metric, [])).entries.append(entry)
    return [column for column in columns.values() if len(column.entries) > 1]


def _rank_column(column: _Column, ties: Ties, decimals: int | None) -> dict[Key, Rank]:
    """Return the ranks of a column by the keys of its entries."""
    best, metric = column.best, column.metric
    tie_of, ranks = _ties_and_ranks(column, ties)
    record = metric_of(best.task, metric)
    values = {entry.key: shown(record, entry.metrics[metric], decimals) for entry in column.entries}
    best_value = values[best.key]
    other_values = [value for value in values.values() if value != best_value]
    second_value = best_value
    if other_values:
        second_value = max(other_values) if record.higher_is_better else min(other_values)
    column_ranks = {}
    for key, value in values.items():
        is_best = value == best_value
        is_second = value == second_value and not is_best
        column_ranks[key] = Rank(is_best, "" if is_best else tie_of[key], ranks.get(key), is_second)
    return column_ranks


def _ties_and_ranks(
    column: _Column, ties: Ties
) -> tuple[dict[Key, Tie], dict[Key, tuple[int, int]]]:
    """Return the ties of all entries but the best with it, and the ranks that entries can have."""
    best, widening = column.best, column.widening
    ranks = column.ranks_by_intervals()
    k = max(2, len(ranks))
    tie_of: dict[Key, Tie] = {}
    n_worse = 0  # entries that are told apart from the best
    for entry in column.entries:
        if entry is best:
            continue
        key = entry.key
        is_close = column.overlaps(best, entry, widening)
        p_value = ties.get(Pair(best.key, key, column.metric))
        if p_value is not None and best.key in ranks and key in ranks:
            is_close = p_value > _LEVEL / (k * (k - 1))
            first, last = ranks[key]
            ranks[key] = (1 if is_close else max(2, first), last)
        if key in ranks and not is_close:
            n_worse += 1
        tie_of[key] = _tie(is_close, p_value, k)
    if best.key in ranks:
        ranks[best.key] = (1, len(ranks) - n_worse)
    return tie_of, ranks


def _tie(is_close: bool, p_value: float | None, k: int) -> Tie:
    """Return the tie with the best by the paired test if there is one, otherwise by intervals."""
    if p_value is None:
        return "intervals" if is_close else ""
    return "paired" if p_value > min(_LEVEL / 2, _LEVEL / (k - 1)) else ""


def find_ties(entries: Sequence[Entry], rule: Literal["auto", "paired", "intervals"]) -> Ties:
    """Return the paired p-value of each close pair.

    `paired` compares all samples, and raises UsageError if that is impossible. `auto` compares the
    samples that can be compared, unless there are many. `intervals` reads no samples.
    """
    if rule == "intervals":
        return NO_TIES
    results = {entry.key: entry.stored for entry in entries if entry.stored is not None}
    metric_pairs: dict[tuple[Key, Key], list[Pair]] = {}
    for pair in close_pairs(entries):
        metric_pairs.setdefault((pair.best, pair.other), []).append(pair)
    n_resampled = 0
    for best, _ in metric_pairs:
        row = results[best].row
        if task_named(row.task).resamples:
            n_resampled += row.n_samples
    if rule == "auto" and (len(metric_pairs) > _MOST_PAIRS or n_resampled > _MOST_SAMPLES):
        return NO_TIES
    ties: dict[Pair, float] = {}
    for (best, other), pairs in metric_pairs.items():
        try:
            ties |= _paired_p_values(results[best], results[other], pairs)
        except UsageError:
            if rule == "paired":
                raise
    return ties


def p_value_of(task: str, metric: str, difference: PairedDifference) -> float:
    """Return the p-value of `Ties`, of the best result minus another one."""
    higher_is_better = metric_of(task, metric).higher_is_better
    return (difference.flipped() if higher_is_better else difference).p_below(0)


def _paired_p_values(best: Stored, other: Stored, pairs: Sequence[Pair]) -> dict[Pair, float]:
    """Return the p-values of two results on the same samples, by pair of a metric.

    Raises UsageError if the results were measured by different settings.
    """
    # Imported here, since SciPy takes long.
    from cosmos_eval.results.compare import paired_differences, require_same_settings, setting

    try:
        require_same_settings([setting(best.row), setting(other.row)])
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
