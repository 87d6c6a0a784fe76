"""Results on disk: one JSON file per result, with its per-sample arrays in an .npz file beside it.

Version 2 added the names of classes, groups and subsets to samples, a hash of themselves to
records, and intervals to ranks.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cosmos_core.utils import files
from cosmos_eval.data.readers import FileError, MissingFileError, read_bytes
from cosmos_eval.results.filenames import file_stem, renamed_result_path, samples_name
from cosmos_eval.results.identity import model_identity, model_label
from cosmos_eval.results.labels import StoredResult, label_results
from cosmos_eval.results.record import SCHEMA_VERSION, ResultRow, validate
from cosmos_eval.tasks import known_tasks, metric_of, task_named
from cosmos_eval.types import Samples, UsageError

Record = Mapping[str, Any]
"""A result as its JSON file holds it."""

ReadSamples = Callable[[Path], Samples]
"""A function that returns the per-sample arrays of a result file, such as `read_samples`. It raises
UsageError if there are none."""

RESULT_SUFFIX = ".json"
"""The suffix of the file of a result."""

HUB_FOLDER = ".eval_results"
"""The folder of a model's repository in which the Hugging Face hub keeps results as YAML files."""

_MOST_BYTES = 1 << 30  # of samples; 5,000 images with 171 classes take 1.3 MB packed
_TASKS_OF_VERSION_1 = frozenset({"retrieval", "cls", "seg", "select"})
# The fields of records, by section, and the arrays of samples that version 2 added.
_FIELDS_OF_VERSION_2 = {
    "provenance": {
        "partial",
        "stopped",
        "map",
        "protocol_map",
        "protocol_sha256",
        "record_sha256",
        "images_per_second",
    },
    "model": {
        "name",
        "code_sha256",
        "revision",
        "loaded_sha256",
        "preprocessing_sha256",
        "description_sha256",
        "facts",
        "training",
    },
}
_ARRAYS_OF_VERSION_2 = frozenset({"classes", "groups", "members", "subsets"})


def store_result(directory: Path, row: ResultRow, samples: Samples) -> StoredResult:
    """Write a result and its samples to a folder. Return the result as the JSON file holds it.

    A former result of the same model is replaced. A result of another model with the same name is
    renamed, and the returned result has its new path as `displaced_path`. A result of another name
    or data set, whose file name is the same, is never replaced. The samples are written first and
    have their hash in their name, so that a JSON file always names its own samples, even if the
    process is killed in between.

    Args:
        directory: The folder, which is created if it is missing.
        row: The result. Its fields on its own files, such as `samples`, are filled in here.
        samples: The per-sample arrays that the metrics follow from, by name.

    Raises:
        UsageError: For metrics that are not finite, for values that the schema does not allow, if
            the file holds a result of another name or data set, or of a newer version, and if the
            files cannot be written.
    """
    for name, value in row.metrics.items():
        if not math.isfinite(value):
            raise UsageError(
                f"{model_label(row)} on {row.dataset}: {name} is {value}, which is not a result; "
                "look for NaN in the model's features"
            )

    # Pack the samples, and complete the record by the name and the hash of their file.
    archive = files.pack_arrays(samples)
    archive_hash = hashlib.sha256(archive).hexdigest()
    record = to_record(row)
    record["samples"] = samples_name(row, archive_hash)
    record["provenance"]["samples_sha256"] = archive_hash
    record["provenance"]["record_sha256"] = record_sha256(record)

    # Check the record as it will be read.
    path = directory / f"{file_stem(row)}{RESULT_SUFFIX}"
    content = _to_json(record, indent=2).encode() + b"\n"
    stored = StoredResult(path, validate(ResultRow, content, str(path)))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        displaced_path = _write_files(stored, archive, content)
    except OSError as error:
        raise UsageError(f"cannot write results to {directory}: {error.strerror}") from error
    return replace(stored, displaced_path=displaced_path)


def to_record(row: ResultRow) -> dict[str, Any]:
    """Return a result as its JSON file holds it: a dictionary of plain Python values.

    The field `confusion_pairs` is left out if it is empty.
    """
    record: dict[str, Any] = json.loads(_to_json(vars(row)))
    if not row.confusion_pairs:
        del record["confusion_pairs"]
    return record


