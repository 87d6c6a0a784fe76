"""Find the results of cosmos-eval and of other tools in files and folders."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cosmos_core.utils.text import first_of
from cosmos_eval.data.readers import FileError, path_of, read_text
from cosmos_eval.results import RESULTS
from cosmos_eval.results.checked import read_checked
from cosmos_eval.results.exchange.formats import FORMATS
from cosmos_eval.results.exchange.record import ImportedFile, ImportedResult
from cosmos_eval.results.labels import StoredResult, repeat_notes, result_warnings
from cosmos_eval.results.store import RESULT_SUFFIX, no_results_in, result_paths
from cosmos_eval.results.text import one_line
from cosmos_eval.types import UsageError

_SUFFIXES = (RESULT_SUFFIX, *(suffix for format in FORMATS.values() for suffix in format.suffixes))
# Only results of cosmos-eval have a version that is a number. They need not be parsed here.
_VERSION = re.compile(r'"schema_version"\s*:\s*\d')
_MOST_FILES, _MOST_NAMES = 2, 5  # that a note lists


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
        places: Files, and folders, which are searched with the folders within them. Other files
            than .json in a folder are skipped if no known tool wrote them.

    Raises:
        UsageError: For a place without results, for a named file of an unknown tool, and if two
            files give different numbers for one model, data set and metric.
    """
    paths: list[Path] = []
    results: list[ImportedResult] = []
    file_notes: list[str] = []
    paths_by_unread_name: dict[str, list[str]] = {}
    paths_by_unknown_dataset: dict[str, list[str]] = {}
    for place in places:
        n_paths, n_results = len(paths), len(results)
        for path in result_paths(place, _SUFFIXES):
            imported_file = _read_import(path)
            if imported_file is not None:
                results += imported_file.results
                for name in imported_file.unread:
                    paths_by_unread_name.setdefault(name, []).append(str(path))
                for name in imported_file.unknown_datasets:
                    paths_by_unknown_dataset.setdefault(name, []).append(str(path))
                file_notes += [f"{path}: {note}" for note in imported_file.notes]
            elif path.suffix == RESULT_SUFFIX or not path.is_file():
                paths.append(path)
        is_empty = (n_paths, n_results) == (len(paths), len(results))
        if is_empty:
            raise UsageError(_describe_empty_place(place))
    notes = [
        *_note("not read", paths_by_unread_name),
        *_note("data sets unknown here", paths_by_unknown_dataset),
        *file_notes,
    ]
    return ResultFiles(paths, merge_results(results), notes)


def _describe_empty_place(place: Path) -> str:
    """Return the message for a file or folder without any result."""
    if place.is_dir():
        return no_results_in(place)
    tools = ", ".join(format.tool for format in FORMATS.values())
    return f"{place}: cannot be read as results of cosmos-eval, {tools}"


def _note(kind: str, paths_by_name: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a note on names in files, or an empty list without names.

    Args:
        kind: A title of the names, such as "not read".
        paths_by_name: The files that have each name.

    Example: ["table.csv: not read: params (M), FLOPs (B)"].
    """
    if not paths_by_name:
        return []
    paths = dict.fromkeys(path for paths in paths_by_name.values() for path in paths)
    names = first_of(list(paths_by_name), _MOST_NAMES)
    return [f"{first_of(list(paths), _MOST_FILES)}: {kind}: {names}"]


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
    files = find_results([path_of(place, "a place of results") for place in places or (RESULTS,)])
    results = read_checked(files.paths)
    for line in [*files.notes, *result_warnings(results), *repeat_notes(results)]:
        warnings.warn(one_line(line), stacklevel=3)
    return results, files.imported


def _read_import(path: Path) -> ImportedFile | None:
    """Return the content of a file of another tool; None for any other file.

    A file that cannot be read counts as a result of cosmos-eval, whose reader reports the fault.
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
