"""Entries as comma-separated values."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from cosmos_eval.results.escaping import csv_text
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.numbers import difference
from cosmos_eval.results.leaderboard.ranking import NO_TIES, Cell, Rank, Ties, rank_entries

_COLUMNS = (
    *("model", "task", "dataset", "protocol", "metric"),
    *("value", "low", "high", "source", "url"),
    *("best", "tie", "rank_low", "rank_high", "delta"),
)


def to_csv(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    """Every metric, one a line, as a fraction; the protocol is a column.

    `best` is `yes` or empty, `tie` what ties a number with the best (`paired`, `intervals`);
    `rank_low` and `rank_high` are the places that it can have, `delta` percentage points above
    what its authors published.
    """
    listed = sorted(entries, key=lambda entry: entry.key)
    found = rank_entries(listed, ties)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for entry in listed:
        for metric in sorted(entry.metrics):
            standing = found.get(Cell(entry.key, metric), Rank())
            writer.writerow((*_number(entry, metric), *_rank(standing), _delta(entry, metric)))
    return out.getvalue()


def _number(entry: Entry, metric: str) -> tuple[object, ...]:
    ends = entry.intervals.get(metric, {})
    where = map(csv_text, (entry.model, entry.task, entry.dataset, entry.protocol, metric))
    value = (entry.metrics[metric], ends.get("low"), ends.get("high"))
    return *where, *value, entry.source, csv_text(entry.url)


def _rank(standing: Rank) -> tuple[object, ...]:
    first, last = standing.ranks or (None, None)
    return "yes" if standing.best else "", standing.tie, first, last


def _delta(entry: Entry, metric: str) -> str:
    if metric not in entry.published:
        return ""
    return difference(entry.metrics[metric], entry.published[metric])
