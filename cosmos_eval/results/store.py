"""Results on disk: one JSON file per result, with its per-sample arrays in an .npz file beside it.

Version 2 added the names of classes, groups and subsets to samples, a hash of themselves to
records, and intervals to ranks.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_core.utils import files
from cosmos_eval.data.readers import FileError, MissingFileError, read_bytes
from cosmos_eval.results.filenames import file_stem, samples_name, set_aside
from cosmos_eval.results.identity import model_label
from cosmos_eval.results.labels import Stored, distinguish
from cosmos_eval.results.record import SCHEMA_VERSION, ResultRow, validate
from cosmos_eval.tasks import known_tasks, metric_of, task_named
from cosmos_eval.types import Samples, UsageError

Record = Mapping[str, Any]
"""A result as its JSON file holds it."""

Read = Callable[[Path], Samples]
"""Returns the per-sample arrays of a result file; raises UsageError if there are none."""

_LARGEST = 1 << 30  # bytes of samples; 5,000 images with 171 classes take 1.3 MB packed
_TASKS_OF_VERSION_1 = frozenset({"retrieval", "cls", "seg", "select"})
# The fields of records, by section, and the arrays of samples that version 2 added.
_FIELDS_OF_VERSION_2 = {
    "provenance": {"partial", "map", "protocol_map", "record_sha256", "images_per_second"},
    "model": {"name", "code_sha256", "revision", "facts", "training"},
}
_ARRAYS_OF_VERSION_2 = frozenset({"classes", "groups", "members", "subsets"})


def store_result(directory: Path, row: ResultRow, samples: Samples) -> Stored:
    """Write a result and its samples; return the result as the JSON file holds it.

    A former result of the same model is replaced. A result of another model of the same name is
    moved aside. The samples are written first and have their hash in their name, so that a JSON
    file always names its own samples. Raises UsageError for values that the schema does not allow,
    and if the files cannot be written.
    """
    for name, value in row.metrics.items():
        if not math.isfinite(value):
            raise UsageError(
                f"{model_label(row)} on {row.dataset}: {name} is {value}, which is not a result; "
                "look for NaN in the model's features"
            )
    archive = files.pack_arrays(samples)
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
        return replace(stored, aside=_write_files(stored, archive, text))
    except OSError as error:
        raise UsageError(f"cannot write results to {directory}: {error.strerror}") from error


def to_record(row: ResultRow) -> dict[str, Any]:
    """Return a result as JSON holds it."""
    record: dict[str, Any] = json.loads(_to_text(vars(row)))
    if not row.confusion_pairs:
        del record["confusion_pairs"]
    return record


def _to_text(content: Any, indent: int | None = None) -> str:
    """Return content as JSON with sorted keys, including NumPy scalars and any kind of mapping."""

    def to_plain(value: Any) -> Any:
        return dict(value) if isinstance(value, Mapping) else value.item()

    return json.dumps(content, sort_keys=True, allow_nan=False, default=to_plain, indent=indent)


def _write_files(stored: Stored, archive: bytes, text: bytes) -> Path | None:
    """Write both files of a result, and remove the samples of the result that it replaces.

    Returns the file to which the result of another model was moved, or None if there was none.
    Samples are removed only if the folder could be locked: otherwise another process may write a
    result that names them.
    """
    path = stored.path
    moved_before = set_aside(path, stored.row)  # where this model may have been moved before
    moved_to = None
    with files.folder_lock(path.parent) as is_locked:
        former_samples = _samples_named_by(path)
        with suppress(UsageError):
            aside = set_aside(path, read_result(path))
            if aside != moved_before:
                moved_to = aside
        files.write_atomically(path.with_name(stored.row.samples), archive)
        if moved_to is not None:
            path.replace(moved_to)
        files.write_atomically(path, text)
        with suppress(OSError):  # the new result is complete already
            moved_before.unlink(missing_ok=True)
            if is_locked:
                _remove_samples(path, former_samples - _samples_named_by(path))
    return moved_to


def _remove_samples(path: Path, names: Iterable[str]) -> None:
    """Remove the named samples that belong to the result in a file."""
    pattern = re.escape(path.stem) + r"\.[0-9a-f]{8}\.npz"
    for name in names:
        if re.fullmatch(pattern, name):
            path.with_name(name).unlink(missing_ok=True)


def _samples_named_by(path: Path) -> set[str]:
    """Return the names of the samples that results in the folder of a file refer to.

    These are the result in the file itself, results that were moved aside from it, and all others
    whose file names begin with the same text.
    """
    names = set()
    for result_path in path.parent.glob(f"{path.stem}*.json"):
        with suppress(UsageError):
            names.add(str(read_record(result_path).get("samples")))
    return names


def record_sha256(record: Record) -> str:
    """Return the hash that a record holds of itself, which covers everything else in it."""
    provenance = {
        name: value for name, value in record["provenance"].items() if name != "record_sha256"
    }
    return files.json_sha256({**record, "provenance": provenance})


def record_is_unchanged(record: Record) -> bool | None:
    """Return whether a record still has the content whose hash it holds.

    Returns None for a record of version 1, which holds no hash of itself.
    """
    provenance = record.get("provenance")
    stored_hash = provenance.get("record_sha256") if isinstance(provenance, Mapping) else None
    if stored_hash is None:
        version = record.get("schema_version")
        return None if version == 1 and version is not True else False
    try:
        return bool(stored_hash == record_sha256(record))
    except ValueError:  # NaN, which no record holds
        return False


def read_result(path: Path) -> ResultRow:
    """Read a result of any version so far. Raises UsageError for other files."""
    return _to_row(_read_content(path), path)


def read_stored(paths: Iterable[Path]) -> list[Stored]:
    """Read results, with labels by `distinguish`. Raises UsageError for other files."""
    results = []
    for path in paths:
        content = _read_content(path)
        row = _to_row(content, path)
        results.append(Stored(path, row, record_is_unchanged(_parse(content, path))))
    return distinguish(results)


def read_record(path: Path) -> Record:
    """Read the content of a result's JSON file, of any version. Raises UsageError."""
    return _parse(_read_content(path), path)


