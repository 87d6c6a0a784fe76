"""Ranks of results, and ties with the best one. Two results differ by the interval of their
difference on the same samples where that is given; else by whether their own intervals overlap,
which finds fewer differences."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

from cosmos_eval.results.labels import Stored
from cosmos_eval.results.leaderboard.entries import Entry, Key, headlines_of
from cosmos_eval.results.store import read_samples
from cosmos_eval.results.text import shown
from cosmos_eval.tasks import metric_of, task_named
from cosmos_eval.types import UsageError

Tie = Literal["", "paired", "intervals"]

# What `auto` compares at most; a bootstrap of COCO's 5,000 images takes seconds.
_MOST_PAIRS = 16
_MOST_SAMPLES = 10_000


class Pair(NamedTuple):
    """The best result of a column and another one."""

    best: Key
    other: Key
    metric: str


Cell = tuple[Key, str]
"""An entry and a metric."""

Ties = Mapping[Pair, bool]
"""Whether the interval of a pair's difference on the same samples covers 0."""

NO_TIES: Ties = MappingProxyType({})


class Rank(NamedTuple):
    """How a number compares with the others of its column. `best` is whether it is the best as
    shown, `tie` what does not distinguish it from the best, and `ranks` are the first and last rank
    that it can have."""

    best: bool = False
    tie: Tie = ""
    ranks: tuple[int, int] | None = None


def close_pairs(entries: Iterable[Entry]) -> list[Pair]:
    """Return the pairs that samples could distinguish: the best of a column with each near it."""
    return [
        Pair(best.key, other.key, metric)
        for metric, best, column in _columns(entries)
        if best.source == "measured"
        for other in column
        if other is not best and other.source == "measured" and _overlap(best, other, metric)
    ]


def rank_entries(entries: Iterable[Entry], ties: Ties = NO_TIES) -> dict[Cell, Rank]:
    """Return ranks, except of partial results, unverified numbers, facts and metrics of unknown
    tasks."""
    return {
        (key, metric): rank
        for metric, best, column in _columns(entries)
        for key, rank in _rank_column(best, column, metric, ties).items()
    }


def _columns(entries: Iterable[Entry]) -> list[tuple[str, Entry, list[Entry]]]:
    """Return every column of several ranked entries: its headline metric, the best one, all. Of
    equal ones the first by name is the best."""
    columns: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in (e for e in entries if e.is_ranked):
        for metric in headlines_of(entry):
            if metric in entry.metrics and metric_of(entry.task, metric).is_ranked:
                columns.setdefault((entry.protocol, entry.dataset, metric), []).append(entry)
    several = ((metric, column) for (_, _, metric), column in columns.items() if len(column) > 1)
    return [(metric, _best(column, metric), column) for metric, column in several]


def _best(column: Sequence[Entry], metric: str) -> Entry:
    sign = -1 if metric_of(column[0].task, metric).higher_is_better else 1
    return min(column, key=lambda entry: (sign * entry.metrics[metric], entry.key))


def _rank_column(best: Entry, column: Sequence[Entry], metric: str, ties: Ties) -> dict[Key, Rank]:
    known = metric_of(best.task, metric)
    top = shown(known, best.metrics[metric])
    others = {entry.key: _tie(best, entry, metric, ties) for entry in column if entry is not best}
    ranks = _ranks(column, metric)
    if best.key in ranks:
        for key in ranks.keys() & others.keys():
            # Samples, where they were compared, decide which results can be first.
            if Pair(best.key, key, metric) in ties:
                first, last = ranks[key]
                ranks[key] = (1, last) if others[key] else (max(2, first), last)
        ranks[best.key] = (1, 1 + sum(1 for key, tie in others.items() if tie and key in ranks))
    found = {}
    for entry in column:
        is_best = shown(known, entry.metrics[metric]) == top
        tie = "" if is_best else others[entry.key]
        found[entry.key] = Rank(is_best, tie, ranks.get(entry.key))
    return found


def _tie(best: Entry, other: Entry, metric: str, ties: Ties) -> Tie:
    tied = ties.get(Pair(best.key, other.key, metric))
    if tied is not None:
        return "paired" if tied else ""
    return "intervals" if _overlap(best, other, metric) else ""


def _overlap(best: Entry, other: Entry, metric: str) -> bool:
    """Return whether intervals overlap; a number without one is a point, and points never tie."""
    if metric not in best.intervals and metric not in other.intervals:
        return False
    return _ends(other, metric)[1] >= _ends(best, metric)[0]


def _ends(entry: Entry, metric: str) -> tuple[float, float]:
    """Return an interval, negative where lower is better."""
    value = entry.metrics[metric]
    interval = entry.intervals.get(metric, {"low": value, "high": value})
    if metric_of(entry.task, metric).higher_is_better:
        return interval["low"], interval["high"]
    return -interval["high"], -interval["low"]


def _ranks(column: Sequence[Entry], metric: str) -> dict[Key, tuple[int, int]]:
    """Return ranks by intervals: behind all that lie above, before all that lie below."""
    ranked = [e for e in column if e.source == "measured" and metric in e.intervals]
    if len(ranked) < 2:
        return {}
    ends = {entry.key: _ends(entry, metric) for entry in ranked}
    lows, highs = map(sorted, zip(*ends.values(), strict=True))
    return {
        key: (1 + len(lows) - bisect_right(lows, high), len(highs) - bisect_left(highs, low))
        for key, (low, high) in ends.items()
    }


def find_ties(entries: Sequence[Entry], rule: Literal["auto", "paired", "intervals"]) -> Ties:
    """Return whether the paired interval of each close pair covers 0. `paired` compares all samples
    and raises UsageError where that is impossible; `auto` compares what it can, if it is not much;
    `intervals` reads no samples."""
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
    ties: dict[Pair, bool] = {}
    for (best, other), pairs in close.items():
        try:
            ties |= _ties(stored[best], stored[other], pairs)
        except UsageError:
            if rule == "paired":
                raise
    return ties


def _ties(best: Stored, other: Stored, pairs: Sequence[Pair]) -> dict[Pair, bool]:
    from cosmos_eval.results.compare import mismatches, paired_differences, setting  # SciPy

    if differing := mismatches(setting(best.row), setting(other.row)):
        pair = f"{best.model} and {other.model} on {best.row.dataset}"
        raise UsageError(f"{pair} cannot be compared: {'; '.join(differing)}")
    samples = read_samples(best.path), read_samples(other.path)
    only = {pair.metric for pair in pairs}
    found = paired_differences(best.row, samples[0], other.row, samples[1], only)
    intervals = {pair: found[pair.metric].interval() for pair in pairs if pair.metric in found}
    return {pair: interval.low <= 0 <= interval.high for pair, interval in intervals.items()}
