"""Find the results of cosmos-eval and of other tools in files and folders."""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cosmos_core.utils.text import first_of
from cosmos_eval.data.readers import FileError, read_text
from cosmos_eval.results import RESULTS
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.exchange.formats import FORMATS
from cosmos_eval.results.exchange.record import ImportedFile, ImportedResult
from cosmos_eval.results.labels import StoredResult, repeat_notes, result_warnings
from cosmos_eval.results.store import RESULT_SUFFIX, result_paths
from cosmos_eval.results.text import one_line
from cosmos_eval.types import UsageError

_SUFFIXES = (RESULT_SUFFIX, *(suffix for format in FORMATS.values() for suffix in format.suffixes))
# Only results of cosmos-eval have a version that is a number.
_VERSION = re.compile(r'"schema_version"\s*:\s*\d')
_MOST_FILES = 2  # that a note names


class ResultFiles(NamedTuple):
    """The results in several places."""

    # The JSON files of cosmos-eval, which are not read yet, and JSON files of unknown tools.
    paths: list[Path]
    # The results in files of other tools.
    imported: list[ImportedResult]
    # What was not read, one line each.
    notes: list[str]


def find_results(places: Iterable[Path]) -> ResultFiles:
    """Find the results in files and folders, and read those that other tools wrote.

    Args:
        places: Files, and folders, which are searched with the folders within them.

    Raises:
        UsageError: For a place without results, for a file of an unknown tool, and if two files
            give different numbers for one model, data set and metric.
    """
    paths = []
    results: list[ImportedResult] = []
    paths_by_note: dict[str, list[str]] = {}
    for place in places:
        for path in result_paths(place, _SUFFIXES):
            imported_file = _read_import(path)
            if imported_file is not None:
                results += imported_file.results
                for note in imported_file.notes:
                    paths_by_note.setdefault(note, []).append(str(path))
            elif path.suffix == RESULT_SUFFIX or not path.is_file():
                paths.append(path)
            elif path == place:
                tools = ", ".join(format.tool for format in FORMATS.values())
                raise UsageError(f"{path}: not a file of results of cosmos-eval, {tools}")
            else:
                note = "not read, since no known tool wrote it"
                paths_by_note.setdefault(note, []).append(str(path))
    notes = []
    for note, paths_of_note in paths_by_note.items():
        notes.append(f"{first_of(paths_of_note, _MOST_FILES)}: {note}")
    return ResultFiles(paths, merge_results(results), notes)


def read_all_places(
    places: Sequence[str | Path],
) -> tuple[list[StoredResult], list[ImportedResult]]:
    """Read results for a public function, and warn of faulty ones at the line that calls it.

    Args:
        places: Files and folders, see `find_results`. Without places it is `runs/eval` in the
            current folder.

    Returns:
        The results of cosmos-eval, and the results of other tools.

    Raises:
        UsageError: As `find_results` does, and for files that are not results.
    """
    files = find_results([Path(place) for place in places or (RESULTS,)])
    results = read_checked(files.paths)
    for line in [*files.notes, *result_warnings(results), *repeat_notes(results)]:
        warnings.warn(one_line(line), stacklevel=3)
    return results, files.imported


def _read_import(path: Path) -> ImportedFile | None:
    """Return the content of a file of another tool; None for any other file.

    A file that cannot be read is no file of another tool. Who reads it as a result of cosmos-eval
    says what is wrong with it.
    """
    try:
        text = read_text(path)
    except FileError:
        return None
    if _VERSION.search(text):
        return None
    for format in FORMATS.values():
        imported_file = format.read(text, path)
        if imported_file is not None:
            return imported_file
    return None


def merge_results(results: Sequence[ImportedResult]) -> list[ImportedResult]:
    """Return one result per model, data set and protocol, with the metrics of all files.

    Raises UsageError if two files give different values of a metric.
    """
    merged: dict[tuple[str, str, str], ImportedResult] = {}
    for result in results:
        first = merged.setdefault(result.cell, result)
        for name, value in result.metrics.items():
            first_value = first.metrics.get(name, value)
            if first_value != value:
                raise UsageError(
                    f"{name} of {result.model} on {result.dataset} is {first_value} in "
                    f"{first.path} and {value} in {result.path}: keep one of the files"
                )
        merged[result.cell] = replace(first, metrics=dict(first.metrics) | dict(result.metrics))
    return list(merged.values())
