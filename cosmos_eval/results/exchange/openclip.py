"""OpenCLIP's tables of results: docs/openclip_results.csv, and the one of retrieval beside it.

A row has a model, as `name` and `pretrained`. openclip_results.csv has a column with the main
metric of each of DataComp's data sets, such as "ImageNet 1k", and openclip_retrieval_results.csv
has one per data set and metric, such as "Flickr image retr. R@1"
(github.com/mlfoundations/open_clip, commit f862f86). Other columns, such as averages, are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from cosmos_eval.protocols.webdatasets import WEBDATASETS
from cosmos_eval.results.exchange import datacomp, names
from cosmos_eval.results.exchange.record import (
    Format,
    ImportedFile,
    ImportedResult,
    WrittenFiles,
    model_of_openclip,
    notes_of_writing,
    openclip_names,
    parse_table,
    read_value,
    table_text,
    write_file,
)
from cosmos_eval.results.labels import StoredResult

NAME = "openclip"
MAIN_TABLE = "openclip_results.csv"
RETRIEVAL_TABLE = "openclip_retrieval_results.csv"
_MODEL_COLUMNS = ("name", "pretrained")
_FIRST_COLUMN = "ImageNet 1k"
_RECALLS = (1, 5, 10)


class _Column(NamedTuple):
    """A column of a table: a metric on a data set of DataComp, by their names here."""

    title: str
    dataset: str
    task: str
    metric: str


def read(text: str, path: Path) -> ImportedFile | None:
    """Return the results in a table of OpenCLIP; None for another text."""
    rows = parse_table(text)
    if not rows or not all(title in rows[0] for title in _MODEL_COLUMNS):
        return None
    columns = []
    unread = []
    for title in rows[0]:
        column = _find_column(title)
        if column is not None:
            columns.append(column)
        elif title not in _MODEL_COLUMNS:
            unread.append(title)
    if not columns:
        return None

    results = []
    for row in rows:
        row_results, faults = _read_row(row, columns, path)
        results += row_results
        unread += faults
    return ImportedFile(results, unread)


def _read_row(
    row: Mapping[str, str], columns: Sequence[_Column], path: Path
) -> tuple[list[ImportedResult], list[str]]:
    """Return the results of a model in a row of a table, and what was not read.

    Args:
        row: The cells by the titles of columns.
        columns: The columns that hold metrics.
        path: The file of the table.
    """
    model = model_of_openclip(row["name"], row["pretrained"])
    metrics_by_dataset: dict[tuple[str, str], dict[str, float]] = {}
    faults = []
    for column in columns:
        value, fault = read_value(column.task, column.metric, row[column.title])
        if fault:
            faults.append(f"{column.title} of {model} ({fault})")
        if value is not None:
            metrics = metrics_by_dataset.setdefault((column.task, column.dataset), {})
            metrics[column.metric] = value
    results = []
    for (task, dataset), metrics in metrics_by_dataset.items():
        results.append(ImportedResult(path, model, task, dataset, datacomp.NAME, metrics))
    return results, faults


def _find_column(title: str) -> _Column | None:
    """Return the column with a title, such as "ImageNet 1k"; None for one without a metric."""
    main_columns = {column.title: column for column in _main_columns()}
    if title in main_columns:
        return main_columns[title]
    dataset_title, _, metric_title = title.partition(" ")
    column = main_columns.get(dataset_title)
    if column is None:
        return None
    metric = names.metric_here(NAME, column.task, column.dataset, metric_title)
    return None if metric is None else column._replace(title=title, metric=metric)


def _main_columns() -> list[_Column]:
    """Return the columns of openclip_results.csv: a column with the main metric per data set."""
    columns = []
    for dataset, protocol_by_name in WEBDATASETS.items():
        title = names.dataset_there(datacomp.NAME, dataset, datacomp.NAME)
        metric = datacomp.main_metric_here(dataset)
        if title is not None and metric is not None:
            task = protocol_by_name[datacomp.NAME].task
            columns.append(_Column(title, dataset, task, metric))
    return sorted(columns, key=lambda column: column.title != _FIRST_COLUMN)


def write(results: Sequence[StoredResult], output: Path) -> WrittenFiles:
    """Write results of DataComp's data sets as the tables of OpenCLIP.

    Args:
        results: Distinct results.
        output: The folder for both tables. The table of retrieval is left out if it is empty.

    Raises:
        UsageError: If no result has the protocol `datacomp`, or if files cannot be written.
    """
    main_columns = _main_columns()
    datasets = [column.dataset for column in main_columns]
    chosen_results = []
    for result in results:
        if result.row.protocol == datacomp.NAME and result.row.dataset in datasets:
            chosen_results.append(result)
    reason = "data sets or protocols that it does not have"
    notes = notes_of_writing("OpenCLIP", results, chosen_results, reason)

    metrics_by_model: dict[str, dict[tuple[str, str], float]] = {}
    for result in chosen_results:
        metrics = metrics_by_model.setdefault(result.label, {})
        for metric, value in datacomp.metrics_with_mean(result.row).items():
            metrics[result.row.dataset, metric] = value
    paths = [write_file(output / MAIN_TABLE, _to_table(metrics_by_model, main_columns))]
    retrieval_columns = []
    for column in main_columns:
        retrieval_columns += _retrieval_columns(column)
    if any(result.row.task in ("retrieval", "assoc") for result in chosen_results):
        table = _to_table(metrics_by_model, retrieval_columns)
        paths.append(write_file(output / RETRIEVAL_TABLE, table))
    return WrittenFiles(paths, notes)


def _retrieval_columns(column: _Column) -> list[_Column]:
    """Return the columns of the table of retrieval for the data set of a main column.

    Data sets of classification have none there.
    """
    if column.task == "retrieval":
        directions = ("text_to_image_R@", "image_to_text_R@")
        metrics = [f"{direction}{k}" for direction in directions for k in _RECALLS]
    else:
        metrics = ["jaccard", "jaccard_5-6", "jaccard_10-12"] if column.task == "assoc" else []
    columns = []
    for metric in metrics:
        title = names.metric_there(NAME, column.task, column.dataset, metric)
        columns.append(column._replace(title=f"{column.title} {title}", metric=metric))
    return columns


def _to_table(
    metrics_by_model: Mapping[str, Mapping[tuple[str, str], float]], columns: Sequence[_Column]
) -> str:
    """Return a table with a row per model. A number that a model lacks is an empty cell.

    The main table has the mean of all its columns for models that have all numbers.

    Args:
        metrics_by_model: The metrics of each model, by data set and metric.
        columns: The columns of the table.
    """
    average_title = f"Average perf. on {len(columns)} datasets"
    is_main = columns[0].title == _FIRST_COLUMN
    rows = []
    for model, metrics in metrics_by_model.items():
        values = [metrics.get((column.dataset, column.metric)) for column in columns]
        row: dict[str, str | float | None] = {}
        row["name"], row["pretrained"] = openclip_names(model)
        if is_main:
            known_values = [value for value in values if value is not None]
            is_complete = len(known_values) == len(values)
            row[average_title] = fmean(known_values) if is_complete else None
        for column, value in zip(columns, values, strict=True):
            row[column.title] = value
        rows.append(row)
    return table_text(rows)


FORMAT = Format(NAME, "OpenCLIP", (".csv",), read, write)
