"""Results as one table: a pandas.DataFrame, CSV or Parquet."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_core.utils.files import write_atomically
from cosmos_eval.results import RESULTS
from cosmos_eval.results.labels import (
    Stored,
    model_sha256,
    repeats_of,
    variants,
    warnings_of,
)
from cosmos_eval.results.store import read_stored, result_paths
from cosmos_eval.results.text import csv_text, one_line
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
"""Columns of `load_results`."""


def load_results(*places: str | Path) -> pd.DataFrame:
    """Return results as a table with one row per metric, from folders, those in them, and files;
    without places from `runs/eval` in the current folder, where `cosmos-eval run` writes them.
    Columns: COLUMNS; `variant` lists what differs from the defaults, `low` and `high` are the 95%
    interval by `method`, `unchanged` says whether the file is what was written (None: unknown);
    `group` and `seed` are those of the model's training, None where unknown. `name` is what tables
    call the model, and `model_sha256` the hash of all that makes it the same (weights, code and
    arguments, architecture, auxiliary encoder): results with equal ones are of one model.
    Warns of edited results, and of different models of the same name. Raises UsageError for a
    folder without results and for files that are not results."""
    paths = [path for place in places or (RESULTS,) for path in result_paths(Path(place))]
    results = read_stored(paths)
    for line in [*warnings_of(results), *repeats_of(results)]:
        warnings.warn(one_line(line), stacklevel=2)
    return table_of(results)


def table_of(results: Iterable[Stored]) -> pd.DataFrame:
    """Return the table that `load_results` returns."""
    import pandas as pd

    records = []
    for one in results:
        row = one.row
        # A table is UTF-8, a path need not be.
        file = os.fsencode(one.path).decode(errors="backslashreplace")
        training = row.model.get("training", {})
        common = {**row.provenance, **row.model, **vars(row), "model": row.model["spec"]}
        common |= {"group": training.get("group"), "seed": training.get("seed")}
        common |= {"variant": ", ".join(variants(row)), "file": file}
        common |= {"unchanged": one.unchanged, "model_sha256": model_sha256(row)}
        common |= {"name": one.called}
        for metric, value in sorted(row.metrics.items()):
            interval = row.intervals.get(metric, {})
            record = {**common, **interval, "metric": metric, "value": value}
            records.append([record.get(column) for column in COLUMNS])
    return pd.DataFrame(records, columns=list(COLUMNS)).astype({"seed": "Int64"})


def export(table: pd.DataFrame, path: Path) -> int:
    """Write a table to a .csv or .parquet file, with exact floats. Returns how many texts a CSV
    file holds with escapes (`csv_of`). Raises UsageError for another suffix, where pyarrow is
    missing, and where the file cannot be written."""
    changed = 0
    if path.suffix == ".csv":
        text, changed = csv_of(table)
        content = text.encode()
    elif path.suffix == ".parquet":
        try:
            content = table.to_parquet(None, engine="pyarrow", index=False)
        except ImportError as error:
            needed = "pip install 'cosmos-eval[parquet]'"
            raise UsageError(f"Parquet needs pyarrow: {needed}, or export to .csv") from error
    else:
        raise UsageError(f"cannot export to '{path.suffix}' files: end --out in .csv or .parquet")
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    return changed


def csv_of(table: pd.DataFrame, signed: Sequence[str] = ()) -> tuple[str, int]:
    """Return a table as CSV, and how many texts `csv_text` escaped; `signed` columns stay."""
    texts = table.select_dtypes(exclude="number").drop(columns=list(signed))
    safe = texts.map(lambda value: csv_text(value) if isinstance(value, str) else value)
    changed = int(((safe != texts) & texts.notna()).to_numpy().sum())
    return table.assign(**safe).to_csv(index=False, lineterminator="\n"), changed