def _to_json(content: Any, indent: int | None = None) -> str:
    """Return content as JSON with sorted keys. It may hold NumPy scalars and any mappings.

    `indent` is the number of spaces per level; None for a single line. Raises ValueError for NaN
    and infinity.
    """
    return json.dumps(
        content, sort_keys=True, allow_nan=False, default=_to_plain_value, indent=indent
    )


def _to_plain_value(value: Any) -> Any:
    """Return a mapping as a dictionary, and a NumPy scalar as a Python number."""
    return dict(value) if isinstance(value, Mapping) else value.item()


def _write_files(stored: StoredResult, archive: bytes, content: bytes) -> Path | None:
    """Write both files of a result, and remove the samples of the result that it replaces.

    If the JSON file holds a result of another model, that file is renamed first. Samples are
    removed only if the folder could be locked. Without a lock, another process might be writing a
    result that names them.

    Args:
        stored: The new result, with the path of its JSON file.
        archive: The content of the samples file.
        content: The content of the JSON file.

    Returns:
        The new path of the result of another model, or None if there was no such result.
    """
    path = stored.path
    # A former result of this model has this path if a result of another model took its place since.
    renamed_path_of_this_model = renamed_result_path(path, stored.row)
    displaced_path = None
    with files.folder_lock(path.parent) as is_locked:
        # Find out whose result is in the file.
        former_samples = _referenced_samples(path)
        require_free_name(path, _cell_text(stored.row))
        with suppress(UsageError):  # there is no result in the file yet
            former_row = read_result(path)
            renamed_path_of_former_model = renamed_result_path(path, former_row)
            is_other_model = renamed_path_of_former_model != renamed_path_of_this_model
            if is_other_model:
                displaced_path = renamed_path_of_former_model

        # Write the samples before the result that names them.
        files.write_atomically(path.with_name(stored.row.samples), archive)
        if displaced_path is not None:
            path.replace(displaced_path)
        files.write_atomically(path, content)

        # Clean up. The new result is complete already, so errors do not matter.
        with suppress(OSError):
            if _holds_same_cell(renamed_path_of_this_model, stored.row):
                renamed_path_of_this_model.unlink()
            if is_locked:
                unused_samples = former_samples - _referenced_samples(path)
                # Remove only files that `samples_name` named.
                samples_pattern = re.escape(path.stem) + r"\.[0-9a-f]{8}\.npz"
                for name in unused_samples:
                    if re.fullmatch(samples_pattern, name):
                        path.with_name(name).unlink(missing_ok=True)
    return displaced_path


def _cell_text(row: ResultRow) -> str:
    """Return the names of a result's model, data set and protocol: "clip on coco (karpathy)"."""
    return f"{model_identity(row).name} on {row.dataset} ({row.protocol})"


def _holds_same_cell(path: Path, row: ResultRow) -> bool:
    """Return whether a file holds a result of the names of a model, data set and protocol."""
    try:
        return _cell_text(read_result(path)) == _cell_text(row)
    except UsageError:  # there is no result
        return False


def require_free_name(path: Path, cell: str) -> None:
    """Raise UsageError if a file holds a result of other names, which are the same in file names.

    Raise NewerVersionError if it holds a result of a newer version, which is never replaced.

    Args:
        path: The JSON file of a result that is to be measured.
        cell: Its names of the model, the data set and the protocol: "clip on coco (karpathy)".
    """
    try:
        former_cell = _cell_text(read_result(path))
    except NewerVersionError as error:
        raise NewerVersionError(f"{error}, or choose another --output") from error
    except UsageError:  # there is no result
        return
    if former_cell != cell:
        raise UsageError(
            f"{path} holds the result of {former_cell}, which has the same file name as {cell}: "
            "give one of them another name, or choose another --output"
        )


def current_path(path: Path, row: ResultRow) -> Path:
    """Return the JSON file that holds a result now.

    If a result of another model with the same name has been written to `path` since, `store_result`
    has renamed the file of this result.

    Args:
        path: The JSON file that the result was written to.
        row: The result.
    """
    renamed_path = renamed_result_path(path, row)
    with suppress(UsageError):  # nothing was stored at the path
        is_other_model = renamed_result_path(path, read_result(path)) != renamed_path
        if is_other_model:
            return renamed_path
    return path


