"""What a leaderboard is made of: numbers measured here and numbers that others published."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

from cosmos_eval.results.labels import Stored, distinguish, is_partial
from cosmos_eval.results.record import ResultRow
from cosmos_eval.tasks import known_tasks
from cosmos_eval.types import UsageError

Source = Literal["measured", "published", "unverified"]

AMP = " (amp)"
"""What a model's name ends with where a plain result was measured in mixed precision."""

_PUBLISHED_KEY = ("model", "task", "dataset", "protocol", "source", "url")


class Key(NamedTuple):
    """What makes an entry itself; no two entries of a leaderboard have the same."""

    protocol: str
    model: str
    source: Source
    url: str
    dataset: str


class Entry(NamedTuple):
    """One model's metrics on one data set, measured here or published elsewhere.

    `metrics` are fractions in [0, 1]; `partial` marks a result of a part of the samples, which
    is shown but never ranked; `url` says where a published number stands. `published` holds what
    the model's authors published for the same data set and protocol, for a measured entry;
    `stored` is what it was made from. An edited result is `unverified`.
    """

    model: str
    task: str
    dataset: str
    protocol: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, Mapping[str, Any]]
    source: Source
    partial: bool = False
    url: str = ""
    published: Mapping[str, float] = MappingProxyType({})
    stored: Stored | None = None

    @property
    def result(self) -> ResultRow | None:
        """The result that it was made from."""
        return None if self.stored is None else self.stored.row

    @property
    def key(self) -> Key:
        """What tells it from the other entries."""
        return Key(self.protocol, self.model, self.source, self.url, self.dataset)


def headlines_of(entry: Entry) -> Mapping[str, str]:
    """The metrics that tables show of an entry, and what their columns are called.

    Of a task that is not installed here, all that it has.
    """
    known = known_tasks()
    if entry.task in known:
        return known[entry.task].headlines
    return {metric: metric for metric in sorted(entry.metrics)}


def measured(rows: Iterable[ResultRow]) -> list[Entry]:
    """Entries of results. Raises UsageError where two results would be the same entry."""
    return entries_of(distinguish(Stored(Path(), row) for row in rows))


def entries_of(results: Iterable[Stored]) -> list[Entry]:
    """Entries of stored results. Raises UsageError where two results would be the same entry."""
    entries: dict[Key, Entry] = {}
    for one in results:
        entry = _entry(one)
        if entry.key in entries:
            raise UsageError(
                f"two results of {entry.model} on {entry.dataset} ({entry.protocol}): "
                f"keep one of the files{_named(entries[entry.key], entry)}"
            )
        entries[entry.key] = entry
    return [entries[key] for key in sorted(entries)]


def _named(*entries: Entry) -> str:
    """The files of entries, where they were read from files."""
    paths = [str(one.stored.path) for one in entries if one.stored and one.stored.path.name]
    return f" {' and '.join(paths)}" if paths else ""


def _as_published(model: str) -> str:
    """Return the name under which a model's authors published numbers of the same weights.

    Most of them measured in mixed precision: it and float32 are compared with their numbers.
    OpenCLIP loads a tag that both architectures have with QuickGELU by either name.
    """
    return model.removesuffix(AMP).replace("-quickgelu/", "/")


def _entry(one: Stored) -> Entry:
    row, model = one.row, one.table_model
    return Entry(
        model=model,
        task=row.task,
        dataset=row.dataset,
        protocol=row.protocol,
        metrics=row.metrics,
        intervals=row.intervals,
        source="unverified" if one.is_edited else row.source,
        partial=is_partial(row),
        published=_of_authors().get((_as_published(model), row.dataset, row.protocol), {}),
        stored=one,
    )


@cache
def published() -> tuple[Entry, ...]:
    """Numbers of others, as this package ships them, each with the URL where it stands.

    Their source is `unverified` where it is not the authors' own page.
    """
    numbers: dict[tuple[str, ...], dict[str, float]] = {}
    for file in files("cosmos_eval.protocols").joinpath("published").iterdir():
        for line in csv.DictReader(io.StringIO(file.read_text("utf-8"))):
            key = tuple(line[name] for name in _PUBLISHED_KEY)
            # The sources give at most two decimals of a percentage.
            numbers.setdefault(key, {})[line["metric"]] = round(float(line["percent"]) / 100, 4)
    entries = (_published_entry(metrics, *key) for key, metrics in numbers.items())
    return tuple(sorted(entries, key=lambda entry: entry.key))


def _published_entry(
    metrics: Mapping[str, float],
    *names: str,
) -> Entry:
    model, task, dataset, protocol, source, url = names
    return Entry(model, task, dataset, protocol, metrics, {}, cast(Source, source), url=url)


@cache
def _of_authors() -> Mapping[tuple[str, str, str], Mapping[str, float]]:
    """What authors published themselves, by model, data set and protocol."""
    return {
        (entry.model, entry.dataset, entry.protocol): entry.metrics
        for entry in published()
        if entry.source == "published"
    }
