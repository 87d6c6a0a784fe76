"""Results on disk: a JSON file a result, its per-sample arrays in an .npz file beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.files import write_atomically
from cosmos_eval.labels import model_label, stem_of, variants
from cosmos_eval.types import ResultRow, UsageError

if TYPE_CHECKING:
    import pandas as pd
    from jsonschema.protocols import Validator

COLUMNS = (
    *("model", "weights", "random", "task", "dataset", "protocol", "variant"),
    *("metric", "value", "low", "high", "n_samples"),
)
"""Columns of `load_results`."""


def write_result(directory: Path, row: ResultRow, samples: Mapping[str, NDArray[Any]]) -> Path:
    """Write a result and its per-sample arrays; return the path of the JSON file.

    The samples come first and carry their hash in their name, so that at every moment a JSON
    file names the samples that belong to it. A result of the same model, data set, protocol and
    variants is replaced. Raises UsageError for values outside the schema, NaN included.
    """
    stem = file_stem(row)
    archive = io.BytesIO()
    np.savez_compressed(archive, allow_pickle=False, **samples)
    digest = hashlib.sha256(archive.getvalue()).hexdigest()
    named = dataclasses.replace(
        row,
        samples=f"{stem}.{digest[:8]}.npz",
        provenance={**row.provenance, "samples_sha256": digest},
    )
    path = directory / f"{stem}.json"
    text = to_json(named)
    _validate(json.loads(text), str(path))
    _make(directory)
    write_atomically(directory / named.samples, archive.getvalue())
    write_atomically(path, text.encode())
    _remove_former_samples(directory, stem, named.samples)
    return path


def to_json(row: ResultRow) -> str:
    """A result as it is stored: sorted keys, shortest exact floats, no NaN."""
    for name, value in row.metrics.items():
        if not math.isfinite(value):
            raise UsageError(
                f"{model_label(row)} on {row.dataset}: {name} is {value}, which is no result; "
                "look for NaN in the model's features"
            )
    document = {item.name: getattr(row, item.name) for item in dataclasses.fields(row)}
    if not row.confusion_pairs:
        del document["confusion_pairs"]
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False, default=_plain) + "\n"


def read_result(path: Path) -> ResultRow:
    """Read one result. Raises UsageError, naming the file, where it is not one."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as a result: {error}") from error
    _validate(document, str(path))
    return ResultRow(**document)


def read_samples(path: Path) -> dict[str, NDArray[Any]]:
    """The per-sample arrays of the result in a JSON file, by name.

    Raises UsageError where they are missing, cannot be read, or are not those that were stored with
    the result.
    """
    row = read_result(path)
    archive = path.with_name(row.samples)
    try:
        content = archive.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: its samples {archive.name} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != row.provenance["samples_sha256"]:
        raise UsageError(f"{archive} is not what was stored with {path.name}: measure again")
    with np.load(io.BytesIO(content)) as arrays:
        return {name: arrays[name] for name in arrays}


def read_results(directory: str | Path) -> list[ResultRow]:
    """Read every *.json of a folder, in the order of their names.

    Raises UsageError where there are none or a file is not a result.
    """
    paths = sorted(Path(directory).glob("*.json"))
    if not paths:
        raise UsageError(f"no results (*.json) in {directory}: run `cosmos-eval run` first")
    return [read_result(path) for path in paths]


def load_results(directory: str | Path) -> pd.DataFrame:
    """Results of a folder as a table with one row a metric.

    Columns: COLUMNS; `variant` says what departs from the defaults.
    """
    import pandas as pd

    records = [record for row in read_results(directory) for record in _records(row)]
    return pd.DataFrame(records, columns=list(COLUMNS))


def _records(row: ResultRow) -> Iterable[tuple[Any, ...]]:
    model = (row.model["spec"], row.model["weights"], row.model["random"])
    setting = (row.task, row.dataset, row.protocol, ", ".join(variants(row)))
    for metric, value in sorted(row.metrics.items()):
        interval = row.intervals.get(metric, {})
        bounds = (interval.get("low"), interval.get("high"))
        yield (*model, *setting, metric, value, *bounds, row.n_samples)


def file_stem(row: ResultRow) -> str:
    """A file name without suffix that is readable, safe everywhere, and the result's own."""
    return stem_of(row.model["spec"], row.dataset, row.protocol, variants(row))


@cache
def _validator() -> Validator:
    from jsonschema import Draft202012Validator

    schema = json.loads(files("cosmos_eval").joinpath("schema.json").read_text("utf-8"))
    return Draft202012Validator(schema)


def _validate(document: Any, where: str) -> None:
    """Raise UsageError with the first departure from the schema."""
    errors = sorted(_validator().iter_errors(document), key=lambda error: error.json_path)
    if errors:
        raise UsageError(f"{where}: {errors[0].json_path}: {errors[0].message}")


def _plain(value: Any) -> Any:
    """What json does not know: NumPy scalars and mappings that are not dicts."""
    return dict(value) if isinstance(value, Mapping) else value.item()


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write results to {directory}: {error.strerror}") from error


def _remove_former_samples(directory: Path, stem: str, current: str) -> None:
    """Remove samples that a replaced result left behind."""
    own = re.compile(re.escape(stem) + r"\.[0-9a-f]{8}\.npz")
    for path in directory.glob("*.npz"):
        if own.fullmatch(path.name) and path.name != current:
            path.unlink()
