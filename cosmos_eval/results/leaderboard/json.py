"""Entries as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cosmos_eval.results.escaping import json_text
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.ranking import NO_TIES, Cell, Rank, Ties, rank_entries

_KEYS = ("model", "task", "dataset", "protocol", "metrics", "intervals", "source")


def to_json(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    """A list of {model, task, dataset, protocol, metrics, intervals, source}, fractions.

    Where there is something to say, also `url`, `published` (metric -> what the model's authors
    published) and `standings` (metric -> `best`, `tie`, `ranks`).
    """
    listed = sorted(entries, key=lambda entry: entry.key)
    found = rank_entries(listed, ties)
    records = [_record(entry, found) for entry in listed]
    return json_text(records, indent=2, sort_keys=True) + "\n"


def _record(entry: Entry, found: Mapping[Cell, Rank]) -> dict[str, Any]:
    compared = {
        metric: found[Cell(entry.key, metric)]._asdict()
        for metric in entry.metrics
        if Cell(entry.key, metric) in found
    }
    more = {"url": entry.url, "published": dict(entry.published), "standings": compared}
    fixed = {key: getattr(entry, key) for key in _KEYS}
    return {**fixed, **{key: value for key, value in more.items() if value}}
