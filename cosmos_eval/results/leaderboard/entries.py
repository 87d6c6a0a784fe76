"""The entries of a leaderboard: results measured here, and numbers that others published."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

from cosmos_eval.protocols.languages import language_of, language_protocols
from cosmos_eval.protocols.webdatasets import WEBDATASETS, main_metric
from cosmos_eval.results.exchange.record import ImportedResult
from cosmos_eval.results.identity import is_partial, labelled
from cosmos_eval.results.labels import StoredResult, distinct_results, label_results
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.text import difference_text
from cosmos_eval.tasks import metric_of, usable_task
from cosmos_eval.types import Protocol, base_protocol_name, wording_name

Source = Literal["measured", "published", "second-hand", "unverified", "imported"]

DATACOMP = "datacomp"
# Protocols whose published numbers are shown only beside results of the same data sets.
_SHOWN_BESIDE_RESULTS = {"chinese-clip", "clipscore", "coop", "mieb", "sugarcrepe", "winoground"}
MEAN_RECALL = "mean_recall@1"
"""The mean of R@1 from image to text and from text to image, which DataComp publishes."""

_OPENCLIP_TABLE = "f862f86cd92123615a8695ce8bcb6ecc066af452/docs/openclip_results.csv"
_OPENCLIP_URL = f"https://github.com/mlfoundations/open_clip/blob/{_OPENCLIP_TABLE}"
_OPENCLIP_LANGUAGES_URL = (
    "https://github.com/mlfoundations/open_clip/blob/48633c714de0b1b9179b1a03e8777c345ea0d5bb/"
    "docs/openclip_multilingual_retrieval_results.csv"
)
# Of tables of languages, by the set of languages.
_LANGUAGE_URLS = {
    "xm3600": _OPENCLIP_LANGUAGES_URL,
    "xtd10": _OPENCLIP_LANGUAGES_URL,
    "babel-imagenet": (
        "https://github.com/gregor-ge/Babel-ImageNet/blob/317c49896f04bc61d0c7a5dfc6fd4e3b0d8a9430/"
        "results/babel-imagenet"
    ),
}

AMP = " (amp)"
"""The end of a model's label if mixed precision is all that differs from the defaults."""


class Key(NamedTuple):
    """The identity of an entry, which is different for all entries of a leaderboard."""

    protocol: str
    model: str
    source: Source
    url: str
    dataset: str


class Entry(NamedTuple):
    """One model's metrics on one data set, measured here or published elsewhere."""

    # The label of the model's row, such as "clip (student)".
    model: str
    # The name of the task, such as "retrieval".
    task: str
    # The label of the column: results on other files of a data set have another label.
    dataset: str
    # The name of the protocol, that is, of the settings by which numbers are comparable.
    protocol: str
    # The value of each metric, by name.
    metrics: Mapping[str, float]
    # The confidence interval of each metric, by name, with the keys `low` and `high`.
    intervals: Mapping[str, Mapping[str, Any]]
    # Who measured the numbers. An edited result is `unverified`. The result of another tool, whose
    # samples are unknown, is `imported`.
    source: Source
    # Whether only a part of the samples was measured; such results are shown and never ranked.
    partial: bool = False
    # The address of a published number.
    url: str = ""
    # What the model's authors published for the data set and protocol, beside a measured entry.
    published: Mapping[str, float] = MappingProxyType({})
    # The result of a measured entry.
    stored: StoredResult | None = None
    # The titles of the metrics that tables show, by name, if a user chose metrics.
    titles: Mapping[str, str] = MappingProxyType({})

    @property
    def has_other_settings(self) -> bool:
        """True if the result was measured with other settings than the protocol's.

        Examples are a limited number of samples, the student of a distillation, or another form of
        attention. The precision does not count. Such entries have tables and ranks of their own.
        """
        if self.stored is None:
            return False
        precision = self.stored.row.provenance["precision"]
        # The words for all settings that differ from the defaults, such as ("student", "bf16").
        variants = self.stored.identity.variants
        return any(word != precision for word in variants)

    @property
    def has_variant_protocol(self) -> bool:
        """True if the protocol is a variant of another one, and not a headline protocol.

        Examples are `cosmos-pairs100`, which scores pairs of images and texts, and localisation by
        one kind of map for all models, such as `localisation-similarity`, or with other texts, such
        as `cosmos-wording-lower`.
        """
        scores_pairs = base_protocol_name(self.protocol) != self.protocol
        has_one_map = self.task == "loc" and self.protocol != "localisation"
        has_other_wording = wording_name(self.protocol) != ""
        return scores_pairs or has_one_map or has_other_wording

    @property
    def key(self) -> Key:
        """The fields that tell the entry from all others, which also sort entries."""
        return Key(self.protocol, self.model, self.source, self.url, self.dataset)

    @property
    def is_ranked(self) -> bool:
        """True if the numbers count in ranks: complete, and measured here or by the authors."""
        return not self.partial and self.source in ("measured", "published")

    @property
    def dataset_name(self) -> str:
        """The name of the data set, such as "coco" if the label is "coco (revision 1a2b3c4d)"."""
        return self.stored.row.dataset if self.stored else self.dataset

    @property
    def spec_label(self) -> str:
        """The label of the row with the specification in place of a user's name, without a lab.

        It is needed to find published numbers, which name models by their specification. Example:
        "openclip:ViT-B-32/openai (bf16)" if the label is "clip (bf16, lab-a)".
        """
        if self.stored is None:
            return self.model
        words = [*self.stored.row_words, *self.stored.notes]
        return labelled(self.stored.identity.spec, words)

    def delta(self, metric: str, decimals: int | None = None) -> str:
        """Return a metric minus its published value in percentage points, such as "+0.4".

        The text is empty if the model's authors did not publish the metric.

        Args:
            metric: The name of the metric, which is a fraction.
            decimals: The digits after the point; None for one digit.
        """
        published_value = self.published.get(metric)
        if published_value is None:
            return ""
        return difference_text(self.metrics[metric], published_value, decimals)


