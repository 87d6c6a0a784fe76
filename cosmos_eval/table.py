"""Results as one table: a pandas.DataFrame, CSV or Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos_eval.files import RESULTS, write_atomically
from cosmos_eval.labels import variants
from cosmos_eval.store import read_result, result_paths
from cosmos_eval.types import ResultRow, UsageError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("model", "weights", "random", "task", "dataset", "protocol", "variant"),
    *("metric", "value", "low", "high", "method", "n_samples"),
    *("version", "commit", "dirty", "utc", "file"),
)
"""Columns of `load_results`."""


def load_results(*places: str | Path) -> pd.DataFrame:
    """Results as a table with one row a metric, from folders, those in them, and files.

    Without places: from `runs/eval` in the current folder, where `cosmos-eval run` puts them.
    Columns: COLUMNS; `variant` says what departs from the defaults, `low` and `high` are the 95%
    interval by `method`, `file` is where a result lies. Raises UsageError for a folder without
    results and for files that are not results.
    """
    import pandas as pd

    chosen = [Path(place) for place in places or (RESULTS,)]
    paths = [path for place in chosen for path in result_paths(place)]
    records = [record for path in paths for record in _records(path, read_result(path))]
    return pd.DataFrame(records, columns=list(COLUMNS))


def export(table: pd.DataFrame, path: Path) -> None:
    """Write a table to a .csv or .parquet file, whole or not at all.

    Floats are exact in both. Raises UsageError for another suffix, where pyarrow is missing, and
    where the file cannot be written.
    """
    match path.suffix:
        case ".csv":
            content = table.to_csv(index=False, lineterminator="\n").encode()
        case ".parquet":
            content = _parquet(table)
        case other:
            raise UsageError(f"cannot export to '{other}' files: end --out in .csv or .parquet")
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _parquet(table: pd.DataFrame) -> bytes:
    try:
        return table.to_parquet(None, engine="pyarrow", index=False)
    except ImportError as error:
        raise UsageError(
            "Parquet needs pyarrow: pip install 'cosmos-eval[parquet]', or export to .csv"
        ) from error


def _records(path: Path, row: ResultRow) -> Iterator[tuple[Any, ...]]:
    model = (row.model["spec"], row.model["weights"], row.model["random"])
    setting = (row.task, row.dataset, row.protocol, ", ".join(variants(row)))
    origin = (*(row.provenance[key] for key in ("version", "commit", "dirty", "utc")), str(path))
    for metric, value in sorted(row.metrics.items()):
        interval = row.intervals.get(metric, {})
        bounds = (interval.get(key) for key in ("low", "high", "method"))
        yield (*model, *setting, metric, value, *bounds, row.n_samples, *origin)
