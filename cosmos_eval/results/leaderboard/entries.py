"""The entries of a leaderboard: results measured here, and numbers that others published."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

from cosmos_eval.protocols.webdatasets import WEBDATASETS, main_metric
from cosmos_eval.results.identity import is_partial
from cosmos_eval.results.labels import Stored, distinct, distinguish
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.text import difference
from cosmos_eval.tasks import usable_task

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
"""How a model's name ends if a plain result was measured in mixed precision."""


class Key(NamedTuple):
    """The identity of an entry, which is different for all entries of a leaderboard."""

    protocol: str
    model: str
    source: Source
    url: str
    dataset: str


class Entry(NamedTuple):
    """One model's metrics on one data set, measured here or published elsewhere."""

    # The label of the model's row.
    model: str
    task: str
    # The label of the column: results on other files of a data set have another label.
    dataset: str
    protocol: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, Mapping[str, Any]]
    # An edited result is `unverified`.
    source: Source
    # Whether only a part of the samples was measured; such results are shown and never ranked.
    partial: bool = False
    # The address of a published number.
    url: str = ""
    # What the model's authors published for the data set and protocol, beside a measured entry.
    published: Mapping[str, float] = MappingProxyType({})
    # The result of a measured entry.
    stored: Stored | None = None
    # The titles of the metrics that tables show, if metrics were chosen.
    titles: Mapping[str, str] = MappingProxyType({})

    @property
    def aside(self) -> bool:
        """True for settings that are not the protocol's, such as a part of the samples, a student
        or another attention. Such entries have tables and rankings of their own."""
        if self.stored is None:
            return False
        precision = self.stored.row.provenance["precision"]
        return any(word != precision for word in self.stored.identity.variants)

    @property
    def key(self) -> Key:
        return Key(self.protocol, self.model, self.source, self.url, self.dataset)

    @property
    def is_ranked(self) -> bool:
        return not self.partial and self.source in ("measured", "published")

    @property
    def dataset_name(self) -> str:
        """The data set's name without the words that its column's label adds."""
        return self.stored.row.dataset if self.stored else self.dataset

    @property
    def spec_label(self) -> str:
        """The label of the row with the model's specification in place of its name.

        Published numbers name models by their specification.
        """
        if self.stored is None:
            return self.model
        return replace(self.stored, names=(self.stored.identity.spec,)).label

    def delta(self, metric: str, decimals: int | None = None) -> str:
        """Return a metric minus the number that the model's authors published, as `+0.4`.

        Returns an empty text if they published none.
        """
        published_value = self.published.get(metric)
        if published_value is None:
            return ""
        return difference(self.metrics[metric], published_value, decimals)


def headlines_of(entry: Entry) -> Mapping[str, str]:
    """Return the titles of the metrics that tables show, by metric.

    The metric that a webdataset's own benchmark reports comes first. If the task cannot be used,
    tables show all metrics.
    """
    if entry.titles:
        return entry.titles
    task = usable_task(entry.task)
    if task is None:
        return {metric: metric for metric in sorted(entry.metrics)}
    main = main_metric(entry.dataset_name, entry.protocol)
    titles = {main: main} if main else {}
    return titles | dict(task.headlines)


def measured(rows: Iterable[ResultRow]) -> list[Entry]:
    """Return entries of results that have no files, such as results made by tests.

    Raises UsageError if two results of a model differ.
    """
    return entries_of(distinguish(Stored(Path(), row) for row in rows))


def entries_of(results: Iterable[Stored]) -> list[Entry]:
    """Return the entries of stored results, sorted by key.

    A result that repeats another one has no entry. Raises UsageError if two results of a model on
    one data set differ.
    """
    entries = [_entry(result) for result in distinct(results)]
    return sorted(entries, key=lambda entry: entry.key)


def _entry(result: Stored) -> Entry:
    """Return the entry of a result, with the numbers that the model's authors published."""
    row = result.row
    entry = Entry(
        model=result.label,
        task=row.task,
        dataset=result.dataset,
        protocol=row.protocol,
        metrics=row.metrics,
        intervals=row.intervals,
        source="unverified" if result.is_edited else row.source,
        partial=is_partial(row),
        stored=result,
    )
    # Most authors measured in mixed precision. Results in it and in float32 are compared with the
    # published numbers, so the precision is cut off the label. OpenCLIP loads weights that were
    # trained with QuickGELU by the name of the architecture with or without `-quickgelu`.
    model = entry.spec_label.removesuffix(AMP).replace("-quickgelu/", "/")
    published_metrics = _published_metrics().get((model, row.dataset, row.protocol), {})
    return entry._replace(published=published_metrics)


@cache
def published() -> tuple[Entry, ...]:
    """Return the published numbers, each with the address of its source.

    A number is `published` if its source is a page of the authors, or names one. It is
    `second-hand` if somebody quotes a table of the paper, and `unverified` otherwise.
    """
    metrics_by_entry: dict[tuple[str, ...], dict[str, float]] = {}
    for file in files("cosmos_eval.protocols").joinpath("published").iterdir():
        for line in _published_lines(file.read_text("utf-8")):
            names = ("model", "task", "dataset", "protocol", "source", "url")
            key = tuple(line[name] for name in names)
            # The sources give at most two decimals of a percentage.
            value = round(float(line["percent"]) / 100, 4)
            metrics_by_entry.setdefault(key, {})[line["metric"]] = value
    entries = []
    for (model, task, dataset, protocol, source, url), metrics in metrics_by_entry.items():
        entry_source = cast(Source, source)
        entries.append(Entry(model, task, dataset, protocol, metrics, {}, entry_source, url=url))
    return tuple(sorted(entries, key=lambda entry: entry.key))


def _published_lines(text: str) -> Iterator[Mapping[str, str]]:
    """Yield one record per published metric of a CSV file.

    Most files have one line per metric. The table of DataComp's data sets has one line per model
    and one column per data set, with the main metric of the data set as a fraction.
    """
    lines = csv.DictReader(text.splitlines())
    names = lines.fieldnames or ()
    if "metric" in names:
        yield from lines
        return
    columns: dict[str, dict[str, str]] = {}
    for dataset in names:
        protocol = WEBDATASETS.get(dataset, {}).get(DATACOMP)
        if protocol:
            columns[dataset] = _OPENCLIP | {
                "dataset": dataset,
                "protocol": DATACOMP,
                "task": protocol.task,
                "metric": protocol.main_metric or MEAN_RECALL,
            }
    for line in lines:
        for dataset, column in columns.items():
            percent = str(100 * float(line[dataset]))
            yield column | {"model": line["model"], "percent": percent}


def published_beside(results: Iterable[Stored]) -> list[Entry]:
    """Return the published numbers that are shown beside results.

    DataComp published numbers of 112 models. They are left out if no result is by its protocol.
    """
    has_datacomp = any(result.row.protocol == DATACOMP for result in results)
    return [entry for entry in published() if has_datacomp or entry.protocol != DATACOMP]


@cache
def _published_metrics() -> Mapping[tuple[str, str, str], Mapping[str, float]]:
    """Return the metrics that authors published, by model, data set and protocol."""
    return {
        (entry.model, entry.dataset, entry.protocol): entry.metrics
        for entry in published()
        if entry.source == "published"
    }
