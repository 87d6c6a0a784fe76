"""A baseline on the disk: one JSON file, and per-sample arrays in the folder of its name.

Version 2 added a hash of the file's own content, and names of samples that no result has.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cosmos_core.utils.environment import user_name, utc_now
from cosmos_core.utils.files import (
    exclusive,
    json_sha256,
    pack_arrays,
    unpack_arrays,
    write_atomically,
)
from cosmos_eval._version import __version__
from cosmos_eval.data.readers import FileError, MissingFileError, read_bytes, read_json
from cosmos_eval.results.compare import setting
from cosmos_eval.results.labels import model_label, safe_name
from cosmos_eval.types import ResultRow, Samples, UsageError

if TYPE_CHECKING:
    import jsonschema_rs

SCHEMA_VERSION = 2

_OWN_SAMPLES = re.compile(r".+\.[0-9a-f]{8}\.baseline\.npz")
"""Names of samples that only a baseline of this version has."""

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
    """Results that new ones are checked against, with the file that holds them.

    `version` is that of the file's format; one of version 1 has no hash of itself.
    """

    path: Path
    version: int
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
            content = read_bytes(path)
            if hashlib.sha256(content).hexdigest() != entry.samples["sha256"]:
                raise ValueError("not what the baseline was written with")
            return unpack_arrays(content)
        except ValueError as error:  # FileError is one
            raise ValueError(f"the baseline's samples {path.name}: {error}") from error


def result_key(row: ResultRow) -> Key:
    """The key of the entry that a result is checked against."""
    return model_label(row), row.dataset, row.protocol


def read_baseline(path: Path) -> Baseline:
    """Read a baseline. Raises UsageError, naming the file, where it is not one or was edited."""
    try:
        document = read_json(path)
    except MissingFileError as error:
        raise UsageError(f"no baseline {path}: write it with --update --reason TEXT") from error
    except FileError as error:
        raise UsageError(f"{path}: cannot be read as a baseline: it {error}") from error
    _validate(document, path)
    _require_unchanged(document, path)
    entries = tuple(Entry(**some) for some in document["results"])
    seen: set[Key] = set()
    for entry in entries:
        if entry.key in seen:
            raise UsageError(f"{path}: two results of {described(entry.key)}")
        seen.add(entry.key)
    version, tolerance = document["schema_version"], float(document["tolerance"])
    return Baseline(path, version, document["written"], tolerance, entries)


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
    of the others. Samples come first, the file that names them second; at last those samples are
    removed that only the replaced baseline named. Raises UsageError where the result of one model
    and data set is given twice, for a file that is not called *.json, whose samples could lie in
    the folder of another, and where the files cannot be written.
    """
    if path.suffix != ".json":
        raise UsageError(f"cannot write {path}: the name of a baseline ends with .json")
    keys = [result_key(row) for row, _ in results]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice:
        raise UsageError(f"two results of {described(twice)}: give one of the files")
    archives = [pack_arrays(samples) if keep_samples else None for _, samples in results]
    entries = [_entry(row, some) for (row, _), some in zip(results, archives, strict=True)]
    files = {
        entry.samples["file"]: content
        for entry, content in zip(entries, archives, strict=True)
        if entry.samples and content is not None
    }
    document = _document(entries, reason, tolerance)
    _validate(document, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, document, files)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    return set(keys)


def _document(entries: Sequence[Entry], reason: str, tolerance: float) -> dict[str, Any]:
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
    return {**document, "baseline_sha256": _own_hash(document)}


def _replace(path: Path, document: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Write a baseline, under the lock of its folder as far as it has one."""
    with exclusive(path.parent) as alone:
        former = read_baseline(path).entries if path.exists() else ()
        for name, content in files.items():
            write_atomically(_folder(path) / name, content)
        text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"
        write_atomically(path, text.encode())
        for name in {entry.samples["file"] for entry in former if entry.samples} - files.keys():
            # Others may be those of a result: in version 1 they had the same names.
            if alone and _OWN_SAMPLES.fullmatch(name):
                (_folder(path) / name).unlink(missing_ok=True)


def described(key: Key) -> str:
    """A key for people."""
    model, dataset, protocol = key
    return f"{model} on {dataset} ({protocol})"


def _entry(row: ResultRow, archive: bytes | None) -> Entry:
    """A result as an entry, with the name of its samples' file if there is to be one."""
    samples = None
    if archive is not None:
        digest = hashlib.sha256(archive).hexdigest()
        name = "__".join(safe_name(part) for part in result_key(row))
        samples = {"file": f"{name}.{digest[:8]}.baseline.npz", "sha256": digest}
    usable = set(row.intervals if samples is None else row.metrics)
    return Entry(
        model=model_label(row),
        weights_sha256=row.model["weights_sha256"],
        setting=setting(row),
        metrics={name: value for name, value in row.metrics.items() if name in usable},
        intervals=dict(row.intervals),
        samples=samples,
        commit=row.provenance["commit"],
        utc=row.provenance["utc"],
    )


def _own_hash(document: Mapping[str, Any]) -> str:
    """The hash that a baseline holds of itself: of all but that hash."""
    return json_sha256({k: v for k, v in document.items() if k != "baseline_sha256"})


def _require_unchanged(document: Mapping[str, Any], path: Path) -> None:
    """Raise UsageError for an edited baseline, or one of version 1 that could be a changed one."""
    stored = document.get("baseline_sha256")
    if document["schema_version"] == SCHEMA_VERSION:
        if stored != _own_hash(document):
            raise UsageError(
                f"{path} was edited: it has another content than baseline_sha256 says; restore it, "
                "or remove it and write it with --update"
            )
        return
    samples = [entry["samples"] for entry in document["results"]]
    if stored or any(some and _OWN_SAMPLES.fullmatch(some["file"]) for some in samples):
        raise UsageError(f"{path} was edited: it says version 1, but has what version 2 brought")
    if None in samples:
        raise UsageError(
            f"{path}: a result without samples, in a baseline of version 1, whose metrics nothing "
            "vouches for: remove it and write it with --update"
        )


def _folder(path: Path) -> Path:
    return path.with_suffix("")


@cache
def _validator() -> jsonschema_rs.Validator:
    import jsonschema_rs

    schema = files("cosmos_eval.results.gate").joinpath("baseline.schema.json").read_text("utf-8")
    return jsonschema_rs.validator_for(json.loads(schema))


def _validate(document: Any, path: Path) -> None:
    try:
        error = next(iter(_validator().iter_errors(document)), None)
    except ValueError as fault:  # too deep, or a key that is no Unicode text
        raise UsageError(f"{path}: cannot be read as a baseline: {fault}") from fault
    if error is not None:
        place = ".".join(("$", *map(str, error.instance_path)))
        raise UsageError(f"{path}: {place}: {error.message[:200]}")
