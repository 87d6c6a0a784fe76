"""Results on disk: one JSON file per result, its per-sample arrays in an .npz file beside it.
Version 2 added to samples the names of classes, groups and subsets, to records a hash of
themselves, and to ranks an interval."""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_core.utils import files
from cosmos_eval.data.readers import FileError, faults_of, read_bytes
from cosmos_eval.results import labels
from cosmos_eval.results.labels import Stored
from cosmos_eval.results.record import SCHEMA_VERSION, ResultRow, validate
from cosmos_eval.tasks import known_tasks, metric_of, task_named
from cosmos_eval.types import Samples, UsageError

Record = Mapping[str, Any]
"""A result as its JSON file holds it."""

Read = Callable[[Path], Samples]
"""Returns the per-sample arrays of a result file; raises UsageError where there are none."""

_LARGEST = 1 << 30  # bytes of samples; 5,000 images with 171 classes take 1.3 MB packed
_TASKS_1 = frozenset({"retrieval", "cls", "seg", "select"})  # of version 1
# What later versions added to records and to samples.
_LATER = {
    "provenance": {"partial", "map", "protocol_map", "record_sha256", "images_per_second"},
    "model": {"name", "code_sha256", "revision", "facts", "training"},
}
_NAMES_2 = frozenset({"classes", "groups", "members", "subsets"})


def store_result(directory: Path, row: ResultRow, samples: Samples) -> Stored:
    """Write a result in place of the former one, or move that aside if it is of another model of
    the same name; return the result as the JSON file holds it. The samples come first and carry
    their hash in their name, so that a JSON file always names its own. Raises UsageError for values
    outside the schema, and where the files cannot be written."""
    for name, value in row.metrics.items():
        if not math.isfinite(value):
            where = f"{labels.model_label(row)} on {row.dataset}"
            hint = "look for NaN in the model's features"
            raise UsageError(f"{where}: {name} is {value}, which is no result; {hint}")
    archive = files.pack_arrays(samples)
    digest = hashlib.sha256(archive).hexdigest()
    record = to_record(row)
    record["samples"] = labels.samples_name(row, digest)
    record["provenance"]["samples_sha256"] = digest
    record["provenance"]["record_sha256"] = record_sha256(record)
    path = directory / f"{labels.file_stem(row)}.json"
    text = _to_text(record, indent=2).encode() + b"\n"
    stored = Stored(path, validate(ResultRow, text, str(path)))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return stored._replace(aside=_replace(stored, archive, text))
    except OSError as error:
        raise UsageError(f"cannot write results to {directory}: {error.strerror}") from error


def to_record(row: ResultRow) -> dict[str, Any]:
    """Return a result as JSON holds it."""
    record: dict[str, Any] = json.loads(_to_text(vars(row)))
    if not row.confusion_pairs:
        del record["confusion_pairs"]
    return record


def _to_text(content: Any, **form: Any) -> str:
    def plain(value: Any) -> Any:  # of NumPy scalars and mappings that are not dicts
        return dict(value) if isinstance(value, Mapping) else value.item()

    return json.dumps(content, sort_keys=True, allow_nan=False, default=plain, **form)


def _replace(stored: Stored, archive: bytes, text: bytes) -> Path | None:
    """Write both files of a result, then remove the samples that only a replaced one named. Without
    the lock of the folder another writer could name these samples: nothing is removed. Returns the
    file to which the result of another model was moved."""
    path, aside = stored.path, None
    again = labels.set_aside(path, stored.row)  # where the same model may have been moved before
    with files.exclusive(path.parent) as alone:
        named = _samples_of(path)
        with suppress(UsageError):
            if (former := labels.set_aside(path, read_result(path))) != again:
                aside = former
        files.write_atomically(path.with_name(stored.row.samples), archive)
        if aside is not None:
            path.replace(aside)
        files.write_atomically(path, text)
        with suppress(OSError):  # the new result is whole already
            again.unlink(missing_ok=True)
            own = re.escape(path.stem) + r"\.[0-9a-f]{8}\.npz"
            for name in named - _samples_of(path) if alone else ():
                if re.fullmatch(own, name):
                    path.with_name(name).unlink(missing_ok=True)
    return aside


def _samples_of(path: Path) -> set[str]:
    """Return the samples' files of the result in a file, of those that were moved from it, and of
    others whose names begin alike."""
    found = set()
    for one in path.parent.glob(f"{path.stem}*.json"):
        with suppress(UsageError):
            found.add(str(read_record(one).get("samples")))
    return found


def record_sha256(record: Record) -> str:
    """Return the hash that a record holds of itself: of all but that hash."""
    others = {k: v for k, v in record["provenance"].items() if k != "record_sha256"}
    return files.json_sha256({**record, "provenance": others})


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


def read_result(path: Path) -> ResultRow:
    """Read one result, of any version so far. Raises UsageError for other files."""
    return _to_row(_read(path), path)


