"""Common parts of the modules of formats: imported results, and how files of them are read."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_core.utils.files import write_atomically
from cosmos_core.utils.text import first_of
from cosmos_eval.results.exchange import names
from cosmos_eval.results.export import csv_of
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.tasks import metric_of, usable_task
from cosmos_eval.types import UsageError

OPENCLIP_PREFIX = "openclip:"
_MOST_NAMES = 5  # that a note lists


@dataclass(frozen=True)
class ImportedResult:
    """The metrics of one model on one data set that another tool wrote to a file.

    It has no samples, so that its metrics can neither be verified nor tested.
    """

    path: Path
    # The name of the model, such as "openclip:ViT-B-32/openai".
    model: str
    # The name of the task, such as "retrieval". The task may be unknown to this package.
    task: str
    # The name of the data set here, or the tool's own name of an unknown one.
    dataset: str
    protocol: str
    # The value of each metric, by its name here.
    metrics: Mapping[str, float]

    @property
    def cell(self) -> tuple[str, str, str]:
        """The place of the result in tables: the labels of its row and column, and its protocol."""
        return self.model, self.dataset, self.protocol


class ImportedFile(NamedTuple):
    """The content of a file of another tool."""

    results: Sequence[ImportedResult]
    # The names of keys, columns and metrics that were not read, perhaps with reasons in brackets.
    unread: Sequence[str] = ()
    # The names of data sets that this package does not know, which the results keep.
    unknown_datasets: Sequence[str] = ()
    # How the file was read, if readers of the numbers should know, one phrase each.
    notes: Sequence[str] = ()


class WrittenFiles(NamedTuple):
    """The files that an export wrote."""

    paths: Sequence[Path]
    # Which results the format cannot hold, one line each.
    notes: Sequence[str] = ()


class Format(NamedTuple):
    """A file format of another tool."""

    # The name that `export --format` takes, such as "clip-benchmark".
    name: str
    # The name of the tool, such as "CLIP Benchmark".
    tool: str
    # The suffixes of files that a folder is searched for, such as (".json",).
    suffixes: tuple[str, ...]
    # Returns the results in the text of a file; None for a text of another format.
    read: Callable[[str, Path], ImportedFile | None]
    # Writes distinct results to a file or a folder. Raises UsageError if it can hold none of them.
    write: Callable[[Sequence[StoredResult], Path], WrittenFiles]


def parse_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a text holds, or None if it holds something else."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def parse_object_lines(text: str) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the JSON objects in the lines of a text, and the numbers of lines that hold none.

    Lines are counted from 1. Empty lines are left out of both.

    Example: 'a\\n{"key": "x"}' -> ([{"key": "x"}], [1]).
    """
    records = []
    other_lines = []
    for number, line in enumerate(text.split("\n"), start=1):
        record = parse_object(line)
        if record is not None:
            records.append(record)
        elif line.strip():
            other_lines.append(number)
    return records, other_lines