def _referenced_samples(path: Path) -> set[str]:
    """Return the names of the samples files that results with similar file names refer to.

    Args:
        path: The JSON file of a result, such as "clip__coco__karpathy.json".

    Returns:
        The names in the JSON file and in all others of the folder whose names begin alike, such as
        "clip__coco__karpathy__1a2b3c4d.json", the renamed result of another model.
    """
    names = set()
    for result_path in path.parent.glob(f"{path.stem}*.json"):
        with suppress(UsageError):
            record = read_record(result_path)
            names.add(str(record.get("samples")))
    return names


def record_sha256(record: Record) -> str:
    """Return the hash of everything in a record except the field that holds this hash.

    The field is `record["provenance"]["record_sha256"]`.
    """
    provenance = dict(record["provenance"])
    provenance.pop("record_sha256", None)
    hashed_record = dict(record)
    hashed_record["provenance"] = provenance
    return files.json_sha256(hashed_record)


def record_is_unchanged(record: Record) -> bool | None:
    """Return whether a record is as it was written, judged by the hash that it holds of itself.

    Returns None for a record of version 1, which holds no such hash, so nothing is known. A record
    of a later version without a hash was edited.
    """
    provenance = record.get("provenance")
    stored_hash = None
    if isinstance(provenance, Mapping):
        stored_hash = provenance.get("record_sha256")
    if stored_hash is None:
        version = record.get("schema_version")
        is_version_1 = version == 1 and version is not True  # True equals 1 in Python
        return None if is_version_1 else False
    try:
        computed_hash = record_sha256(record)
    except ValueError:  # the record holds NaN, which cosmos-eval never writes
        return False
    return bool(stored_hash == computed_hash)


def read_result(path: Path) -> ResultRow:
    """Read a result from its JSON file, which may have been written by an older version.

    Raises UsageError if the file cannot be read or is not a result.
    """
    return _to_row(_read_content(path), path)


def read_stored(paths: Iterable[Path]) -> list[StoredResult]:
    """Read results without their samples, with labels that `label_results` makes unambiguous.

    Raises UsageError if a file cannot be read or is not a result.
    """
    results = []
    for path in paths:
        content = _read_content(path)
        row = _to_row(content, path)
        record = _parse(content, path)
        results.append(StoredResult(path, row, unchanged=record_is_unchanged(record)))
    return label_results(results)


def read_record(path: Path) -> Record:
    """Read the JSON file of a result as a dictionary, without checking more than its version.

    Raises UsageError if the file cannot be read or has no `schema_version`.
    """
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
    """Return the content of a JSON file as a dictionary. `path` is the file, for messages.

    Raises UsageError if the content is not JSON or has no `schema_version`.
    """
    try:
        record = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as a result: {error}") from error
    # True is an int in Python.
    if not isinstance(record, dict) or type(record.get("schema_version")) is not int:
        raise UsageError(f"{path}: not a result: it has no `schema_version` that is a number")
    return record


def _to_row(content: bytes, path: Path) -> ResultRow:
    """Return the content of a JSON file as a result of the current version.

    A result of version 1 is converted.

    Args:
        content: The content of the file.
        path: The file, for messages.

    Raises:
        UsageError: If the content is not a valid result, if a newer version wrote it, and if it
            says version 1 but has fields of version 2.
    """
    # Try the current version first. pydantic needs half the time of Python's json.
    try:
        return validate(ResultRow, content, str(path))
    except UsageError:
        record = _parse(content, path)
        version = record["schema_version"]
        if "baseline_sha256" in record:
            raise UsageError(
                f"{path} is a baseline of `check`, not a result: move it out of the folder of "
                "results, with the folder of its name"
            ) from None
        if version > SCHEMA_VERSION:
            raise NewerVersionError(
                f"{path} is a result of version {version}, and this cosmos-eval knows versions up "
                f"to {SCHEMA_VERSION}: install a newer cosmos-eval"
            ) from None
        if version != 1:
            raise

    # Version 1 has no hash of the record, so a forged result could claim to have version 1.
    additions = list(_additions_of_version_2(record))
    if additions:
        raise _version_error(str(path), additions[0])
    converted_record = {**record, "schema_version": 2}
    return validate(ResultRow, json.dumps(converted_record), str(path))