def read_stored(paths: Iterable[Path]) -> list[Stored]:
    """Read results, with `distinguish`ed names. Raises UsageError for other files."""
    return labels.distinguish(
        Stored(path, _to_row(content, path), record_is_unchanged(_parse(content, path)))
        for path, content in ((path, _read(path)) for path in paths)
    )


def read_record(path: Path) -> Record:
    """Read the content of a result's JSON file, of whatever version. Raises UsageError."""
    return _parse(_read(path), path)


def _read(path: Path) -> bytes:
    with faults_of(f"{path}: cannot be read as a result: it "):
        return read_bytes(path)


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
        version = record["schema_version"]
        if version > SCHEMA_VERSION:
            known = f"versions up to {SCHEMA_VERSION}: install a newer cosmos-eval"
            raise UsageError(
                f"{path} is a result of version {version}, and this cosmos-eval knows {known}"
            ) from None
        if version != 1:
            raise
    for later in _later_than_1(record):  # an edit could remove the hash that version 2 holds
        raise _relabelled(str(path), later)
    return validate(ResultRow, json.dumps({**record, "schema_version": 2}), str(path))


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


def _later_than_1(record: Record) -> Iterator[str]:
    parts = {name: part for name, part in record.items() if isinstance(part, Mapping)}
    for part, names in _LATER.items():
        yield from sorted(names & parts.get(part, {}).keys())
    if isinstance(task := record.get("task"), str) and task not in _TASKS_1:
        yield f"task {task}"
    for name in sorted(parts.get("intervals", ())):
        if metric_of(str(task), name).unit == "rank":
            yield f"an interval of {name}"


def _relabelled(where: str, later: str) -> UsageError:
    came = "which came with a later version: restore the file or measure again"
    return UsageError(f"{where}: its schema_version is 1, but it has {later}, {came}")


class ImpossibleSamplesError(UsageError):
    """Samples that no measurement gives, though they are those that the record names."""


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
            return ResultFiles(record, row, read_bytes(path.with_name(row.samples), _LARGEST))
        except FileError as error:
            before, content = content, _read(path)
            if content == before:  # no other process has replaced the result meanwhile
                return ResultFiles(record, row, error)


def read_samples(path: Path) -> Samples:
    """Read the per-sample arrays of a result. Raises UsageError where they are not its own."""
    return samples_of(path, read_files(path))


def samples_of(path: Path, stored: ResultFiles) -> Samples:
    """Return the samples of a result that was read from a JSON file, as `read_samples` does.

    Raises ImpossibleSamplesError for its own samples if they hold what they cannot.
    """
    record, row, content = stored
    if isinstance(content, FileError):
        raise UsageError(f"{path}: its samples {row.samples} cannot be read: {content}")
    archive = path.with_name(row.samples)
    if hashlib.sha256(content).hexdigest() != row.provenance["samples_sha256"]:
        raise UsageError(f"{archive} is not what was stored with {path.name}: measure again")
    try:
        samples = files.unpack_arrays(content, _LARGEST)
    except ValueError as error:
        raise UsageError(f"{archive} holds no arrays: measure again ({error})") from error
    upgraded = _upgrade_samples(samples, record, str(path))
    tasks = known_tasks()
    if row.task not in tasks:
        return upgraded
    try:
        # Versions before 1 stored no names of images for most tasks.
        has_names = not row.provenance["version"].startswith("0.")
        tasks[row.task].require_valid(upgraded, row.provenance["hashes"], has_names=has_names)
    except ValueError as error:
        fault = f"{archive} holds no samples of task {row.task}: {error}"
        raise ImpossibleSamplesError(fault) from error
    return upgraded


def list_results(place: Path) -> tuple[list[Path], list[str]]:
    """List every *.json of a folder and those in it, or the file itself, sorted; and errors. Hidden
    files, which killed runs may leave, are no results. Symbolic links to folders are not followed:
    the same results would be found twice."""
    if not os.path.isdir(place):
        return [place], []
    paths: list[Path] = []
    errors: list[OSError] = []
    for folder, folders, names in os.walk(place, onerror=errors.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(folder, n) for n in names if n.endswith(".json") and not n.startswith(".")]
    faults = [
        f"cannot read folder {error.filename}: {error.strerror}"
        for error in errors
        if not isinstance(error, FileNotFoundError)
    ]
    return sorted(paths), faults if paths or faults else [_none_in(place)]


def result_paths(place: Path) -> list[Path]:
    """Return the files of `list_results`. Raises UsageError for its errors and missing folders."""
    paths, faults = list_results(place) if os.path.lexists(place) else ([], [_none_in(place)])
    if faults:
        raise UsageError(faults[0])
    return paths


def _none_in(place: Path) -> str:
    return f"no results (*.json) in {place}: run `cosmos-eval run` first"
