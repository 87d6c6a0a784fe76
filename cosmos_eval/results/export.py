"""Results, and the samples of one, as a table: a pandas.DataFrame, CSV or Parquet."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_core.utils.files import write_atomically
from cosmos_eval.results import RESULTS, labels
from cosmos_eval.results.checked import read_checked
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
"""Columns of `load_results`."""


def load_results(*places: str | Path) -> pd.DataFrame:
    """Return results as a table with one row per metric, from folders, those in them, and files;
    without places from `runs/eval` in the current folder, where `cosmos-eval run` writes them.
    Columns: COLUMNS; `variant` lists what differs from the defaults, `low` and `high` are the 95%
    interval by `method`, `unchanged` says whether the file is what was written, also by its samples
    (None: unknown);
    `group` and `seed` are those of the model's training, None where unknown. `name` is the label of
    the model's row in tables, and `model_sha256` the hash of all that makes it the same: weights,
    code with its arguments, architecture, auxiliary encoder.
    Warns of edited results, and of different models of the same name. Raises UsageError for a
    folder without results and for files that are not results."""
    paths = [path for place in places or (RESULTS,) for path in result_paths(Path(place))]
    results = read_checked(paths)
    for line in [*labels.warnings_of(results), *labels.repeats_of(results)]:
        warnings.warn(one_line(line), stacklevel=2)
    return table_of(results)


def table_of(results: Iterable[labels.Stored]) -> pd.DataFrame:
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
        common |= {"variant": ", ".join(labels.variants(row)), "file": file}
        unchanged = False if one.is_edited else one.unchanged
        common |= {"unchanged": unchanged, "model_sha256": labels.model_sha256(row)}
        common |= {"name": one.label}
        for metric, value in sorted(row.metrics.items()):
            interval = row.intervals.get(metric, {})
            record = {**common, **interval, "metric": metric, "value": value}
            records.append([record.get(column) for column in COLUMNS])
    return pd.DataFrame(records, columns=list(COLUMNS)).astype({"seed": "Int64"})


def load_samples(result: str | Path) -> pd.DataFrame:
    """Return the samples of a stored result as a table, in the order of the data set.

    `result` is its JSON file, such as those in the column `file` of `load_results`. There is one
    row per image, of retrieval per query, of localisation and several classes per image and class.
    Columns: `image`, its name in the data set, which results of older versions lack, and by task

    - cls: `label`, `prediction`, `score` (the probability of the prediction), `rank` of the label
      (missing below the fifth), `group`
    - retrieval: `query` (image or caption), `caption` (its number within the image), `rank` of the
      image's best caption, or of the caption's image; results store neither similarities nor what
      was ranked first, so that there is no prediction or score
    - seg: `pixel_accuracy`, `mIoU`
    - select: `correct`, `subset`, `chance`...; assoc: `cue`, `jaccard`, `candidates`
    - multilabel: `class`, `label`, `score`, `rank` of the image for the class
    - loc: `class`, `thing_pixels`, `mass`, `hit`, `auc`, `other_names`
    - probe: `label`, `linear`, `neighbours`; faces: `age`, `age_prediction`...

    Raises UsageError for what is no result, for samples that were edited or are missing, and for a
    task that is not installed."""
    import pandas as pd

    path = Path(result)
    stored = read_files(path)
    samples, task = samples_of(path, stored), task_named(stored.row.task)
    own = dict(task.columns(samples))
    if NAME in samples and "image" not in own:
        own = {"image": own.pop(NAME, samples[NAME]), **own}
    table = pd.DataFrame(own)
    whole = [name for name in ("rank", "caption") if name in table]
    return table.astype(dict.fromkeys(whole, "Int64"))


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
        raise UsageError(
            f"cannot export to '{path.suffix}' files: end --output in .csv or .parquet"
        )
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
