"""Verify stored results: every figure, computed again from the samples, must be the same float.

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
from cosmos_eval.results.filenames import file_stem, renamed_result_path, samples_name
from cosmos_eval.results.labels import Stored
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
    """The outcome of verifying a result."""

    # The result file, or the folder that could not be read.
    path: str
    # Everything in which the result differs from its samples; empty for a verified one.
    differences: tuple[str, ...] = ()
    # Why the result could not be verified; empty if it could.
    obstacle: str = ""
    # The number of figures that were compared.
    figures: int = 0
    # The label of the model, with the first digits of the hash of its weights.
    model: str = ""

    @property
    def outcome(self) -> Literal["verified", "differs", "not looked at"]:
        if self.differences:
            return "differs"
        return "not looked at" if self.obstacle else "verified"


class Verified(NamedTuple):
    """A result whose figures follow from its samples."""

    path: Path
    row: ResultRow
    samples: Samples
    # The number of figures that were compared.
    figures: int = 0

    @property
    def stored(self) -> Stored:
        return Stored(self.path, self.row)


def verify_all(places: Iterable[Path]) -> Iterator[Verdict]:
    """Yield verdicts on results in files and folders, sorted, and on folders without results."""
    for place in places:
        paths, faults = list_results(place)
        for fault in faults:
            yield Verdict(str(place), obstacle=fault)
        for path in paths:
            yield verify(path)


def verify(path: Path) -> Verdict:
    """Return the verdict on the result in a JSON file."""
    result = read_verified(path)
    if isinstance(result, Verdict):
        return result
    weights = (result.row.model["weights_sha256"] or "none")[:_HASH]
    model = f"{result.stored.identity.label}, weights {weights}"
    return Verdict(str(path), figures=result.figures, model=model)


def read_verified(path: Path) -> Verified | Verdict:
    """Return the result in a JSON file with its samples, or the verdict if it is not verified."""
    try:
        return _verify_files(path, read_files(path))
    except UsageError as error:
        return Verdict(str(path), obstacle=str(error).removeprefix(f"{path}: "))
    except Exception as error:  # one file must not hide the verdicts on others
        return Verdict(str(path), obstacle=f"cannot be verified: {type(error).__name__}: {error}")


def _verify_files(path: Path, stored: ResultFiles) -> Verified | Verdict:
    """Compare a result with what its samples give. Raises UsageError without samples."""
    row = stored.row
    swaps = list(_signs_of_swap(path, row, stored.archive))
    if swaps:
        return Verdict(str(path), tuple(swaps))
    try:
        samples = samples_of(path, stored)
    except ImpossibleSamplesError as error:
        return Verdict(str(path), (f"impossible samples: {error}",))
    methods = {name: interval["method"] for name, interval in row.intervals.items()}
    try:
        figures = task_named(row.task).figures(samples, row.provenance["seed"], methods)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        difference = f"impossible samples: {row.samples} gives no figures: {error!r}"
        return Verdict(str(path), (difference,))
    if stored.record["schema_version"] < SCHEMA_VERSION:
        figures = _figures_of_version_1(figures, row)
    differences = list(_differences(row, figures))
    if not differences and record_is_unchanged(stored.record) is False:
        differences.append(
            "edited record: its figures follow from its samples, but something else was changed"
        )
    if differences:
        return Verdict(str(path), tuple(differences))
    n_figures = len(figures.metrics) + len(figures.intervals)
    n_figures += sum(len(class_figures) for class_figures in figures.per_class.values())
    return Verified(path, row, samples, n_figures)


def _figures_of_version_1(figures: Figures, row: ResultRow) -> Figures:
    """Return figures without those that a result of version 1 does not have."""
    return replace(
        figures,
        intervals={name: ends for name, ends in figures.intervals.items() if name in row.intervals},
        confusion_pairs=figures.confusion_pairs if row.confusion_pairs else (),
    )


def _signs_of_swap(path: Path, row: ResultRow, archive: bytes | FileError) -> Iterator[str]:
    """Yield the signs that the result or its samples belong to another result.

    Raises UsageError if the samples are missing.
    """
    if path.stem not in (file_stem(row), renamed_result_path(path, row).stem):
        yield f"swapped file: it holds the result that is called {file_stem(row)}.json"
    recorded_hash = row.provenance["samples_sha256"]
    if row.samples != samples_name(row, recorded_hash):
        yield f"swapped file: it names {row.samples}, the samples of another result"
        return
    if isinstance(archive, MissingFileError):
        raise UsageError(f"missing samples: {row.samples} is not there")
    if isinstance(archive, FileError):
        return
    archive_hash = hashlib.sha256(archive).hexdigest()
    if archive_hash == recorded_hash:
        return
    owner = _result_with_samples(path.parent, archive_hash)
    if owner:
        yield f"swapped file: {row.samples} holds the samples of {owner}"
    else:
        hashes = f"SHA-256 {archive_hash[:8]}..., stored: {recorded_hash[:8]}..."
        yield f"edited samples: {row.samples} has {hashes}"


def _result_with_samples(folder: Path, digest: str) -> str | None:
    """Return the file name of the result in a folder whose samples have a hash, or None."""
    for path in sorted(folder.glob("[!.]*.json")):
        with suppress(UsageError):  # a file that is not a result has no samples
            provenance = read_record(path).get("provenance")
            if isinstance(provenance, Mapping) and provenance.get("samples_sha256") == digest:
                return path.name
    return None


def _differences(row: ResultRow, figures: Figures) -> Iterator[str]:
    """Yield every stored figure that is not what the samples give."""
    yield from _differing_figures("metric", row.metrics, figures.metrics)
    intervals = {
        name: _with_stored_ends(interval, row.intervals.get(name, {}))
        for name, interval in figures.intervals.items()
    }
    # NumPy does not promise that another version of it draws the same random numbers (NEP 19).
    stored_numpy = row.provenance["packages"].get("numpy")
    note = ""
    if stored_numpy != np.__version__:
        note = f" (by NumPy {np.__version__}, stored: by {stored_numpy})"
    for line in _differing_figures("interval of", row.intervals, intervals):
        yield f"{line}{note}"
    yield from _differing_figures("class", row.per_class, figures.per_class)
    if list(row.confusion_pairs) != list(figures.confusion_pairs):
        yield "edited confusion_pairs: not the most frequent mistakes of its samples"
    if row.n_samples != figures.n_samples:
        yield f"edited n_samples: {row.n_samples}, its samples are {figures.n_samples}"


def _differing_figures(
    kind: str, stored_figures: Mapping[str, Any], figures: Mapping[str, Any]
) -> Iterator[str]:
    """Yield a line for each figure in which a result differs from what its samples give.

    `kind` is the kind of figures, such as `metric`. A figure may also be missing on one side.
    """
    for name in sorted(stored_figures.keys() | figures.keys()):
        stored, recomputed = stored_figures.get(name, "missing"), figures.get(name, "none")
        if stored != recomputed:
            yield (
                f"edited {kind} {name}: {_figure_text(stored)}, "
                f"its samples give {_figure_text(recomputed)}"
            )


def _with_stored_ends(interval: Interval, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return an interval as a record, with the stored ends if they differ only by rounding."""
    record = interval._asdict()
    for end in ("low", "high"):
        if math.isclose(record[end], stored.get(end, math.nan), rel_tol=1e-12, abs_tol=1e-12):
            record[end] = stored[end]
    return record


def _figure_text(figure: Any) -> str:
    """Return a figure as text, or several of them by name."""
    if not isinstance(figure, Mapping):
        return str(figure)
    return ", ".join(f"{name} {value}" for name, value in sorted(figure.items()))
