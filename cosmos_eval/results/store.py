"""Results on disk: one JSON file per result, its per-sample arrays in an .npz file beside it.

Version 2 added to samples the names of classes, groups and subsets, to records a hash of
themselves, and to ranks an interval.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_core.utils.files import (
    exclusive,
    json_sha256,
    pack_arrays,
    unpack_arrays,
    write_atomically,
)
from cosmos_eval.data.readers import FileError, read_bytes
from cosmos_eval.results.labels import (
    Stored,
    distinguish,
    file_stem,
    model_label,
    samples_name,
    warnings_of,
)
from cosmos_eval.results.record import SCHEMA_VERSION, ResultRow, validate
from cosmos_eval.results.text import one_line
from cosmos_eval.tasks import metric_of, task_named
from cosmos_eval.types import Samples, UsageError

Record = Mapping[str, Any]
"""A result as its JSON file holds it."""

# What records of version 1 could have.
_TASKS_1 = frozenset({"retrieval", "cls", "seg", "select"})
_MODEL_1 = frozenset({"spec", "architecture", "weights", "weights_sha256", "random"})
_PROVENANCE_1 = frozenset(
    {
        *("version", "commit", "dirty", "packages", "python", "platform", "command", "utc"),
        *("device", "precision", "seed", "limit", "attention", "protocol_attention"),
        *("batch_size", "seconds", "peak_memory_bytes", "hashes", "notes", "samples_sha256"),
    }
)
# What version 2 added to samples.
_NAMES_2 = frozenset({"classes", "groups", "members", "subsets"})
# Never the first field of a provenance, whose keys are sorted.
_OWN_HASH = re.compile(rb',"record_sha256":"[0-9a-f]{64}"')


def write_result(directory: Path, row: ResultRow, samples: Samples) -> Path:
    """Write a result by `store_result`; return the path of the JSON file."""
    return store_result(directory, row, samples).path


def store_result(directory: Path, row: ResultRow, samples: Samples) -> Stored:
    """Write a result in place of the former one; return the result as the JSON file holds it.

    The samples come first and carry their hash in their name, so that a JSON file always names its
    own. Raises UsageError for values outside the schema, and where the files cannot be written.
    """
    for name, value in row.metrics.items():
        if not math.isfinite(value):
            raise UsageError(
                f"{model_label(row)} on {row.dataset}: {name} is {value}, which is no result; "
                "look for NaN in the model's features"
            )
    archive = pack_arrays(samples)
    digest = hashlib.sha256(archive).hexdigest()
    record = to_record(row)
    record["samples"] = samples_name(row, digest)
    record["provenance"]["samples_sha256"] = digest
    record["provenance"]["record_sha256"] = record_sha256(record)
    path = directory / f"{file_stem(row)}.json"
    text = _to_text(record, indent=2).encode() + b"\n"
    stored = Stored(path, validate(ResultRow, text, str(path)))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _replace(path, record["samples"], archive, text)
    except OSError as error:
        raise UsageError(f"cannot write results to {directory}: {error.strerror}") from error
    return stored


def to_record(row: ResultRow) -> dict[str, Any]:
    """Return a result as JSON holds it."""
    record: dict[str, Any] = json.loads(_to_text(vars(row)))
    if not row.confusion_pairs:
        del record["confusion_pairs"]
    return record


def _to_text(content: Any, **form: Any) -> str:
    return json.dumps(content, sort_keys=True, allow_nan=False, default=_plain, **form)


def _plain(value: Any) -> Any:
    """Convert NumPy scalars and mappings that are not dicts, which json does not know."""
    return dict(value) if isinstance(value, Mapping) else value.item()


def _replace(path: Path, samples: str, archive: bytes, text: bytes) -> None:
    """Write both files of a result, then remove the samples that the replaced one named.

    Without the lock of the folder another writer could name these samples: nothing is removed.
    """
    with exclusive(path.parent) as alone:
        former = _samples_named_in(path)
        write_atomically(path.with_name(samples), archive)
        write_atomically(path, text)
        if alone and former not in (None, samples):
            with suppress(OSError):  # the new result is whole already
                path.with_name(str(former)).unlink(missing_ok=True)


def _samples_named_in(path: Path) -> str | None:
    """Return the name of the samples in a JSON file; None where it is not the result's."""
    try:
        name = str(read_record(path).get("samples"))
    except UsageError:
        return None
    return name if re.fullmatch(re.escape(path.stem) + r"\.[0-9a-f]{8}\.npz", name) else None


