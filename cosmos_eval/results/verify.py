"""Verify stored results: every figure, computed anew from the samples, has to be the same float.

Ends of intervals may differ by a rounding: BLAS adds resampled sums in the order that is best for
the processor. Imports no torch.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cosmos_eval.data.readers import FileError, MissingFileError
from cosmos_eval.results.labels import file_stem, model_label, samples_name, set_aside
from cosmos_eval.results.record import SCHEMA_VERSION, ResultRow
from cosmos_eval.results.store import (
    ImpossibleSamplesError,
    ResultFiles,
    list_results,
    read_files,
    read_record,
    record_is_unchanged,
    samples_of,
)
from cosmos_eval.tasks import task_named
from cosmos_eval.types import Figures, Interval, Samples, UsageError

_HASH = 8  # characters of a hash that is shown


class Verdict(NamedTuple):
    """Differences of one result, or an obstacle; of one that was verified the number of figures and
    the model with the first digits of its weights' hash."""

    path: str
    differences: tuple[str, ...] = ()
    obstacle: str = ""
    figures: int = 0
    model: str = ""

    @property
    def outcome(self) -> Literal["verified", "differs", "not looked at"]:
        if self.differences:
            return "differs"
        return "not looked at" if self.obstacle else "verified"


class Verified(NamedTuple):
    """A result whose figures follow from its samples; `figures` is how many were compared."""

    path: Path
    row: ResultRow
    samples: Samples
    figures: int = 0


def verify_all(places: Iterable[Path]) -> Iterator[Verdict]:
    """Yield verdicts on results in files and folders, sorted, and on folders without results."""
    for place in places:
        paths, faults = list_results(place)
        yield from (Verdict(str(place), obstacle=fault) for fault in faults)
        yield from map(verify, paths)


def verify(path: Path) -> Verdict:
    """Return the verdict on the result in a JSON file."""
    found = read_verified(path)
    if isinstance(found, Verdict):
        return found
    weights = (found.row.model["weights_sha256"] or "none")[:_HASH]
    model = f"{model_label(found.row)}, weights {weights}"
    return Verdict(str(path), figures=found.figures, model=model)


def read_verified(path: Path) -> Verified | Verdict:
    """Return the result in a JSON file with its samples, or the verdict where it differs."""
    try:
        return _examine(path, read_files(path))
    except UsageError as error:
        return Verdict(str(path), obstacle=str(error).removeprefix(f"{path}: "))
    except Exception as error:  # one file must not hide the verdicts on others
        return Verdict(str(path), obstacle=f"cannot be verified: {type(error).__name__}: {error}")


def _examine(path: Path, stored: ResultFiles) -> Verified | Verdict:
    record, row, archive = stored
    if swapped := [*_swapped(path, row, archive)]:
        return Verdict(str(path), tuple(swapped))
    try:
        samples = samples_of(path, stored)
    except ImpossibleSamplesError as error:
        return Verdict(str(path), (f"impossible samples: {error}",))
    methods = {name: interval["method"] for name, interval in row.intervals.items()}
    try:
        again = task_named(row.task).figures(samples, row.provenance["seed"], methods)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        found = f"impossible samples: {row.samples} gives no figures: {error!r}"
        return Verdict(str(path), (found,))
    if record["schema_version"] < SCHEMA_VERSION:
        # Figures that came after version 1 are left out.
        own = {name: ends for name, ends in again.intervals.items() if name in row.intervals}
        pairs = again.confusion_pairs if row.confusion_pairs else ()
        again = replace(again, intervals=own, confusion_pairs=pairs)
    differences = [*_differences(row, again)]
    if not differences and record_is_unchanged(record) is False:
        found = "edited record: its figures follow from its samples, but something else was changed"
        differences.append(found)
    if differences:
        return Verdict(str(path), tuple(differences))
    figures = sum(map(len, [again.metrics, again.intervals, *again.per_class.values()]))
    return Verified(path, row, samples, figures)


def _swapped(path: Path, row: ResultRow, archive: bytes | FileError) -> Iterator[str]:
    """Describe files of other names and samples. Raises UsageError where there are no samples."""
    if path.stem not in (file_stem(row), set_aside(path, row).stem):
        yield f"swapped file: it holds the result that is called {file_stem(row)}.json"
    digest = row.provenance["samples_sha256"]
    if row.samples != samples_name(row, digest):
        yield f"swapped file: it names {row.samples}, the samples of another result"
    elif isinstance(archive, MissingFileError):
        raise UsageError(f"missing samples: {row.samples} is not there")
    elif isinstance(archive, bytes) and (found := hashlib.sha256(archive).hexdigest()) != digest:
        if owner := _owner(path.parent, found):
            yield f"swapped file: {row.samples} holds the samples of {owner}"
        else:
            hashes = f"SHA-256 {found[:8]}..., stored: {digest[:8]}..."
            yield f"edited samples: {row.samples} has {hashes}"


def _owner(folder: Path, digest: str) -> str | None:
    """Return the result of the folder that samples of this hash were stored with."""
    for path in sorted(folder.glob("[!.]*.json")):
        with suppress(UsageError):  # a file that is no result has no samples
            provenance = read_record(path).get("provenance")
            if isinstance(provenance, Mapping) and provenance.get("samples_sha256") == digest:
                return path.name
    return None


def _differences(row: ResultRow, again: Figures) -> Iterator[str]:
    intervals = {
        name: _as_stored(interval, row.intervals.get(name, {}))
        for name, interval in again.intervals.items()
    }
    yield from _compare("metric", row.metrics, again.metrics)
    # NumPy does not promise that another version of it draws the same random numbers (NEP 19).
    then = row.provenance["packages"].get("numpy")
    note = "" if then == np.__version__ else f" (by NumPy {np.__version__}, stored: by {then})"
    yield from (f"{line}{note}" for line in _compare("interval of", row.intervals, intervals))
    yield from _compare("class", row.per_class, again.per_class)
    if list(row.confusion_pairs) != list(again.confusion_pairs):
        yield "edited confusion_pairs: not the most frequent mistakes of its samples"
    if row.n_samples != again.n_samples:
        yield f"edited n_samples: {row.n_samples}, its samples are {again.n_samples}"


def _compare(kind: str, stored: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(stored.keys() | again.keys()):
        has, gives = stored.get(name, "missing"), again.get(name, "none")
        if has != gives:
            yield f"edited {kind} {name}: {_shown(has)}, its samples give {_shown(gives)}"


def _as_stored(interval: Interval, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the interval, with the stored ends where these differ by a rounding."""
    found = interval._asdict()
    for end in ("low", "high"):
        if math.isclose(found[end], stored.get(end, math.nan), rel_tol=1e-12, abs_tol=1e-12):
            found[end] = stored[end]
    return found


def _shown(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    return ", ".join(f"{key} {part}" for key, part in sorted(value.items()))
