"""Who is best, who cannot be told from the best, and what places each result can have.

A place is among the results measured here. Two results are told apart by the interval of their
difference on the same samples where that is given; else by whether their own intervals overlap,
which finds fewer differences.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

from cosmos_eval.results.labels import model_label
from cosmos_eval.results.leaderboard.entries import Entry, Key, headlines_of
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.text import shown
from cosmos_eval.tasks import metric_of, task_named
from cosmos_eval.types import Samples, UsageError

Tie = Literal["", "paired", "intervals"]


class Pair(NamedTuple):
    """The best result of a column and another one."""

    best: Key
    other: Key
    metric: str


Ties = Mapping[Pair, bool]
"""Whether the interval of a pair's difference on the same samples covers 0."""

NO_TIES: Ties = MappingProxyType({})


class Rank(NamedTuple):
    """How a number compares with the others of its column.

    `best` is the best as shown, `tie` says by what another cannot be told from it; `ranks`
    are the first and last place that it can have, None where places mean nothing.
    """

    best: bool = False
    tie: Tie = ""
    ranks: tuple[int, int] | None = None


class Cell(NamedTuple):
    """A metric of an entry."""

    key: Key
    metric: str


def close_pairs(entries: Iterable[Entry]) -> list[Pair]:
    """The pairs that samples could tell apart: the best of a column with each near it."""
    return [
        Pair(best.key, other.key, metric)
        for metric, column in _columns(entries)
        if (best := _best(column, metric)) is not None and best.source == "measured"
        for other in column
        if other is not best and other.source == "measured" and _overlap(best, other, metric)
    ]


def rank_entries(entries: Iterable[Entry], ties: Ties = NO_TIES) -> dict[Cell, Rank]:
    """The standing of every number that is ranked; `ties` may tell close pairs apart.

    Results of a part of the samples only, and numbers that are not verified, are not ranked.
    """
    return {
        Cell(key, metric): standing
        for metric, column in _columns(entries)
        for key, standing in _of_column(column, metric, ties).items()
    }


def _columns(entries: Iterable[Entry]) -> list[tuple[str, list[Entry]]]:
    """Headline metric and ranked entries of every column of every table."""
    columns: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        if entry.partial or entry.source == "unverified":
            continue
        for metric in headlines_of(entry):
            if metric in entry.metrics:
                columns.setdefault((entry.protocol, entry.dataset, metric), []).append(entry)
    return [(metric, column) for (_, _, metric), column in columns.items()]


def _best(column: Sequence[Entry], metric: str) -> Entry | None:
    """The best of several; the first by name of equal ones."""
    if len(column) < 2:
        return None
    return min(column, key=lambda entry: (-_sign(entry, metric) * entry.metrics[metric], entry.key))


def _sign(entry: Entry, metric: str) -> int:
    """1 where higher is better, else -1."""
    return 1 if metric_of(entry.task, metric).higher_is_better else -1


def _of_column(column: Sequence[Entry], metric: str, ties: Ties) -> dict[Key, Rank]:
    best = _best(column, metric)
    if best is None:
        return {}
    known = metric_of(best.task, metric)
    top = shown(known, best.metrics[metric])
    tied = {entry.key: _tie(best, entry, metric, ties) for entry in column if entry is not best}
    ranks = _ranks(column, metric)
    if best.key in ranks:
        _sharpen(ranks, best.key, tied)
    return {
        entry.key: Rank(
            best=(is_best := shown(known, entry.metrics[metric]) == top),
            tie="" if is_best else tied[entry.key][0],
            ranks=ranks.get(entry.key),
        )
        for entry in column
    }


def _tie(best: Entry, other: Entry, metric: str, ties: Ties) -> tuple[Tie, bool]:
    """By what two results are tied, and whether samples have decided it."""
    tied = ties.get(Pair(best.key, other.key, metric))
    if tied is not None:
        return ("paired" if tied else ""), True
    return ("intervals" if _overlap(best, other, metric) else ""), False


def _overlap(best: Entry, other: Entry, metric: str) -> bool:
    """Whether intervals overlap; a number without one is a point. Two points never tie."""
    if metric not in best.intervals and metric not in other.intervals:
        return False
    return _ends(other, metric)[1] >= _ends(best, metric)[0]