def _upgrade_samples(samples: Samples, record: Record, place: str) -> Samples:
    """Return the samples of a result as the current version holds them.

    Samples of version 1 are converted by the task of the result.

    Args:
        samples: The per-sample arrays that were read, by name.
        record: The result, as its JSON file holds it.
        place: The JSON file, for messages.

    Raises:
        UsageError: If the samples lack what the current version needs, or if they have arrays that
            version 1 did not have.
    """
    if record["schema_version"] != 1:
        return samples
    additions = sorted(samples.keys() & _ARRAYS_OF_VERSION_2)
    if additions:
        raise _version_error(place, f"samples with `{additions[0]}`")
    upgrade_of_task = task_named(record["task"]).upgrade
    if upgrade_of_task is None:
        return samples
    try:
        return upgrade_of_task(samples, record)
    except (UsageError, ValueError) as error:
        raise UsageError(
            f"{place} has version 1, which does not hold the order of its classes: measure again"
        ) from error


def _additions_of_version_2(record: Record) -> Iterator[str]:
    """Yield what a record has that version 1 did not have: fields, tasks and intervals of ranks.

    The record was not checked before, so that its values can have any type.

    Example: "record_sha256", "task loc", "an interval of mean_rank".
    """
    # Fields of mappings in the record, such as "provenance".
    mappings = {name: value for name, value in record.items() if isinstance(value, Mapping)}
    for name, new_fields in _FIELDS_OF_VERSION_2.items():
        yield from sorted(new_fields & mappings.get(name, {}).keys())

    task = record.get("task")
    if isinstance(task, str) and task not in _TASKS_OF_VERSION_1:
        yield f"task {task}"

    for metric in sorted(mappings.get("intervals", ())):
        if metric_of(str(task), metric).unit == "rank":
            yield f"an interval of {metric}"


def _version_error(place: str, addition: str) -> UsageError:
    """Return the error for a result that says version 1, but has an addition of version 2.

    `place` is the file. `addition` is what `_additions_of_version_2` yields.
    """
    return UsageError(
        f"{place}: its schema_version is 1, but it has {addition}, which came with a later "
        "version: restore the file or measure again"
    )


class NewerVersionError(UsageError):
    """Raised for a result that a newer version of cosmos-eval wrote."""


class ImpossibleSamplesError(UsageError):
    """Raised for samples that no measurement could give, though the record has their hash."""


class ResultFiles(NamedTuple):
    """Both files of a result, as read."""

    # The content of the JSON file.
    record: Record
    # The same content as a result of the current version.
    row: ResultRow
    # The bytes of the samples file, or the error if it could not be read.
    archive: bytes | FileError


def read_files(path: Path) -> ResultFiles:
    """Read the JSON file of a result and the samples file that it names.

    Another process may replace the result after the JSON file was read, and remove the old samples.
    Both files are then read again. Raises UsageError if the JSON file is not a result.
    """
    content = _read_content(path)
    while True:
        record = _parse(content, path)
        row = _to_row(content, path)
        archive: bytes | FileError
        try:
            archive = read_bytes(path.with_name(row.samples), _MOST_BYTES)
        except FileError as error:
            archive = error
            newest_content = _read_content(path)
            was_replaced = newest_content != content
            if was_replaced:
                content = newest_content
                continue
        return ResultFiles(record, row, archive)


def read_samples(path: Path) -> Samples:
    """Read the per-sample arrays of the result in the JSON file `path`, by name.

    Raises UsageError if they cannot be read or belong to another result.
    """
    return samples_of(path, read_files(path))


