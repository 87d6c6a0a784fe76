"""Who is best, who cannot be told from the best, and what places each result can have.

A place is among the results measured here. Two results are told apart by the interval of their
difference on the same samples where that is given; else by whether their own intervals overlap,
which finds fewer differences.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

from cosmos_eval.results.leaderboard.entries import Entry, Key, headlines_of
from cosmos_eval.results.leaderboard.numbers import shown

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

    `best` is the highest as shown, `tie` says by what a lower one cannot be told from it; `ranks`
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
    """The highest of several; the first by name of equal ones."""
    if len(column) < 2:
        return None
    return min(column, key=lambda entry: (-entry.metrics[metric], entry.key))


def _of_column(column: Sequence[Entry], metric: str, ties: Ties) -> dict[Key, Rank]:
    best = _best(column, metric)
    if best is None:
        return {}
    top = shown(metric, best.metrics[metric])
    tied = {entry.key: _tie(best, entry, metric, ties) for entry in column if entry is not best}
    ranks = _ranks(column, metric)
    if best.key in ranks:
        _sharpen(ranks, best.key, tied)
    return {
        entry.key: Rank(
            best=(is_best := shown(metric, entry.metrics[metric]) == top),
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
    value = entry.metrics[metric]
    interval = entry.intervals.get(metric, {"low": value, "high": value})
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