def parse_table(text: str) -> list[dict[str, str]]:
    """Return the rows of a CSV text as dictionaries by column; the list is empty without rows.

    A row with more cells than columns loses the further cells. Missing cells are empty.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), restkey="", restval=""))
    except csv.Error:
        return []
    return [{name: cell for name, cell in row.items() if name} for row in rows]


def read_metrics(
    format_name: str,
    task: str,
    dataset: str,
    metrics: Mapping[str, Any],
    *,
    written_here: bool = False,
) -> tuple[dict[str, float], list[str]]:
    """Return the metrics of a record of another tool, by their names here.

    Metrics of a task that this package does not have keep their names. A metric without a value,
    which is None, empty or NaN, is left out.

    Args:
        format_name: The name of the format.
        task: The name of the task here.
        dataset: The name of the data set here.
        metrics: The values by the names of the tool. They may be texts.
        written_here: True if cosmos-eval wrote the file, so that metrics of groups such as
            `acc1_urban`, which other tools have none of, are read.

    Returns:
        The metrics, and a text for each metric that was not read: its name, with a reason if its
        value is impossible.

    Example:
        `read_metrics("clip-benchmark", "multilabel", "wds/voc2007_multilabel",
        {"mean_average_precision": 0.75, "epochs": 10})` returns `({"mAP": 0.75}, ["epochs"])`.
    """
    values = {}
    unread = []
    for name, content in metrics.items():
        metric_name = names.metric_here(format_name, task, dataset, name)
        if metric_name is None and _is_name_here(task, name, written_here=written_here):
            metric_name = name
        value, fault = read_value(task, metric_name or name, content)
        if fault:
            unread.append(f"{name} ({fault})")
        elif value is not None and metric_name is None:
            unread.append(name)
        elif value is not None and metric_name is not None:
            values[metric_name] = value
    return values, unread


def _is_name_here(task: str, name: str, *, written_here: bool) -> bool:
    """Return whether a file that may be of another tool names a metric as this package does.

    All names of a task that this package does not have count.
    """
    known_task = usable_task(task)
    if known_task is None:
        return True
    return known_task.has_metric(name) if written_here else name in known_task.by_name


def read_value(task: str, metric: str, content: Any) -> tuple[float | None, str]:
    """Return the value of a metric, which may be written as a text, and its fault.

    Args:
        task: The name of the task here.
        metric: The name of the metric here.
        content: The value in the file. None, NaN and an empty text stand for no value.

    Returns:
        The value, which is None if there is none or if it is impossible, and the fault, which is
        empty if there is none.

    Example: ("cls", "acc1", "0.25") -> (0.25, ""); ("cls", "acc1", 67.05) ->
        (None, "67.05 is not a fraction, which is from 0 to 1").
    """
    if content is None or content == "":
        return None, ""
    if isinstance(content, bool) or not isinstance(content, int | float | str):
        return None, "not a number"
    try:
        value = float(content)
    except (ValueError, OverflowError):
        return None, "not a number"
    if math.isnan(value):
        return None, ""
    if math.isinf(value):
        return None, "not a finite number"
    fault = metric_of(task, metric).fault(value).partition(";")[0]
    return (None if fault else value), fault


def write_metrics(format_name: str, result: StoredResult) -> dict[str, float]:
    """Return the metrics of a result by the names of a tool.

    Metrics that the tool does not have keep their names.
    """
    row = result.row
    metrics = {}
    for name, value in row.metrics.items():
        foreign_name = names.metric_there(format_name, row.task, row.dataset, name)
        metrics[foreign_name or name] = value
    return metrics


def notes_of_writing(
    tool: str, results: Sequence[StoredResult], written_results: Sequence[StoredResult], reason: str
) -> list[str]:
    """Return a note on the results that an export leaves out, or an empty list if there are none.

    Args:
        tool: The name of the tool.
        results: All results.
        written_results: The results that the format can hold.
        reason: A description of the other results, such as "other tasks".

    Raises:
        UsageError: If the format can hold none of the results.
    """
    left_out = [result for result in results if result not in written_results]
    if not left_out:
        return []
    cells = {f"{result.dataset} ({result.row.protocol})" for result in left_out}
    datasets = first_of(sorted(cells), _MOST_NAMES)
    note = f"results not written for {tool}: {len(left_out)}, of {reason}: {datasets}"
    if not written_results:
        raise UsageError(f"nothing to write: {note}")
    return [note]


def write_file(path: Path, text: str) -> Path:
    """Write a text file, and return its path. Raises UsageError if it cannot be written."""
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    return path


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV with exact floats. The columns are the keys of all rows."""
    import pandas as pd

    content, _ = csv_of(pd.DataFrame(rows))
    return content


def model_of_openclip(architecture: str, pretrained: str) -> str:
    """Return the name here of a model that a tool names by architecture and weights.

    Example: ("ViT-B-32", "openai") -> "openclip:ViT-B-32/openai"; ("scenes-clip", "") ->
    "scenes-clip".
    """
    return f"{OPENCLIP_PREFIX}{architecture}/{pretrained}" if pretrained else architecture


def openclip_names(model: str) -> tuple[str, str]:
    """Return the architecture and the weights by which a tool names a model.

    Only models of OpenCLIP have both. Another model has its name, and no weights.

    Example: "openclip:ViT-B-32/openai" -> ("ViT-B-32", "openai"); "scenes-clip" ->
    ("scenes-clip", "").
    """
    architecture, separator, pretrained = model.removeprefix(OPENCLIP_PREFIX).partition("/")
    if model.startswith(OPENCLIP_PREFIX) and separator:
        return architecture, pretrained
    return model, ""