def _read_content(path: Path) -> bytes:
    """Return the content of a file. Raises UsageError if it cannot be read."""
    try:
        return read_bytes(path)
    except MissingFileError:
        raise UsageError(
            f"{path}: cannot be read as a result: there is no such file or folder"
        ) from None
    except FileError as error:
        raise UsageError(f"{path}: cannot be read as a result: it {error}") from error


def _parse(content: bytes, path: Path) -> Record:
    """Return the content of a JSON file as a record. Raises UsageError if it is not a result."""
    try:
        record = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as a result: {error}") from error
    # True is an int in Python.
    if not isinstance(record, dict) or type(record.get("schema_version")) is not int:
        raise UsageError(f"{path}: not a result: it has no `schema_version` that is a number")
    return record


def _to_row(content: bytes, path: Path) -> ResultRow:
    """Return the content of a JSON file as a result of this version. Raises UsageError."""
    try:
        return validate(ResultRow, content, str(path))  # in half the time of Python's json
    except UsageError:
        record = _parse(content, path)
        version = record["schema_version"]
        if version > SCHEMA_VERSION:
            raise UsageError(
                f"{path} is a result of version {version}, and this cosmos-eval knows versions up "
                f"to {SCHEMA_VERSION}: install a newer cosmos-eval"
            ) from None
        if version != 1:
            raise
    # A forged result could say version 1, because version 1 has no hash of the record.
    additions = list(_additions_of_version_2(record))
    if additions:
        raise _version_error(str(path), additions[0])
    return validate(ResultRow, json.dumps({**record, "schema_version": 2}), str(path))


def _upgrade_samples(samples: Samples, record: Record, place: str) -> Samples:
    """Return samples as this version holds them.

    Raises UsageError if samples of version 1 lack what this version needs.
    """
    if record["schema_version"] != 1:
        return samples
    additions = sorted(samples.keys() & _ARRAYS_OF_VERSION_2)
    if additions:
        raise _version_error(place, f"samples with `{additions[0]}`")
    upgrade = task_named(record["task"]).upgrade
    if upgrade is None:
        return samples
    try:
        return upgrade(samples, record)
    except (UsageError, ValueError) as error:
        raise UsageError(
            f"{place} has version 1, which does not hold the order of its classes: measure again"
        ) from error


