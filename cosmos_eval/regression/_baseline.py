"""A baseline on the disk: one JSON file, and per-sample arrays in the folder of its name."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cosmos_eval._version import __version__
from cosmos_eval.files import write_atomically
from cosmos_eval.labels import model_label, safe_name
from cosmos_eval.matching import setting
from cosmos_eval.provenance import user_name, utc_now
from cosmos_eval.types import ResultRow, Samples, UsageError

if TYPE_CHECKING:
    import jsonschema_rs

SCHEMA_VERSION = 1

Key = tuple[str, str, str]
"""Model as tables call it, data set, protocol."""


class Entry(NamedTuple):
    """One result of a baseline; its fields are those of the file, see baseline.schema.json."""

    model: str
    weights_sha256: str
    setting: Mapping[str, Any]
    metrics: Mapping[str, float]
    intervals: Mapping[str, Mapping[str, Any]]
    samples: Mapping[str, str] | None
    commit: str | None
    utc: str

    @property
    def key(self) -> Key:
        """What a new result must have alike to be checked against this one."""
        return self.model, self.setting["dataset"], self.setting["protocol"]


class Baseline(NamedTuple):
    """Results that new ones are checked against, with the file that holds them."""

    path: Path
    written: Mapping[str, str]
    tolerance: float
    entries: tuple[Entry, ...]

    def samples_of(self, entry: Entry) -> Samples | None:
        """The per-sample arrays of an entry; None where the baseline keeps none of it.

        Raises ValueError where it should have them, but they are missing or others.
        """
        if entry.samples is None:
            return None
        path = _folder(self.path) / entry.samples["file"]
        try:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != entry.samples["sha256"]:
                raise ValueError("not what the baseline was written with")
            with np.load(io.BytesIO(content)) as arrays:
                return {name: arrays[name] for name in arrays}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"the baseline's samples {path.name}: {error}") from error


def result_key(row: ResultRow) -> Key:
    """The key of the entry that a result is checked against."""
    return model_label(row), row.dataset, row.protocol


def read_baseline(path: Path) -> Baseline:
    """Read a baseline. Raises UsageError, naming the file, where it is not one."""
    try:
        document = json.loads(path.read_text("utf-8"), parse_constant=_no_number)
    except FileNotFoundError as error:
        raise UsageError(f"no baseline {path}: write it with --update --reason TEXT") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as a baseline: {error}") from error
    _validate(document, path)
    entries = tuple(Entry(**some) for some in document["results"])
    seen: set[Key] = set()
    for entry in entries:
        if entry.key in seen:
            raise UsageError(f"{path}: two results of {described(entry.key)}")
        seen.add(entry.key)
    return Baseline(path, document["written"], float(document["tolerance"]), entries)


def write_baseline(
    path: Path,
    results: Sequence[tuple[ResultRow, Samples]],
    *,
    reason: str,
    tolerance: float = 0.0,
    keep_samples: bool = True,
) -> set[Key]:
    """Write results as the baseline, in place of what it held; return their keys.

    Without samples only metrics that have an interval are kept, since nothing else could be decided
    of the others. Samples come first, the file that names them second, what it named before goes
    last. Raises UsageError where the result of one model and data set is given twice.
    """
    keys = [result_key(row) for row, _ in results]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice:
        raise UsageError(f"two results of {described(twice)}: give one of the files")
    entries = [_store(path, row, samples, keep_samples) for row, samples in results]
    document = {
        "schema_version": SCHEMA_VERSION,
        "written": {
            "by": user_name(),
            "utc": utc_now(),
            "reason": reason,
            "version": __version__,
        },
        "tolerance": tolerance,
        "results": [entry._asdict() for entry in sorted(entries, key=lambda entry: entry.key)],
    }
    _validate(document, path)
    text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"
    write_atomically(path, text.encode())
    kept = {entry.samples["file"] for entry in entries if entry.samples}
    for file in _folder(path).glob("*.npz"):
        if file.name not in kept:
            file.unlink()
    return set(keys)


def described(key: Key) -> str:
    """A key for people."""
    model, dataset, protocol = key
    return f"{model} on {dataset} ({protocol})"


def _store(path: Path, row: ResultRow, samples: Samples, keep_samples: bool) -> Entry:
    archive = io.BytesIO()
    np.savez_compressed(archive, allow_pickle=False, **samples)
    digest = hashlib.sha256(archive.getvalue()).hexdigest()
    name = "__".join(safe_name(part) for part in result_key(row)) + f".{digest[:8]}.npz"
    kept = set(row.metrics if keep_samples else row.intervals)
    if keep_samples:
        write_atomically(_folder(path) / name, archive.getvalue())
    return Entry(
        model=model_label(row),
        weights_sha256=row.model["weights_sha256"],
        setting=setting(row),
        metrics={name: value for name, value in row.metrics.items() if name in kept},
        intervals=dict(row.intervals),
        samples={"file": name, "sha256": digest} if keep_samples else None,
        commit=row.provenance["commit"],
        utc=row.provenance["utc"],
    )


def _folder(path: Path) -> Path:
    return path.with_suffix("")


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


@cache
def _validator() -> jsonschema_rs.Validator:
    import jsonschema_rs

    schema = files("cosmos_eval.regression").joinpath("baseline.schema.json").read_text("utf-8")
    return jsonschema_rs.validator_for(json.loads(schema))


def _validate(document: Any, path: Path) -> None:
    for error in _validator().iter_errors(document):
        place = ".".join(("$", *map(str, error.instance_path)))
        raise UsageError(f"{path}: {place}: {error.message[:200]}")
