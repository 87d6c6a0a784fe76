"""Results, and the samples of a single result, as a pandas.DataFrame, CSV or Parquet."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos_core.utils.extras import missing_package
from cosmos_core.utils.files import write_atomically
from cosmos_eval.data.readers import path_of
from cosmos_eval.results import RESULTS
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.identity import training_of
from cosmos_eval.results.labels import StoredResult, repeat_notes, result_warnings
from cosmos_eval.results.store import read_files, result_paths, samples_of
from cosmos_eval.results.text import csv_text, one_line
from cosmos_eval.tasks import task_named
from cosmos_eval.tasks.task import NAME
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("model", "weights", "random", "task", "dataset", "protocol", "variant"),
    *("metric", "value", "low", "high", "method", "n_samples"),
    *("version", "commit", "dirty", "utc", "file"),
    *("weights_sha256", "code_sha256", "unchanged", "group", "seed"),
    *("name", "model_sha256"),
)
"""The columns of `load_results`."""


def load_results(*places: str | Path) -> pd.DataFrame:
    """Return results as a table with one row per metric.

    `places` are result files and folders, which are searched with the folders within them. Without
    places it is `runs/eval` in the current folder, where `cosmos-eval run` writes results. The
    columns are COLUMNS, among them

    - `variant`: what differs from the default settings
    - `low`, `high`: the ends of the 95% interval by `method`
    - `unchanged`: whether the file and its samples are what was written; None if that is unknown
    - `group`, `seed`: the group and seed of the model's training, None if unknown
    - `name`: the label of the model's row in tables
    - `model_sha256`: the hash of everything that makes a model the same: weights, code with its
      arguments, architecture, auxiliary encoder

    Warns of edited results, and of different models of the same name.

    Raises:
        UsageError: For a folder without results, for files that are not results, and for values
            that are not paths.
    """
    results = read_places(places)
    return table_of(results)


def read_places(places: Sequence[str | Path]) -> list[StoredResult]:
    """Read results for a public function, and warn of faulty ones at the line that calls it.

    Args:
        places: Result files and folders, which are searched with the folders within them. Without
            places it is `runs/eval` in the current folder.

    Raises:
        UsageError: For a folder without results, for files that are not results, and for values
            that are not paths.
    """
    paths = []
    for place in places or (RESULTS,):
        paths += result_paths(path_of(place, "a place of results"))
    results = read_checked(paths)
    for line in [*result_warnings(results), *repeat_notes(results)]:
        # 1 is this function, 2 the public function, and 3 the user's line that calls it.
        warnings.warn(one_line(line), stacklevel=3)
    return results


def table_of(results: Iterable[StoredResult]) -> pd.DataFrame:
    """Return results as a table with one row per metric, see `load_results`."""
    import pandas as pd

    records = []
    for result in results:
        common_values = _common_values(result)
        for metric, value in sorted(result.row.metrics.items()):
            values = dict(common_values)
            values.update(result.row.intervals.get(metric, {}))  # `low`, `high` and `method`
            values["metric"] = metric
            values["value"] = value
            records.append([values.get(column) for column in COLUMNS])
    table = pd.DataFrame(records, columns=list(COLUMNS))
    # A column of integers with unknown values, which the usual type would turn into floats.
    return table.astype({"seed": "Int64"})


def _common_values(result: StoredResult) -> dict[str, Any]:
    """Return the values that are the same for all metrics of a result, by column.

    The dictionary also has values of which the table has no column.
    """
    row = result.row
    training = training_of(row)
    # Many columns have the names of fields of the result.
    values: dict[str, Any] = {}
    values.update(row.provenance)
    values.update(row.model)
    values.update(vars(row))
    # Fields of records within the result, and values that follow from it.
    values["model"] = row.model["spec"]
    values["group"] = training.get("group")
    values["seed"] = training.get("seed")
    values["variant"] = ", ".join(result.identity.variants)
    # A table is UTF-8, but a path need not be.
    values["file"] = os.fsencode(result.path).decode(errors="backslashreplace")
    values["unchanged"] = False if result.is_edited else result.unchanged
    values["model_sha256"] = result.identity.sha256
    values["name"] = result.label
    return values


def load_samples(result: str | Path) -> pd.DataFrame:
    """Return the samples of a stored result as a table, in the order of the data set.

    `result` is its JSON file, such as those in the column `file` of `load_results`. There is one
    row per image. Retrieval has one row per query; localisation and tasks with several classes per
    image have one row per image and class. The columns are `image`, the image's name in the data
    set, which results of older versions lack, and by task

    - cls: `label`, `prediction`, `score` (the probability of the prediction), `rank` of the label
      (missing below the fifth), `group`; boxes: also `area`
    - retrieval: `query` (image or caption), `caption` (its number within the image), `rank` of the
      image's best caption, or of the caption's image. Predictions and scores are missing, since
      results store neither similarities nor the first of the ranking.
    - seg: `pixel_accuracy`, `mIoU`
    - select: `correct`, `subset`, `chance`...; assoc: `cue`, `jaccard`, `candidates`
    - multilabel: `class`, `label`, `score`, `rank` of the image for the class
    - loc: `class`, `thing_pixels`, `mass`, `hit`, `auc`, `other_names`
    - probe: `label`, `linear`, `neighbours`; faces: `age`, `age_prediction`...

    Raises UsageError for a file that is not a result, for samples that were edited or are missing,
    and for a task that is not installed.
    """
    import pandas as pd

    path = path_of(result, "result")
    stored = read_files(path)
    samples = samples_of(path, stored)
    task = task_named(stored.row.task)
    columns = dict(task.columns(samples))

    # The names of images come first.
    has_image_names = NAME in samples
    if has_image_names and "image" not in columns:
        image_names = columns.pop(NAME, samples[NAME])
        columns = {"image": image_names, **columns}

    table = pd.DataFrame(columns)
    integer_columns = [name for name in ("rank", "caption") if name in table]
    return table.astype(dict.fromkeys(integer_columns, "Int64"))


def export(table: pd.DataFrame, path: Path, format: str | None = None) -> int:
    """Write a table to a CSV or Parquet file, with exact floats.

    Args:
        table: The table.
        path: The file.
        format: `csv` or `parquet`; None: the suffix of the file decides.

    Returns:
        The number of texts that were escaped in a CSV file, see `csv_of`; 0 for Parquet.

    Raises:
        UsageError: For another suffix, if pyarrow is missing, and if the file cannot be written.
    """
    n_escaped = 0
    suffix = f".{format}" if format else path.suffix
    if suffix == ".csv":
        text, n_escaped = csv_of(table)
        content = text.encode()
    elif suffix == ".parquet":
        try:
            content = table.to_parquet(None, engine="pyarrow", index=False)
        except ImportError as error:
            message = missing_package("Parquet", "pyarrow", "parquet")
            raise UsageError(f"{message}, or export to .csv") from error
    else:
        raise UsageError(
            f"cannot export to '{path.suffix}' files: end --output in .csv or .parquet, or name "
            "the --format"
        )
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    return n_escaped


def csv_of(table: pd.DataFrame, signed: Sequence[str] = ()) -> tuple[str, int]:
    """Return a table as CSV, and the number of texts in it that were escaped.

    Texts are escaped so that no spreadsheet takes them for formulas. Numbers stay as they are.

    Args:
        table: The table.
        signed: The columns whose texts stay as they are, since they are numbers that may begin with
            a sign, such as "+0.4".
    """
    text_columns = table.select_dtypes(exclude="number").drop(columns=list(signed))
    escaped_columns = text_columns.map(_escape_csv_value)
    is_escaped = (escaped_columns != text_columns) & text_columns.notna()
    content = table.assign(**escaped_columns).to_csv(index=False, lineterminator="\n")
    return content, int(is_escaped.to_numpy().sum())


def _escape_csv_value(value: Any) -> Any:
    """Return a text with escapes for CSV, and any other value as it is."""
    return csv_text(value) if isinstance(value, str) else value