def _additions_of_version_2(record: Record) -> Iterator[str]:
    """Yield the names of everything in a record that version 1 did not have."""
    sections = {name: value for name, value in record.items() if isinstance(value, Mapping)}
    for section, names in _FIELDS_OF_VERSION_2.items():
        yield from sorted(names & sections.get(section, {}).keys())
    task = record.get("task")
    if isinstance(task, str) and task not in _TASKS_OF_VERSION_1:
        yield f"task {task}"
    for name in sorted(sections.get("intervals", ())):
        if metric_of(str(task), name).unit == "rank":
            yield f"an interval of {name}"


def _version_error(place: str, addition: str) -> UsageError:
    """Return the error for a result that says version 1 but has an addition of version 2."""
    return UsageError(
        f"{place}: its schema_version is 1, but it has {addition}, which came with a later "
        "version: restore the file or measure again"
    )


class ImpossibleSamplesError(UsageError):
    """Raised for samples that no measurement could give, though the record has their hash."""


class ResultFiles(NamedTuple):
    """Both files of a result, as read."""

    # The content of the JSON file.
    record: Record
    # The same content as a result of this version.
    row: ResultRow
    # The content of the samples file, or the error of reading it.
    archive: bytes | FileError


def read_files(path: Path) -> ResultFiles:
    """Read the JSON file of a result and its samples. Raises UsageError for another JSON file."""
    content = _read_content(path)
    while True:
        record, row = _parse(content, path), _to_row(content, path)
        try:
            return ResultFiles(record, row, read_bytes(path.with_name(row.samples), _LARGEST))
        except FileError as error:
            former_content, content = content, _read_content(path)
            if content == former_content:  # another process did not replace the result meanwhile
                return ResultFiles(record, row, error)


def read_samples(path: Path) -> Samples:
    """Read the per-sample arrays of a result. Raises UsageError for samples of another result."""
    return samples_of(path, read_files(path))


def samples_of(path: Path, stored: ResultFiles) -> Samples:
    """Return the samples of a result that was read from the JSON file `path`.

    Raises UsageError if the samples cannot be read or belong to another result, and
    ImpossibleSamplesError if they are its own, but hold what samples of the task cannot.
    """
    record, row, content = stored
    if isinstance(content, FileError):
        raise UsageError(f"{path}: its samples {row.samples} cannot be read: {content}")
    archive = path.with_name(row.samples)
    if hashlib.sha256(content).hexdigest() != row.provenance["samples_sha256"]:
        raise UsageError(f"{archive} is not what was stored with {path.name}: measure again")
    try:
        arrays = files.unpack_arrays(content, _LARGEST)
    except ValueError as error:
        raise UsageError(f"{archive} holds no arrays: measure again ({error})") from error
    samples = _upgrade_samples(arrays, record, str(path))
    tasks = known_tasks()
    if row.task not in tasks:
        return samples
    try:
        # Versions before 1 stored no names of images for most tasks.
        has_names = not row.provenance["version"].startswith("0.")
        tasks[row.task].require_valid(samples, row.provenance["hashes"], has_names=has_names)
    except ValueError as error:
        raise ImpossibleSamplesError(
            f"{archive} holds no samples of task {row.task}: {error}"
        ) from error
    return samples


def list_results(place: Path) -> tuple[list[Path], list[str]]:
    """Return the result files in a folder and its subfolders, sorted, and messages on faults.

    If `place` is a file, it is the only result. Hidden files, which killed runs may leave, are not
    results. Symbolic links to folders are not followed: the results would be listed twice.
    """
    if not os.path.isdir(place):
        return [place], []
    paths: list[Path] = []
    errors: list[OSError] = []
    for folder, folders, names in os.walk(place, onerror=errors.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.endswith(".json") and not name.startswith("."):
                paths.append(Path(folder, name))
    faults = [
        f"cannot read folder {error.filename}: {error.strerror}"
        for error in errors
        if not isinstance(error, FileNotFoundError)
    ]
    if not paths and not faults:
        faults = [_no_results_in(place)]
    return sorted(paths), faults


def result_paths(place: Path) -> list[Path]:
    """Return the files of `list_results`. Raises UsageError for its errors and missing folders."""
    if not os.path.lexists(place):
        raise UsageError(_no_results_in(place))
    paths, faults = list_results(place)
    if faults:
        raise UsageError(faults[0])
    return paths


def _no_results_in(place: Path) -> str:
    return f"no results (*.json) in {place}: run `cosmos-eval run` first"