def _ends(entry: Entry, metric: str) -> tuple[float, float]:
    """The worse and the better end of an interval, so that more is better."""
    value = entry.metrics[metric]
    interval = entry.intervals.get(metric, {"low": value, "high": value})
    if _sign(entry, metric) < 0:
        return -interval["high"], -interval["low"]
    return interval["low"], interval["high"]


def _ranks(column: Sequence[Entry], metric: str) -> dict[Key, tuple[int, int]]:
    """First and last place by intervals: behind all that lie above, before all that lie below."""
    ranked = [e for e in column if e.source == "measured" and metric in e.intervals]
    if len(ranked) < 2:
        return {}
    ends = {entry.key: _ends(entry, metric) for entry in ranked}
    lows = sorted(low for low, _ in ends.values())
    highs = sorted(high for _, high in ends.values())
    return {
        key: (1 + len(lows) - bisect_right(lows, high), len(highs) - bisect_left(highs, low))
        for key, (low, high) in ends.items()
    }


def _sharpen(
    ranks: dict[Key, tuple[int, int]], best: Key, tied: Mapping[Key, tuple[Tie, bool]]
) -> None:
    """Let what samples say of the best decide who can be first."""
    for key, (tie, decided) in tied.items():
        if decided and key in ranks:
            first, last = ranks[key]
            ranks[key] = (1, last) if tie else (max(2, first), last)
    ranks[best] = (1, 1 + sum(1 for key, (tie, _) in tied.items() if tie and key in ranks))


TieRule = Literal["auto", "paired", "intervals"]

Read = Callable[[ResultRow], Samples]
"""The per-sample arrays of a result; raises UsageError where there are none."""

# What `auto` compares at most: pairs of results, and samples of those that need a bootstrap. A
# bootstrap of COCO's 5,000 images takes seconds.
_MOST_PAIRS = 16
_MOST_SAMPLES = 10_000


class _Results(NamedTuple):
    """The best result of a column, another one, and the metrics in which they are close."""

    best: ResultRow
    other: ResultRow
    pairs: tuple[Pair, ...]

    @property
    def resampled(self) -> int:
        """How many samples a bootstrap draws; some tasks need none."""
        return self.best.n_samples if task_named(self.best.task).resamples else 0


def find_ties(entries: Sequence[Entry], read: Read, rule: TieRule) -> Ties:
    """Whether the paired interval of each close pair covers 0.

    `paired` compares every pair's samples and raises UsageError where that cannot be; `auto`
    compares those that can be, if they are few; `intervals` reads no samples.
    """
    if rule == "intervals":
        return NO_TIES
    close = _close_results(entries)
    if rule == "auto" and not _few(close):
        return NO_TIES
    ties: dict[Pair, bool] = {}
    for results in close:
        try:
            ties |= _ties(results, read)
        except UsageError:
            if rule == "paired":
                raise
    return ties


def _close_results(entries: Sequence[Entry]) -> list[_Results]:
    results = {entry.key: entry.result for entry in entries if entry.result is not None}
    pairs: dict[tuple[Key, Key], list[Pair]] = {}
    for pair in close_pairs(entries):
        pairs.setdefault((pair.best, pair.other), []).append(pair)
    return [
        _Results(results[best], results[other], tuple(found))
        for (best, other), found in pairs.items()
    ]


def _few(close: Sequence[_Results]) -> bool:
    drawn = sum(results.resampled for results in close)
    return len(close) <= _MOST_PAIRS and drawn <= _MOST_SAMPLES


def _ties(results: _Results, read: Read) -> Ties:
    from cosmos_eval.results.compare import mismatches, paired_differences, setting

    best, other, pairs = results
    differing = mismatches(setting(best), setting(other))
    if differing:
        raise UsageError(
            f"{model_label(best)} and {model_label(other)} on {best.dataset} cannot be compared: "
            f"{'; '.join(map(str, differing))}"
        )
    found = paired_differences(best, read(best), other, read(other))
    intervals = {pair: found[pair.metric].interval() for pair in pairs if pair.metric in found}
    return {pair: interval.low <= 0 <= interval.high for pair, interval in intervals.items()}
