"""Results for tables: read together with their samples, which may contradict them.

`verify` recomputes every figure, which takes seconds. For a table the hash of the samples is
compared with the recorded one, and the metrics, without their intervals, are recomputed.
"""

import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cosmos_eval.data.readers import FileError, MissingFileError
from cosmos_eval.results.labels import (
    EDITED_METRICS,
    EDITED_SAMPLES,
    Stored,
    distinguish,
    warnings_of,
)
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import read_files, record_is_unchanged, result_paths, samples_of
from cosmos_eval.results.text import one_line
from cosmos_eval.tasks import task_named
from cosmos_eval.types import UsageError

RECOMPUTED_BYTES = 16 << 20
"""The most bytes of samples that metrics are recomputed from, which takes about a second."""

_BYTES_OF_OPENING = 64 << 10  # opening a file takes as long as reading this many bytes


def read_checked(paths: Iterable[Path]) -> list[Stored]:
    """Read results as `read_stored` does, and note which of them their samples contradict.

    Results without samples stay as they are. Raises UsageError for files that are not results.
    """
    results = []
    recomputable_sizes: dict[Path, int] = {}  # bytes of the samples of results, by their file
    for path in paths:
        files = read_files(path)
        unchanged = record_is_unchanged(files.record)
        contradiction = _contradiction_of_hash(files.row, files.archive)
        if isinstance(files.archive, bytes) and not contradiction and unchanged is not False:
            recomputable_sizes[path] = len(files.archive)
        results.append(Stored(path, files.row, unchanged, contradiction))
    recomputed_paths = _smallest_files(recomputable_sizes)
    checked_results = []
    for result in results:
        if result.path in recomputed_paths:
            result = replace(result, contradiction=contradiction_of_metrics(result.path))
        elif result.path in recomputable_sizes:
            result = replace(result, recomputed=False)
        checked_results.append(result)
    return distinguish(checked_results)


def read_results(directory: str | Path) -> list[ResultRow]:
    """Read every result of a folder, in the order of `result_paths`.

    Warns of edited results, and of different models of the same name. Raises UsageError if the
    folder has no results or a file is not a result.
    """
    results = read_checked(result_paths(Path(directory)))
    for line in warnings_of(results):
        warnings.warn(one_line(line), stacklevel=2)
    return [result.row for result in results]


def _contradiction_of_hash(row: ResultRow, archive: bytes | FileError) -> str:
    """Return how samples contradict a result by their hash; empty if they do not or are missing."""
    if isinstance(archive, FileError):
        return "" if isinstance(archive, MissingFileError) else EDITED_SAMPLES
    digest = hashlib.sha256(archive).hexdigest()
    return "" if digest == row.provenance["samples_sha256"] else EDITED_SAMPLES


def _smallest_files(sizes: dict[Path, int]) -> set[Path]:
    """Return as many of the smallest files as have RECOMPUTED_BYTES together, or fewer."""
    chosen, total = set(), 0
    for path in sorted(sizes, key=lambda path: sizes[path]):
        total += sizes[path] + _BYTES_OF_OPENING
        if total > RECOMPUTED_BYTES:
            break
        chosen.add(path)
    return chosen


def contradiction_of_metrics(path: Path) -> str:
    """Return how the samples contradict the result in a file by the metrics that they give.

    Empty if they give the same metrics, or if the task is not installed.
    """
    files = read_files(path)
    row = files.row
    try:
        task = task_named(row.task)
    except UsageError:  # the task is not installed, or its package is broken
        return ""
    methods = {name: interval["method"] for name, interval in row.intervals.items()}
    try:
        samples = samples_of(path, files)
        metrics = task.values(task.estimates(task.derive(samples)), methods)
    except Exception:  # a task of another package may raise any error for foreign samples
        return EDITED_SAMPLES
    is_same = metrics == row.metrics and task.count(samples) == row.n_samples
    return "" if is_same else EDITED_METRICS