def record_sha256(record: Record) -> str:
    """Return the hash that a record holds of itself: of all but that hash."""
    others = {k: v for k, v in record["provenance"].items() if k != "record_sha256"}
    return json_sha256({**record, "provenance": others})


def record_is_unchanged(record: Record) -> bool | None:
    """Return whether a record has the hash that it holds of itself; None for one of version 1."""
    provenance = record.get("provenance")
    stored = provenance.get("record_sha256") if isinstance(provenance, Mapping) else None
    if stored is None:
        version = record.get("schema_version")
        return None if version == 1 and version is not True else False
    try:
        return bool(stored == record_sha256(record))
    except ValueError:  # NaN, which no record holds
        return False


def _is_as_written(content: bytes, row: ResultRow) -> bool:
    """Return whether a file is, to the byte, what `store_result` writes for its hash.

    Compacting the text takes a third of the time of writing all its numbers again. JSON strings
    hold no raw line breaks, and no quote without a backslash before it: none is changed.
    """
    compact = b"".join([line.lstrip() for line in content.split(b"\n")])
    for old, new in ((b'\\": ', b"\0"), (b'": ', b'":'), (b"\0", b'\\": ')):
        compact = compact.replace(old, new)
    without = _OWN_HASH.sub(b"", compact, count=1)
    return hashlib.sha256(without).hexdigest() == row.provenance.get("record_sha256")


def read_result(path: Path) -> ResultRow:
    """Read one result, of any version so far. Raises UsageError for other files."""
    return _to_row(_read(path), path)


def read_stored(paths: Iterable[Path]) -> list[Stored]:
    """Read results, with `distinguish`ed names. Raises UsageError for other files."""
    return distinguish(map(_read_stored, paths))


def _read_stored(path: Path) -> Stored:
    content = _read(path)
    row = _to_row(content, path)
    unchanged = _is_as_written(content, row) or record_is_unchanged(_parse(content, path))
    return Stored(path, row, unchanged)


def read_record(path: Path) -> Record:
    """Read the content of a result's JSON file, of whatever version. Raises UsageError."""
    return _parse(_read(path), path)


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except FileError as error:
        raise UsageError(f"{path}: cannot be read as a result: it {error}") from error


def _parse(content: bytes, path: Path) -> Record:
    try:
        record = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as a result: {error}") from error
    # True is an int in Python.
    if not isinstance(record, dict) or type(record.get("schema_version")) is not int:
        raise UsageError(f"{path}: no result: it has no `schema_version` that is a number")
    return record


def _to_row(content: bytes, path: Path) -> ResultRow:
    try:
        return validate(ResultRow, content, str(path))  # in half the time of Python's json
    except UsageError:
        record = _parse(content, path)
        upgraded = _upgrade_record(record, str(path))
        if upgraded is record:
            raise
    return validate(ResultRow, json.dumps(upgraded), str(path))


def _upgrade_record(record: Record, where: str) -> Record:
    """Return a record of this version; of an unknown older version, the same record."""
    version = record["schema_version"]
    if version > SCHEMA_VERSION:
        known = f"this cosmos-eval knows versions up to {SCHEMA_VERSION}"
        raise UsageError(
            f"{where} is a result of version {version}, and {known}: install a newer cosmos-eval"
        )
    if version != 1:
        return record
    if later := _later_than_1(record):  # an edit could remove the hash that version 2 holds
        raise _relabelled(where, later[0])
    return {**record, "schema_version": 2}


def _upgrade_samples(samples: Samples, record: Record, where: str) -> Samples:
    """Return samples of this version. Raises UsageError where version 1 lacks what that needs."""
    if record["schema_version"] != 1:
        return samples
    if later := sorted(samples.keys() & _NAMES_2):
        raise _relabelled(where, f"samples with `{later[0]}`")
    upgrade = task_named(record["task"]).upgrade
    try:
        return samples if upgrade is None else upgrade(samples, record)
    except (UsageError, ValueError) as error:
        raise UsageError(
            f"{where} is of version 1, which does not hold the order of its classes: measure again"
        ) from error


