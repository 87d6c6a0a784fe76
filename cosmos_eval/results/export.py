"""Results as one table: a pandas.DataFrame, CSV or Parquet."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos_core.utils.files import write_atomically
from cosmos_eval.results import RESULTS
from cosmos_eval.results.labels import Stored, variants, warnings_of
from cosmos_eval.results.store import read_stored, result_paths
from cosmos_eval.results.text import csv_text, one_line
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("model", "weights", "random", "task", "dataset", "protocol", "variant"),
    *("metric", "value", "low", "high", "method", "n_samples"),
    *("version", "commit", "dirty", "utc", "file"),
    *("weights_sha256", "code_sha256", "unchanged"),
)
"""Columns of `load_results`."""


def load_results(*places: str | Path) -> pd.DataFrame:
    """Results as a table with one row a metric, from folders, those in them, and files.

    Without places: from `runs/eval` in the current folder, where `cosmos-eval run` puts them.
    Columns: COLUMNS; `variant` says what departs from the defaults, `low` and `high` are the 95%
    interval by `method`, `file` is where a result lies, `unchanged` whether it is what was written,
    by the hash that it holds of itself (None where it holds none). Warns of edited results, and of
    different models of the same name. Raises UsageError for a folder without results and for files
    that are not results.
    """
    results = stored_at(places or (RESULTS,))
    for line in warnings_of(results):
        warnings.warn(one_line(line), stacklevel=2)
    return table_of(results)


def stored_at(places: Iterable[str | Path]) -> list[Stored]:
    """Read the results in folders, in those in them, and in files. Raises UsageError."""
    return read_stored(path for place in map(Path, places) for path in result_paths(place))


def table_of(results: Iterable[Stored]) -> pd.DataFrame:
    """The table that `load_results` returns."""
    import pandas as pd

    records = [record for one in results for record in _records(one)]
    return pd.DataFrame(records, columns=list(COLUMNS))


def export(table: pd.DataFrame, path: Path) -> int:
    """Write a table to a .csv or .parquet file, whole or not at all.

    Floats are exact in both. Returns how many texts are not in a CSV file as they are, since a
    spreadsheet would take them for formulas or a reader for several lines
    (`results.text.csv_text`). Raises UsageError for another suffix, where pyarrow is
    missing, and where the file cannot be written.
    """
    changed = 0
    match path.suffix:
        case ".csv":
            texts = table.select_dtypes(exclude="number")
            safe = texts.apply(lambda column: column.map(_cell))
            changed = int(((safe != texts) & texts.notna()).to_numpy().sum())
            content = table.assign(**safe).to_csv(index=False, lineterminator="\n").encode()
        case ".parquet":
            content = _parquet(table)
        case other:
            raise UsageError(f"cannot export to '{other}' files: end --out in .csv or .parquet")
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    return changed


def _cell(value: Any) -> Any:
    return csv_text(value) if isinstance(value, str) else value


def _parquet(table: pd.DataFrame) -> bytes:
    try:
        return table.to_parquet(None, engine="pyarrow", index=False)
    except ImportError as error:
        raise UsageError(
            "Parquet needs pyarrow: pip install 'cosmos-eval[parquet]', or export to .csv"
        ) from error


def _records(one: Stored) -> Iterator[tuple[Any, ...]]:
    row = one.row
    model = (row.model["spec"], row.model["weights"], row.model["random"])
    setting = (row.task, row.dataset, row.protocol, ", ".join(variants(row)))
    # A table is UTF-8, a path need not be.
    path = os.fsencode(one.path).decode(errors="backslashreplace")
    origin = (*(row.provenance[key] for key in ("version", "commit", "dirty", "utc")), path)
    identity = (row.model["weights_sha256"], row.model.get("code_sha256"), one.unchanged)
    for metric, value in sorted(row.metrics.items()):
        interval = row.intervals.get(metric, {})
        bounds = (interval.get(key) for key in ("low", "high", "method"))
        yield (*model, *setting, metric, value, *bounds, row.n_samples, *origin, *identity)
