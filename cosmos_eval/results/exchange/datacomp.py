"""DataComp's eval_results.jsonl: one line per data set, for one model that the file does not name.

Its evaluate.py writes the keys key, dataset and metrics, and the main metric a second time as
`main_metric` (github.com/mlfoundations/datacomp, commit 4a8df19). Lines written here also have the
key `model`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosmos_eval.protocols.webdatasets import WEBDATASETS
from cosmos_eval.results.exchange import names
from cosmos_eval.results.exchange.record import (
    Format,
    ImportedFile,
    ImportedResult,
    WrittenFiles,
    notes_of_writing,
    parse_object_lines,
    read_metrics,
    write_file,
)
from cosmos_eval.results.filenames import safe_name
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.leaderboard.entries import MEAN_RECALL
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.text import json_text
from cosmos_eval.types import UsageError

NAME = "datacomp"
FILE = "eval_results.jsonl"
_FILES = (FILE, "results.jsonl")
"""The names that DataComp gives to files, the second one in repositories of the hub."""

_MAIN_METRIC = "main_metric"
_DIRECTIONS = ("text_to_image_R@1", "image_to_text_R@1")
_KEYS = ("key", "dataset", "metrics", "model")
_TASKS = {
    "retrieval": "retrieval",
    "misc/winogavil": "assoc",
    "fairness/fairface": "faces",
    "fairness/utkface": "faces",
}
"""The tasks of data sets that are not of classification, by the beginning of their keys."""


def read(text: str, path: Path) -> ImportedFile | None:
    """Return the results in a file of DataComp; None for another text.

    The model is called by the key `model` or else after the folder of the file. The last one of
    several lines for a data set counts, as in DataComp.
    """
    records, other_lines = parse_object_lines(text)
    if not any(_is_record(record) for record in records):
        return None
    results = {}
    unread = [f"line {number}" for number in other_lines]
    unknown_datasets = []
    for record in records:
        if not _is_record(record):
            unread.append("a line without key, dataset and metrics")
            continue
        unread += sorted(record.keys() - set(_KEYS))
        dataset = f"wds/{record['key']}"
        if names.dataset_there(NAME, dataset, NAME) is None:
            unknown_datasets.append(dataset)
        task = _task_of(record["key"])
        metrics = dict(record["metrics"])
        metrics.pop(_MAIN_METRIC, None)
        values, unread_metrics = read_metrics(
            NAME, task, dataset, metrics, written_here="model" in record
        )
        unread += unread_metrics
        if all(name in values for name in _DIRECTIONS):
            values.pop(MEAN_RECALL, None)  # their mean
        result = ImportedResult(
            path=path,
            model=str(record.get("model") or _name_of_place(path)),
            task=task,
            dataset=dataset,
            protocol=NAME,
            metrics=values,
        )
        if result.cell in results:
            unread.append(f"an earlier line of {record['key']}")
        results[result.cell] = result
    return ImportedFile(list(results.values()), unread, unknown_datasets)


def _is_record(record: Mapping[str, Any]) -> bool:
    """Return whether the line of a file has the fields that DataComp writes."""
    has_names = isinstance(record.get("key"), str) and isinstance(record.get("dataset"), str)
    return has_names and isinstance(record.get("metrics"), dict)


def _task_of(key: str) -> str:
    """Return the task here of a key in tasklist.yml, such as `retrieval/flickr30k`."""
    for beginning, task in _TASKS.items():
        if key.startswith(beginning):
            return task
    return "cls"


def _name_of_place(path: Path) -> str:
    """Return what a model is called after: the folder of its file, or a file with another name."""
    return path.absolute().parent.name if path.name in _FILES else path.stem


def write(results: Sequence[StoredResult], output: Path) -> WrittenFiles:
    """Write results of DataComp's data sets as DataComp does.

    Args:
        results: Distinct results.
        output: A .jsonl file for one model, or a folder for one file of each model.

    Raises:
        UsageError: If no result has the protocol `datacomp`, if there are several models for one
            file, or if files cannot be written.
    """
    chosen_results = [
        result
        for result in results
        if names.dataset_there(NAME, result.row.dataset, result.row.protocol) is not None
    ]
    reason = "data sets or protocols that it does not have"
    notes = notes_of_writing("DataComp", results, chosen_results, reason)
    lines_by_model: dict[str, list[str]] = {}
    for result in chosen_results:
        lines = lines_by_model.setdefault(result.label, [])
        lines.append(json_text(_to_record(result)) + "\n")

    is_file = output.suffix == ".jsonl"
    if is_file and len(lines_by_model) > 1:
        models = ", ".join(sorted(lines_by_model))
        raise UsageError(f"{output} can hold one model, not {models}: name a folder with --output")
    paths = []
    for model, lines in sorted(lines_by_model.items()):
        path = output if is_file else output / safe_name(model) / FILE
        paths.append(write_file(path, "".join(lines)))
    return WrittenFiles(paths, notes)


def _to_record(result: StoredResult) -> dict[str, Any]:
    """Return a result as a line of DataComp's file."""
    row = result.row
    metrics: dict[str, float | None] = {}
    for name, value in metrics_with_mean(row).items():
        metrics[names.metric_there(NAME, row.task, row.dataset, name) or name] = value
    main_metric = main_metric_here(row.dataset)
    metrics[_MAIN_METRIC] = metrics_with_mean(row).get(main_metric or "")
    return {
        "key": row.dataset.removeprefix("wds/"),
        "dataset": names.dataset_there(NAME, row.dataset, NAME),
        "metrics": metrics,
        "model": result.label,
    }


def metrics_with_mean(row: ResultRow) -> Mapping[str, float]:
    """Return the metrics of a result, with the mean of R@1 for DataComp's sets of retrieval.

    It is the mean of both directions, like in eval_utils/retr_eval.py.
    """
    if row.task != "retrieval" or row.protocol != NAME:
        return row.metrics
    metrics = dict(row.metrics)
    metrics[MEAN_RECALL] = 0.5 * sum(row.metrics[name] for name in _DIRECTIONS)
    return metrics


def main_metric_here(dataset: str) -> str | None:
    """Return the main metric of a data set of DataComp, such as `acc1`; None if it has none."""
    protocol = WEBDATASETS[dataset].get(NAME)
    if protocol is None:
        return None
    return MEAN_RECALL if protocol.task == "retrieval" else protocol.main_metric


FORMAT = Format(NAME, "DataComp", (".jsonl",), read, write)