def headlines_of(entry: Entry) -> Mapping[str, str]:
    """Return the titles of the metrics that tables show of an entry, by the names of the metrics.

    These are the metrics that a user chose, or else the headline metrics of the task. The main
    metric of a webdataset's own benchmark comes first. All metrics are shown if the task is not
    installed or its package is broken.

    Args:
        entry: One model's metrics on one data set.

    Example:
        {"acc1": "top-1", "acc5": "top-5"}
    """
    if entry.titles:
        return entry.titles
    task = usable_task(entry.task)
    if task is None:
        return {metric: metric for metric in sorted(entry.metrics)}

    titles: dict[str, str] = {}
    benchmark_metric = main_metric(entry.dataset_name, entry.protocol)
    if benchmark_metric:
        titles[benchmark_metric] = benchmark_metric
    # A headline metric that is there already keeps its place and gets the title of the task.
    titles.update(task.headlines)
    return titles


def entries_of_rows(rows: Iterable[ResultRow]) -> list[Entry]:
    """Return the entries of results that are not stored in files, such as results of tests.

    Raises UsageError if two results of one model on one data set differ.
    """
    return entries_of(label_results(StoredResult(Path(), row) for row in rows))


def entries_of(results: Iterable[StoredResult]) -> list[Entry]:
    """Return one entry per distinct result, with the numbers that the model's authors published.

    An edited result has the source `unverified`, so that it has no rank. A result that repeats an
    equal one has no entry.

    Args:
        results: The results, which `label_results` labelled.

    Returns:
        The entries, sorted by key.

    Raises:
        UsageError: If two results of one model on one data set differ.
    """
    entries = []
    for result in distinct_results(results):
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
        # Most authors measured in mixed precision. Their numbers are compared with results in mixed
        # precision and in float32, so the precision is cut off the label. OpenCLIP loads weights
        # that were trained with QuickGELU by the name of the architecture with or without
        # `-quickgelu`.
        model = entry.spec_label.removesuffix(AMP).replace("-quickgelu/", "/")
        published_metrics = _published_metrics().get((model, row.dataset, row.protocol), {})
        entries.append(entry._replace(published=published_metrics))
    return sorted(entries, key=lambda entry: entry.key)


def imported_entries(results: Iterable[ImportedResult]) -> list[Entry]:
    """Return one entry per result of another tool, sorted by key.

    Tables show the headline metrics, or all metrics of a result that has none, such as R@5.
    """
    entries = []
    for result in results:
        entry = Entry(
            model=result.model,
            task=result.task,
            dataset=result.dataset,
            protocol=result.protocol,
            metrics=result.metrics,
            intervals={},
            source="imported",
        )
        has_headline = any(name in result.metrics for name in headlines_of(entry))
        if not has_headline:
            titles = {name: metric_of(result.task, name).label or name for name in result.metrics}
            entry = entry._replace(titles=titles)
        entries.append(entry)
    return sorted(entries, key=lambda entry: entry.key)


@cache
def read_published_entries() -> tuple[Entry, ...]:
    """Return the entries of all numbers that others published, sorted by key.

    They are read from the CSV files of this package. The source of an entry is `published` if it is
    a page of those who measured the number, or names such a page, `second-hand` if somebody else
    quotes a table of the paper, and `unverified` otherwise.
    """
    entries: list[Entry] = []
    for file in files("cosmos_eval.protocols").joinpath("published").iterdir():
        lines = csv.DictReader(file.read_text("utf-8").splitlines())
        has_line_per_metric = "metric" in (lines.fieldnames or ())
        entries += _entries_of_lines(lines) if has_line_per_metric else _entries_of_columns(lines)
    return tuple(sorted(entries, key=lambda entry: entry.key))