def samples_of(path: Path, stored: ResultFiles) -> Samples:
    """Return the per-sample arrays of a result, by name, from the files that `read_files` read.

    Args:
        path: The JSON file of the result, for messages.
        stored: The content of both files.

    Raises:
        UsageError: If the samples cannot be read or belong to another result.
        ImpossibleSamplesError: If the samples are those that were stored, but have values that no
            measurement of the task could give.
    """
    record, row, archive = stored
    if isinstance(archive, FileError):
        raise UsageError(f"{path}: its samples {row.samples} cannot be read: {archive}")
    samples_path = path.with_name(row.samples)
    if hashlib.sha256(archive).hexdigest() != row.provenance["samples_sha256"]:
        raise UsageError(f"{samples_path} is not what was stored with {path.name}: measure again")
    try:
        arrays = files.unpack_arrays(archive, _MOST_BYTES)
    except ValueError as error:
        raise UsageError(f"{samples_path} holds no arrays: measure again ({error})") from error
    samples = _upgrade_samples(arrays, record, str(path))

    # Samples of a task that is not installed cannot be checked. A run that stopped stores other
    # arrays, which `decisions.recompute` checks.
    tasks = known_tasks()
    if row.task not in tasks or "stopped" in row.provenance:
        return samples
    # Versions before 1 stored no names of images for most tasks.
    has_names = not row.provenance["version"].startswith("0.")
    try:
        tasks[row.task].require_valid(samples, row.provenance["hashes"], has_names=has_names)
    except ValueError as error:
        raise ImpossibleSamplesError(
            f"{samples_path} holds no samples of task {row.task}: {error}"
        ) from error
    return samples


def list_results(
    place: Path, suffixes: Sequence[str] = (RESULT_SUFFIX,)
) -> tuple[list[Path], list[str]]:
    """Return the files of results in a folder and its subfolders, and messages on faults.

    Hidden files are left out, since killed runs may leave them, and so are hidden folders, except
    for those in which the Hugging Face hub keeps results. Symbolic links to folders are followed,
    unless the results in them are listed anyway.

    Args:
        place: A folder, or a file, which is returned without a check.
        suffixes: The suffixes of the files to list.

    Returns:
        The sorted paths, and one message for each folder that cannot be read, or one message if the
        folder has no results.
    """
    if not os.path.isdir(place):
        return [place], []

    paths: list[Path] = []
    errors: list[OSError] = []
    root = Path(os.path.realpath(place))
    visited = {root}
    for folder, subfolders, file_names in os.walk(place, onerror=errors.append, followlinks=True):
        # os.walk visits only the subfolders that stay in this list.
        subfolders[:] = _unvisited_subfolders(folder, subfolders, root, visited)
        for name in file_names:
            if name.endswith(tuple(suffixes)) and not name.startswith("."):
                paths.append(Path(folder, name))

    faults = []
    for error in errors:
        # A folder that is missing by now was removed while it was searched.
        if not isinstance(error, FileNotFoundError):
            faults.append(f"cannot read folder {error.filename}: {error.strerror}")
    if not paths and not faults:
        faults = [no_results_in(place)]
    return sorted(paths), faults


def _unvisited_subfolders(
    folder: str, names: Sequence[str], root: Path, visited: set[Path]
) -> list[str]:
    """Return the sorted names of the subfolders that are searched for results, each folder once.

    Args:
        folder: The folder that has the subfolders.
        names: The names of the subfolders.
        root: The folder in which the search began, without symbolic links.
        visited: The folders that were searched so far, to which the subfolders are added.
    """
    chosen_names = []
    for name in sorted(names):
        if name.startswith(".") and name != HUB_FOLDER:
            continue
        path = Path(folder, name)
        target = Path(os.path.realpath(path))
        is_link_inside = path.is_symlink() and target.is_relative_to(root)
        if target not in visited and not is_link_inside:
            visited.add(target)
            chosen_names.append(name)
    return chosen_names


def result_paths(place: Path, suffixes: Sequence[str] = (RESULT_SUFFIX,)) -> list[Path]:
    """Return the sorted files of the results in a folder, as `list_results` does.

    Raises UsageError if the folder is missing, has no results or cannot be read.
    """
    if not os.path.lexists(place):
        raise UsageError(no_results_in(place))
    paths, faults = list_results(place, suffixes)
    if faults:
        raise UsageError(faults[0])
    return paths


def no_results_in(place: Path) -> str:
    """Return the message for a folder without results."""
    return f"no results (*.json) in {place}: run `cosmos-eval run` first"
