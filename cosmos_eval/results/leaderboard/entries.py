"""The entries of a leaderboard: numbers measured here and numbers that others published."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from itertools import chain, product
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

from cosmos_eval.protocols.webdatasets import WEBDATASETS, main_metric
from cosmos_eval.results.identity import is_partial, variants
from cosmos_eval.results.labels import Stored, distinct, distinguish
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.text import difference
from cosmos_eval.tasks import task_of, usable_task

Source = Literal["measured", "published", "second-hand", "unverified"]

DATACOMP = "datacomp"
MEAN_RECALL = "mean_recall@1"
"""The mean of R@1 in both directions, which DataComp publishes instead of them."""

_OPENCLIP_TABLE = "f862f86cd92123615a8695ce8bcb6ecc066af452/docs/openclip_results.csv"
_OPENCLIP = {
    "source": "published",
    "url": f"https://github.com/mlfoundations/open_clip/blob/{_OPENCLIP_TABLE}",
}

AMP = " (amp)"
"""What a model's name ends with where a plain result was measured in mixed precision."""


class Key(NamedTuple):
    """The identity of an entry; no two entries of a leaderboard have the same."""

    protocol: str
    model: str
    source: Source
    url: str
    dataset: str


class Entry(NamedTuple):
    """One model's metrics on one data set, measured here or published elsewhere. `partial` results
    are shown and never ranked; `url` is the source of a published number. A measured entry has
    `stored`, its result, and `published`, what the model's authors published for the same data set
    and protocol. `dataset` is the label of a column: results on other files of a data set have
    others. An edited result is `unverified`. `titles` are of the metrics that tables show,
    where these were chosen. Results `aside`, of a part of the samples, a student or an attention
    that is not the protocol's, are in no table and no ranking with others."""

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
    titles: Mapping[str, str] = MappingProxyType({})

    @property
    def aside(self) -> bool:
        if self.stored is None:
            return False
        row = self.stored.row
        return any(word != row.provenance["precision"] for word in variants(row))

    @property
    def key(self) -> Key:
        return Key(self.protocol, self.model, self.source, self.url, self.dataset)

    @property
    def is_ranked(self) -> bool:
        return not self.partial and self.source in ("measured", "published")

    @property
    def dataset_name(self) -> str:
        """The data set's name without what its column's label adds."""
        return self.stored.row.dataset if self.stored else self.dataset

    @property
    def specified(self) -> str:
        """The label by the model's specification, as published numbers have it."""
        stored = self.stored
        return replace(stored, names=(stored.identity.spec,)).label if stored else self.model

    def delta(self, metric: str, decimals: int | None = None) -> str:
        """Return a metric minus what the model's authors published, if they did."""
        published = self.published.get(metric)
        return "" if published is None else difference(self.metrics[metric], published, decimals)


def headlines_of(entry: Entry) -> Mapping[str, str]:
    """Return the titles of the metrics that tables show: all, if the task cannot be used. The
    one that a webdataset's own benchmark reports comes first."""
    if entry.titles:
        return entry.titles
    task = usable_task(entry.task)
    if task is None:
        return {metric: metric for metric in sorted(entry.metrics)}
    main = main_metric(entry.dataset_name, entry.protocol)
    return {**({main: main} if main else {}), **task.headlines}


def measured(rows: Iterable[ResultRow]) -> list[Entry]:
    """Return entries of results. Raises UsageError where two results would be the same entry."""
    return entries_of(distinguish(Stored(Path(), row) for row in rows))


def entries_of(results: Iterable[Stored]) -> list[Entry]:
    """Return entries of stored results, of those that repeat another one only once. Raises
    UsageError where two results of a model differ."""
    return sorted(map(_entry, distinct(results)), key=lambda entry: entry.key)


def _entry(one: Stored) -> Entry:
    row = one.row
    entry = Entry(
        model=one.label,
        task=row.task,
        dataset=one.dataset,
        protocol=row.protocol,
        metrics=row.metrics,
        intervals=row.intervals,
        source="unverified" if one.is_edited else row.source,
        partial=is_partial(row),
        stored=one,
    )
    # Most authors measured in mixed precision: it and float32 are compared with their numbers.
    # OpenCLIP loads a tag that both architectures have with QuickGELU by either name.
    model = entry.specified.removesuffix(AMP).replace("-quickgelu/", "/")
    published = _of_authors().get((model, row.dataset, row.protocol), {})
    return entry._replace(published=published)


@cache
def published() -> tuple[Entry, ...]:
    """Return numbers of others, each with the address of its source.

    They are `second-hand` if somebody quotes a table of the paper, and `unverified` if the source
    neither is nor names a page of the authors.
    """
    numbers: dict[tuple[str, ...], dict[str, float]] = {}
    folder = files("cosmos_eval.protocols").joinpath("published")
    for line in chain.from_iterable(_lines(file.read_text("utf-8")) for file in folder.iterdir()):
        names = ("model", "task", "dataset", "protocol", "source", "url")
        # The sources give at most two decimals of a percentage.
        value = round(float(line["percent"]) / 100, 4)
        numbers.setdefault(tuple(line[name] for name in names), {})[line["metric"]] = value
    entries = (
        Entry(model, task, dataset, protocol, metrics, {}, cast(Source, source), url=url)
        for (model, task, dataset, protocol, source, url), metrics in numbers.items()
    )
    return tuple(sorted(entries, key=lambda entry: entry.key))


def _lines(text: str) -> Iterator[Mapping[str, str]]:
    """Yield the lines of a file of published numbers. A table of DataComp's sets has a line per
    model and a column per set, of its main metric as a fraction."""
    lines = csv.DictReader(text.splitlines())
    if "metric" in (lines.fieldnames or ()):
        yield from lines
        return
    columns = {}
    for dataset in lines.fieldnames or ():
        if protocol := WEBDATASETS.get(dataset, {}).get(DATACOMP):
            metric = protocol.main_metric or MEAN_RECALL
            where = {"dataset": dataset, "protocol": DATACOMP, "task": task_of(protocol)}
            columns[dataset] = {**_OPENCLIP, **where, "metric": metric}
    for line, dataset in product(lines, columns):
        percent = str(100 * float(line[dataset]))
        yield {**columns[dataset], "model": line["model"], "percent": percent}


def published_beside(results: Iterable[Stored]) -> list[Entry]:
    """Return published numbers; those of DataComp's sets, of 112 models, only beside results."""
    families = {one.row.protocol for one in results}
    return [one for one in published() if one.protocol != DATACOMP or DATACOMP in families]


@cache
def _of_authors() -> Mapping[tuple[str, str, str], Mapping[str, float]]:
    return {
        (entry.model, entry.dataset, entry.protocol): entry.metrics
        for entry in published()
        if entry.source == "published"
    }
