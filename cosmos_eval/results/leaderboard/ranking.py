"""Ranks of results, and ties with the best one, which hold for the K results of a column together.
Two results differ by the paired test of their samples where that is given; else by whether their
intervals overlap, widened to hold all K values at once, which finds fewer differences.

A model loses the best one's company by a test at 0.05 / (K - 1), one-sided, as in multiple
comparisons with the best (Hsu 1984, Annals of Statistics 12), and never by a looser test than that
of two models. Ranks hold at once: by simultaneous intervals (Klein, Wright and Wieczorek 2020, JRSS
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


Cell = tuple[Key, str]
"""An entry and a metric."""

Ties = Mapping[Pair, float]
"""One-sided p-values, by the same samples, of the other result's being as good as the best."""

NO_TIES: Ties = MappingProxyType({})


class Rank(NamedTuple):
    """How a number compares with the others of its column. `best` is whether it is the best as
    shown, `tie` what does not distinguish it from the best, and `ranks` are the first and last rank
    that it can have. `second` is whether it is the best as shown of all that are not `best`."""

    best: bool = False
    tie: Tie = ""
    ranks: tuple[int, int] | None = None
    second: bool = False


def close_pairs(entries: Iterable[Entry]) -> list[Pair]:
    """Return the pairs that samples could distinguish: the best of a column with each near it."""
    return [
        Pair(best.key, other.key, metric)
        for metric, best, column in _columns(entries)
        if best.source == "measured"
        for other in column
        if other is not best and other.source == "measured"
        if _overlap(best, other, metric, _widening(column, metric))
    ]


def rank_entries(
    entries: Iterable[Entry], ties: Ties = NO_TIES, decimals: int | None = None
) -> dict[Cell, Rank]:
    """Return ranks, except of partial results, unverified numbers, facts and metrics of unknown
    tasks. Numbers are shown with `decimals`, if these are not the usual ones."""
    return {
        (key, metric): rank
        for metric, best, column in _columns(entries)
        for key, rank in _rank_column(best, column, metric, ties, decimals).items()
    }


def _columns(entries: Iterable[Entry]) -> list[tuple[str, Entry, list[Entry]]]:
    """Return every column of several ranked entries: its headline metric, the best one, all. Of
    equal ones the first by name is the best."""
    columns: dict[tuple[str, str, str, bool], list[Entry]] = {}
    for entry in (e for e in entries if e.is_ranked):
        for metric in headlines_of(entry):
            if metric in entry.metrics and metric_of(entry.task, metric).is_ranked:
                key = (entry.protocol, entry.dataset, metric, entry.aside)
                columns.setdefault(key, []).append(entry)
    several = ((key[2], column) for key, column in columns.items() if len(column) > 1)
    return [(metric, _best(column, metric), column) for metric, column in several]


def _best(column: Sequence[Entry], metric: str) -> Entry:
    sign = -1 if metric_of(column[0].task, metric).higher_is_better else 1
    return min(column, key=lambda entry: (sign * entry.metrics[metric], entry.key))


def _rank_column(
    best: Entry, column: Sequence[Entry], metric: str, ties: Ties, decimals: int | None
) -> dict[Key, Rank]:
    known = metric_of(best.task, metric)
    values = {entry.key: shown(known, entry.metrics[metric], decimals) for entry in column}
    top = values[best.key]
    rest = [value for value in values.values() if value != top]
    next_best = (max if known.higher_is_better else min)(rest, default=top)
    ranks = _ranks(column, metric)
    widening, k = _widening(column, metric), max(2, len(ranks))
    others, apart = {}, 0  # how many are told apart from the best
    for entry in (entry for entry in column if entry is not best):
        key, overlap = entry.key, _overlap(best, entry, metric, widening)
        p_value = ties.get(Pair(best.key, key, metric))
        if p_value is not None and best.key in ranks and key in ranks:
            overlap = p_value > _LEVEL / (k * (k - 1))
            first, last = ranks[key]
            ranks[key] = (1 if overlap else max(2, first), last)
        apart += key in ranks and not overlap
        others[key] = _tie(overlap, p_value, k)
    if best.key in ranks:
        ranks[best.key] = (1, len(ranks) - apart)
    found = {}
    for entry in column:
        value = values[entry.key]
        tie = "" if value == top else others[entry.key]
        second = value == next_best != top
        found[entry.key] = Rank(value == top, tie, ranks.get(entry.key), second)
    return found


