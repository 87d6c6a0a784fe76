"""Results for tables: read together with their samples, which may contradict them.

`verify` recomputes every figure, which takes seconds. For a table the hash of the samples is
compared with the recorded one, and the metrics, without their intervals, are recomputed.
"""

import hashlib
import warnings
from collections.abc import Iterable
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
"""The samples files, smallest first, that metrics are recomputed from: about a second's work."""

_BYTES_OF_A_FILE = 64 << 10  # that take as long as opening any file


def read_checked(paths: Iterable[Path]) -> list[Stored]:
    """Read results as `read_stored` does, and say which ones their samples contradict.

    Results without samples stay as they are. Raises UsageError for files that are no results.
    """
    results = []
    sizes: dict[Path, int] = {}  # of samples whose metrics can be recomputed
    for path in paths:
        files = read_files(path)
        unchanged, archive = record_is_unchanged(files.record), files.archive
        contradiction = _contradiction_of_hash(files.row, archive)
        if isinstance(archive, bytes) and not contradiction and unchanged is not False:
            sizes[path] = len(archive)
        results.append(Stored(path, files.row, unchanged, contradiction))
    small = _smallest(sizes)
    return distinguish(
        stored._replace(
            contradiction=contradiction_of_metrics(stored.path)
            if stored.path in small
            else stored.contradiction,
            recomputed=stored.path in small or stored.path not in sizes,
        )
        for stored in results
    )


def read_results(directory: str | Path) -> list[ResultRow]:
    """Read every result of a folder, in the order of `result_paths`.

    Warns of edited results, and of different models of the same name. Raises UsageError if there
    are none or a file is no result.
    """
    results = read_checked(result_paths(Path(directory)))
    for line in warnings_of(results):
        warnings.warn(one_line(line), stacklevel=2)
    return [stored.row for stored in results]


def _contradiction_of_hash(row: ResultRow, archive: bytes | FileError) -> str:
    """Return what contradicts a result, empty for its own samples and without any."""
    if isinstance(archive, FileError):
        return "" if isinstance(archive, MissingFileError) else EDITED_SAMPLES
    digest = hashlib.sha256(archive).hexdigest()
    return "" if digest == row.provenance["samples_sha256"] else EDITED_SAMPLES


def _smallest(sizes: dict[Path, int]) -> set[Path]:
    """Return the smallest files that are together within RECOMPUTED_BYTES."""
    chosen, total = set(), 0
    for path in sorted(sizes, key=lambda path: sizes[path]):
        total += sizes[path] + _BYTES_OF_A_FILE
        if total > RECOMPUTED_BYTES:
            break
        chosen.add(path)
    return chosen


def contradiction_of_metrics(path: Path) -> str:
    """Return what contradicts the result in a file: its samples are none, or give other metrics."""
    files = read_files(path)
    row = files.row
    try:
        task = task_named(row.task)
    except UsageError:  # it is not installed, or broken
        return ""
    methods = {name: interval["method"] for name, interval in row.intervals.items()}
    try:
        samples = samples_of(path, files)
        metrics = task.values(task.estimates(task.derive(samples)), methods)
    except Exception:  # a task of another package may raise any error for foreign samples
        return EDITED_SAMPLES
    is_same = metrics == row.metrics and task.count(samples) == row.n_samples
    return "" if is_same else EDITED_METRICS