def _entries_of_lines(lines: Iterable[Mapping[str, str]]) -> Iterator[Entry]:
    """Yield the entries of a file with one line for each metric.

    A line has the columns model, task, dataset, protocol, source, url, metric and percent. The
    metrics of a model, data set and source are joined.
    """
    key_columns = ("model", "task", "dataset", "protocol", "source", "url")
    metrics_by_entry: dict[tuple[str, ...], dict[str, float]] = {}
    for line in lines:
        key = tuple(line[column] for column in key_columns)
        # The sources give at most two decimals of a percentage.
        value = round(float(line["percent"]) / 100, 4)
        metrics_by_entry.setdefault(key, {})[line["metric"]] = value
    for (model, task, dataset, protocol, source, url), metrics in metrics_by_entry.items():
        yield Entry(
            model=model,
            task=task,
            dataset=dataset,
            protocol=protocol,
            metrics=metrics,
            intervals={},
            source=cast(Source, source),
            url=url,
        )


class _ColumnOfNumbers(NamedTuple):
    """A column of one of OpenCLIP's tables, which has the numbers of all models on a data set."""

    # The name of the column, such as `xm3600-de text_to_image_R@1`.
    name: str
    dataset: str
    metric: str
    protocol: Protocol
    url: str


def _entries_of_columns(lines: csv.DictReader[str]) -> Iterator[Entry]:
    """Yield the entries of a file with one line for each model, and one column for each number.

    These are tables of DataComp's data sets and of languages. Numbers are fractions.

    Example:
        The line "openclip:ViT-H-14/dfn5b,0.8344,..." under the header "model,wds/imagenet1k,..."
        gives an entry of this model and the data set "wds/imagenet1k" with {"acc1": 0.8344}.
    """
    columns_by_dataset: dict[str, list[_ColumnOfNumbers]] = {}
    for name in lines.fieldnames or ():
        column = _column_of_numbers(name)
        if column is not None:
            columns_by_dataset.setdefault(column.dataset, []).append(column)
    for line in lines:
        for dataset, columns in columns_by_dataset.items():
            protocol = columns[0].protocol
            yield Entry(
                model=line["model"],
                task=protocol.task,
                dataset=dataset,
                protocol=protocol.protocol_name,
                metrics={column.metric: float(line[column.name]) for column in columns},
                intervals={},
                source="published",
                url=columns[0].url,
            )


def _column_of_numbers(name: str) -> _ColumnOfNumbers | None:
    """Return what a column holds by its name, or None for a column without numbers of data sets.

    A column is named after a webdataset, whose main metric it holds, or after a language of a data
    set and a metric: `xm3600-de text_to_image_R@1`.
    """
    dataset, _, metric = name.partition(" ")
    language_protocol = language_protocols().get(dataset)
    if language_protocol is not None:
        url = _LANGUAGE_URLS[str(language_protocol.language_set)]
        return _ColumnOfNumbers(name, dataset, metric, language_protocol, url)
    protocol = WEBDATASETS.get(name, {}).get(DATACOMP)
    if protocol is None:
        return None
    main = protocol.main_metric or MEAN_RECALL
    return _ColumnOfNumbers(name, name, main, protocol, _OPENCLIP_URL)


def published_beside(entries: Iterable[Entry]) -> list[Entry]:
    """Return the published entries that are shown beside the entries of results.

    These are all entries, with two exceptions. DataComp's numbers of 112 models are left out if no
    result has DataComp's protocol. Numbers on languages, few shots, caption selection and captions
    rated by people are left out if no result has the same data set.
    """
    entries = list(entries)
    has_datacomp = any(entry.protocol == DATACOMP for entry in entries)
    measured_datasets = {entry.dataset_name for entry in entries}
    shown_entries = []
    for entry in read_published_entries():
        is_shown = has_datacomp or entry.protocol != DATACOMP
        is_of_language = language_of(entry.dataset) is not None
        if is_of_language or entry.protocol in _SHOWN_BESIDE_RESULTS:
            is_shown = entry.dataset in measured_datasets
        if is_shown:
            shown_entries.append(entry)
    return shown_entries


@cache
def _published_metrics() -> Mapping[tuple[str, str, str], Mapping[str, float]]:
    """Return the metrics that the authors of models published, by model, data set and protocol.

    Example of an item:
        ("openclip:ViT-B-16/laion400m_e32", "imagenet1k", "clip-benchmark") -> {"acc1": 0.6705}
    """
    metrics = {}
    for entry in read_published_entries():
        if entry.source == "published":
            metrics[entry.model, entry.dataset, entry.protocol] = entry.metrics
    return metrics