def _tie(overlap: bool, p_value: float | None, k: int) -> Tie:
    if p_value is None:
        return "intervals" if overlap else ""
    return "paired" if p_value > min(_LEVEL / 2, _LEVEL / (k - 1)) else ""


def _overlap(best: Entry, other: Entry, metric: str, widening: float) -> bool:
    """Return whether intervals overlap; a number without one is a point, and points never tie."""
    if metric not in best.intervals and metric not in other.intervals:
        return False
    return _ends(other, metric, widening)[1] >= _ends(best, metric, widening)[0]


def _widening(column: Sequence[Entry], metric: str) -> float:
    """Return the factor by which 95% intervals have to be wider to hold all K values at once."""
    k = sum(metric in entry.intervals for entry in column)
    quantile = NormalDist().inv_cdf
    return quantile(1 - _LEVEL / 2 / max(1, k)) / quantile(1 - _LEVEL / 2)


def _ends(entry: Entry, metric: str, widening: float) -> tuple[float, float]:
    """Return a widened interval, negative where lower is better."""
    value = entry.metrics[metric]
    interval = entry.intervals.get(metric, {"low": value, "high": value})
    low, high = (value + widening * (interval[end] - value) for end in ("low", "high"))
    return (low, high) if metric_of(entry.task, metric).higher_is_better else (-high, -low)


def _ranks(column: Sequence[Entry], metric: str) -> dict[Key, tuple[int, int]]:
    """Return ranks by intervals: behind all that lie above, before all that lie below."""
    ranked = [e for e in column if e.source == "measured" and metric in e.intervals]
    if len(ranked) < 2:
        return {}
    widening = _widening(column, metric)
    ends = {entry.key: _ends(entry, metric, widening) for entry in ranked}
    lows, highs = map(sorted, zip(*ends.values(), strict=True))
    return {
        key: (1 + len(lows) - bisect_right(lows, high), len(highs) - bisect_left(highs, low))
        for key, (low, high) in ends.items()
    }


def find_ties(entries: Sequence[Entry], rule: Literal["auto", "paired", "intervals"]) -> Ties:
    """Return the paired p-value of each close pair. `paired` compares all samples and raises
    UsageError where that is impossible; `auto` compares what it can, if it is not much; `intervals`
    reads no samples."""
    if rule == "intervals":
        return NO_TIES
    stored = {entry.key: entry.stored for entry in entries if entry.stored is not None}
    close: dict[tuple[Key, Key], list[Pair]] = {}
    for pair in close_pairs(entries):
        close.setdefault((pair.best, pair.other), []).append(pair)
    rows = [stored[best].row for best, _ in close]
    drawn = sum(row.n_samples for row in rows if task_named(row.task).resamples)
    if rule == "auto" and (len(close) > _MOST_PAIRS or drawn > _MOST_SAMPLES):
        return NO_TIES
    ties: dict[Pair, float] = {}
    for (best, other), pairs in close.items():
        try:
            ties |= _ties(stored[best], stored[other], pairs)
        except UsageError:
            if rule == "paired":
                raise
    return ties


def p_value_of(task: str, metric: str, difference: PairedDifference) -> float:
    """Return the p-value of `Ties`, of the best result minus another one."""
    higher = metric_of(task, metric).higher_is_better
    return (difference.flipped() if higher else difference).p_below(0)


def _ties(best: Stored, other: Stored, pairs: Sequence[Pair]) -> dict[Pair, float]:
    from cosmos_eval.results.compare import mismatches, paired_differences, setting  # SciPy

    if differing := mismatches(setting(best.row), setting(other.row)):
        pair = f"{best.model} and {other.model} on {best.row.dataset}"
        raise UsageError(f"{pair} cannot be compared: {'; '.join(differing)}")
    samples = read_samples(best.path), read_samples(other.path)
    only = {pair.metric for pair in pairs}
    found = paired_differences(best.row, samples[0], other.row, samples[1], only)
    task, known = best.row.task, [pair for pair in pairs if pair.metric in found]
    return {pair: p_value_of(task, pair.metric, found[pair.metric]) for pair in known}
