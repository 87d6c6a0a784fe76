"""Results for tables: read together with their samples, which may contradict them.

`verify` recomputes every figure, which takes seconds. For a table the hash of the samples is
compared with the recorded one, and the metrics, without their intervals, are recomputed.
"""

import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cosmos_eval.data.readers import FileError, MissingFileError, path_of
from cosmos_eval.results.identity import STOPPED, is_stopped
from cosmos_eval.results.labels import (
    EDITED_METRICS,
    EDITED_SAMPLES,
    StoredResult,
    label_results,
    result_warnings,
)
from cosmos_eval.results.record import ResultRow, is_same_figure
from cosmos_eval.results.store import read_files, record_is_unchanged, result_paths, samples_of
from cosmos_eval.results.text import one_line
from cosmos_eval.tasks import task_named
from cosmos_eval.types import UsageError

RECOMPUTED_BYTES = 16 << 20
"""The most bytes of samples from which metrics are recomputed, which takes about a second."""

_OPENING_COST = 64 << 10  # opening a file takes as long as reading this many bytes


def read_checked(paths: Iterable[Path]) -> list[StoredResult]:
    """Read results, and find out which of them their samples contradict.

    The hash of all samples is compared with the recorded hash. Metrics are recomputed from the
    smallest samples, up to RECOMPUTED_BYTES in total. Results without samples are not checked.

    Args:
        paths: The JSON files of the results.

    Returns:
        The results, with labels that `label_results` makes unambiguous. The field `contradiction`
        says how the samples contradict a result. The field `recomputed` is false for results whose
        metrics were not recomputed, although they have samples.

    Raises:
        UsageError: If a file is not a result.
    """
    # Compare hashes, and note the size of the samples from which metrics can be recomputed.
    results = []
    recomputable_sizes: dict[Path, int] = {}  # in bytes, by the file of the result
    for path in paths:
        files = read_files(path)
        unchanged = record_is_unchanged(files.record)
        contradiction = _contradiction_of_hash(files.row, files.archive)
        is_edited = unchanged is False or contradiction != ""
        if isinstance(files.archive, bytes) and not is_edited:
            recomputable_sizes[path] = len(files.archive)
        results.append(StoredResult(path, files.row, unchanged, contradiction))

    # Choose the smallest samples, as many as can be recomputed in about a second.
    recomputed_paths = set()
    total_cost = 0  # in bytes
    for path in sorted(recomputable_sizes, key=lambda path: recomputable_sizes[path]):
        total_cost += recomputable_sizes[path] + _OPENING_COST
        if total_cost > RECOMPUTED_BYTES:
            break
        recomputed_paths.add(path)

    # Recompute their metrics.
    checked_results = []
    for result in results:
        if result.path in recomputed_paths:
            result = replace(result, contradiction=contradiction_of_metrics(result.path))
        elif result.path in recomputable_sizes:
            result = replace(result, recomputed=False)
        checked_results.append(result)
    return label_results(checked_results)


def read_results(directory: str | Path) -> list[ResultRow]:
    """Read all results in a folder and its subfolders, sorted by their paths.

    Warns of edited results, and of different models with the same name. Raises UsageError if the
    folder has no results, or if a JSON file in it is not a result.
    """
    results = read_checked(result_paths(path_of(directory, "directory")))
    for line in result_warnings(results):
        warnings.warn(one_line(line), stacklevel=2)
    return [result.row for result in results]


def _contradiction_of_hash(row: ResultRow, archive: bytes | FileError) -> str:
    """Return "edited samples" if the samples of a result do not have the recorded hash, else "".

    Missing samples contradict nothing. A file that cannot be read was damaged, which counts as
    edited.

    Args:
        row: The result, which has the hash that the samples had when they were stored.
        archive: The bytes of the samples file, or the error of reading it.
    """
    if isinstance(archive, MissingFileError):
        return ""
    if isinstance(archive, FileError):
        return EDITED_SAMPLES
    archive_hash = hashlib.sha256(archive).hexdigest()
    is_same = archive_hash == row.provenance["samples_sha256"]
    return "" if is_same else EDITED_SAMPLES


def contradiction_of_metrics(path: Path) -> str:
    """Return how the metrics of a stored result differ from those that its samples give.

    Args:
        path: The JSON file of the result.

    Returns:
        "edited metrics" if a metric or the number of samples differs, "edited samples" if no
        metrics can be computed from the samples, and an empty text if all is equal, or if the task
        is not installed, so that nothing can be computed.
    """
    files = read_files(path)
    row = files.row
    try:
        task = task_named(row.task)
    except UsageError:  # the task is not installed, or its package is broken
        return ""
    interval_methods = {name: interval["method"] for name, interval in row.intervals.items()}
    try:
        samples = samples_of(path, files)
        if is_stopped(row):
            from cosmos_eval.results.decisions import recompute  # imports SciPy

            recomputed = recompute(row, samples)
            is_same = is_same_figure(row.metrics, recomputed.metrics)
            is_same &= recomputed.answer == row.provenance[STOPPED]["answer"]
            return "" if is_same else EDITED_METRICS
        estimates = task.estimates(task.derive(samples))
        metrics = task.values(estimates, interval_methods)
    except Exception:  # a task of another package may raise any error for foreign samples
        return EDITED_SAMPLES
    is_same = is_same_figure(row.metrics, metrics) and task.count(samples) == row.n_samples
    return "" if is_same else EDITED_METRICS