def _later_than_1(record: Record) -> list[str]:
    model, provenance, intervals = (
        part if isinstance(part := record.get(name), Mapping) else {}
        for name in ("model", "provenance", "intervals")
    )
    later = sorted(provenance.keys() - _PROVENANCE_1) + sorted(model.keys() - _MODEL_1)
    if isinstance(task := record.get("task"), str) and task not in _TASKS_1:
        later.append(f"task {task}")
    ranks = sorted(name for name in intervals if metric_of(str(task), name).unit == "rank")
    return later + [f"an interval of {name}" for name in ranks]


def _relabelled(where: str, later: str) -> UsageError:
    return UsageError(
        f"{where}: its schema_version is 1, but it has {later}, which came with a later version: "
        "restore the file or measure again"
    )


class ResultFiles(NamedTuple):
    """Both files of a result: the record as stored, the result, and the samples or their error."""

    record: Record
    row: ResultRow
    archive: bytes | FileError


def read_files(path: Path) -> ResultFiles:
    """Read the JSON file of a result and its samples. Raises UsageError for another JSON file."""
    content = _read(path)
    while True:
        record, row = _parse(content, path), _to_row(content, path)
        try:
            return ResultFiles(record, row, read_bytes(path.with_name(row.samples)))
        except FileError as error:
            before, content = content, _read(path)
            if content == before:  # no other process has replaced the result meanwhile
                return ResultFiles(record, row, error)


def read_samples(path: Path) -> Samples:
    """Read the per-sample arrays of a result. Raises UsageError where they are not its own."""
    return samples_of(path, read_files(path))


def samples_of(path: Path, stored: ResultFiles) -> Samples:
    """Return the samples of a result that was read from a JSON file, as `read_samples` does."""
    record, row, content = stored
    if isinstance(content, FileError):
        raise UsageError(f"{path}: its samples {row.samples} cannot be read: {content}")
    archive = path.with_name(row.samples)
    if hashlib.sha256(content).hexdigest() != row.provenance["samples_sha256"]:
        raise UsageError(f"{archive} is not what was stored with {path.name}: measure again")
    try:
        samples = unpack_arrays(content)
    except ValueError as error:
        raise UsageError(f"{archive} holds no arrays: measure again ({error})") from error
    return _upgrade_samples(samples, record, str(path))


def read_results(directory: str | Path) -> list[ResultRow]:
    """Read every result of a folder, in the order of `result_paths`.

    Warns of edited records, and of different models of the same name. Raises UsageError where
    there are none or a file is not a result.
    """
    results = read_stored(result_paths(Path(directory)))
    for line in warnings_of(results):
        warnings.warn(one_line(line), stacklevel=2)
    return [one.row for one in results]


def list_results(place: Path) -> tuple[list[Path], list[str]]:
    """List every *.json of a folder and those in it, or the file itself, sorted; and errors.

    Hidden files, which killed runs may leave, are no results.
    """
    return _walk(place) if os.path.isdir(place) else ([place], [])


def result_paths(place: Path) -> list[Path]:
    """Return the files of `list_results`. Raises UsageError for its errors and missing folders."""
    paths, faults = list_results(place) if os.path.lexists(place) else _walk(place)
    if faults:
        raise UsageError(faults[0])
    return paths


def _walk(directory: Path) -> tuple[list[Path], list[str]]:
    """Symbolic links to folders are not followed: the same results would be found twice."""
    paths: list[Path] = []
    errors: list[OSError] = []
    for folder, folders, names in os.walk(directory, onerror=errors.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = (name for name in names if not name.startswith("."))
        paths += [Path(folder, name) for name in visible if name.endswith(".json")]
    faults = [
        f"cannot read folder {error.filename}: {error.strerror}"
        for error in errors
        if not isinstance(error, FileNotFoundError)
    ]
    if not (paths or faults):
        faults = [f"no results (*.json) in {directory}: run `cosmos-eval run` first"]
    return sorted(paths), faults
