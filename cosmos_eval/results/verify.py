"""Verify stored results: everything that is computed from the samples must be the same again.

These are metrics, intervals, values by class and frequent mistakes, which a result calls figures.
They may differ by a rounding, which depends on the processor. Imports no torch.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cosmos_eval.data.readers import FileError, MissingFileError
from cosmos_eval.results.accepted import departures_from_accepted
from cosmos_eval.results.decisions import Recomputed, recompute
from cosmos_eval.results.filenames import file_stem, renamed_result_path, samples_name
from cosmos_eval.results.identity import STOPPED, is_stopped
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.record import SCHEMA_VERSION, ResultRow, is_same_figure
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
from cosmos_eval.types import Figures, Samples, UsageError

_HASH_LENGTH = 8  # characters of a hash that is shown


class Verdict(NamedTuple):
    """The outcome of verifying a result."""

    # The result file, or the folder that could not be read.
    path: str
    # Everything in which the result differs from its samples; empty for a verified result.
    differences: tuple[str, ...] = ()
    # Why the result could not be verified; empty if it could.
    obstacle: str = ""
    # The number of metrics and other figures that were compared.
    figures: int = 0
    # The label of the model, with the first digits of the hash of its weights.
    model: str = ""

    @property
    def outcome(self) -> Literal["verified", "differs", "not looked at"]:
        """The outcome in words."""
        if self.differences:
            return "differs"
        if self.obstacle:
            return "not looked at"
        return "verified"


class VerifiedResult(NamedTuple):
    """A result whose metrics and other figures follow from its samples."""

    # The JSON file of the result.
    path: Path
    row: ResultRow
    # The per-sample arrays by name.
    samples: Samples
    # The number of metrics and other figures that were compared.
    figures: int = 0

    @property
    def stored(self) -> StoredResult:
        """The result and its file, without the samples."""
        return StoredResult(self.path, self.row)


def verify_all(
    places: Iterable[Path], accepted: Sequence[StoredResult] | None = None
) -> Iterator[Verdict]:
    """Yield a verdict on each result in files and folders, sorted by path.

    A folder that has no results, or that cannot be read, has a verdict as well.

    Args:
        places: The files and folders.
        accepted: Accepted results, whose data and settings each result must have; None for any.
    """
    for place in places:
        paths, faults = list_results(place)
        for fault in faults:
            yield Verdict(str(place), obstacle=fault)
        for path in paths:
            yield verify(path, accepted)


def verify(path: Path, accepted: Sequence[StoredResult] | None = None) -> Verdict:
    """Verify the result in a JSON file, and return the verdict.

    Args:
        path: The JSON file.
        accepted: Accepted results, whose data and settings the result must have; None for any.
    """
    result = read_verified(path)
    if isinstance(result, Verdict):
        return result
    if accepted is not None:
        try:
            departures = departures_from_accepted(result.row, accepted)
        except UsageError as error:
            return Verdict(str(path), obstacle=str(error))
        if departures:
            return Verdict(str(path), tuple(departures))
    weights = (result.row.model["weights_sha256"] or "none")[:_HASH_LENGTH]
    model = f"{result.stored.identity.label}, weights {weights}"
    return Verdict(str(path), figures=result.figures, model=model)


def read_verified(path: Path) -> VerifiedResult | Verdict:
    """Verify the result in a JSON file, and return it with its samples.

    If it differs from its samples or cannot be verified, the verdict is returned instead.
    """
    try:
        return _verify_files(path, read_files(path))
    except UsageError as error:
        return Verdict(str(path), obstacle=str(error).removeprefix(f"{path}: "))
    except Exception as error:  # one file must not hide the verdicts on others
        return Verdict(str(path), obstacle=f"cannot be verified: {type(error).__name__}: {error}")


def _verify_files(path: Path, stored: ResultFiles) -> VerifiedResult | Verdict:
    """Compare a result with the metrics and other figures that its samples give.

    Args:
        path: The JSON file of the result.
        stored: The contents of the JSON file and of the samples file.

    Returns:
        The verified result, or the verdict if something differs.

    Raises:
        UsageError: If the samples are missing.
    """
    row = stored.row

    # Check that both files belong together, and that the samples are possible.
    signs_of_swap = tuple(_signs_of_swap(path, row, stored.archive))
    if signs_of_swap:
        return Verdict(str(path), signs_of_swap)
    try:
        samples = samples_of(path, stored)
    except ImpossibleSamplesError as error:
        return Verdict(str(path), (f"impossible samples: {error}",))

    if is_stopped(row):
        return _verify_stopped(path, stored, samples)

    # Compute all figures again. The seed and the methods decide on the intervals.
    interval_methods = {name: interval["method"] for name, interval in row.intervals.items()}
    try:
        figures = task_named(row.task).figures(samples, row.provenance["seed"], interval_methods)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        difference = f"impossible samples: {row.samples} gives no figures: {error!r}"
        return Verdict(str(path), (difference,))
    is_older_version = stored.record["schema_version"] < SCHEMA_VERSION
    if is_older_version:
        figures = _without_later_figures(figures, row)

    # Compare them with the stored figures.
    differences = list(_differences(row, figures))
    if not differences and record_is_unchanged(stored.record) is False:
        differences.append(
            "edited record: its figures follow from its samples, but something else was changed"
        )
    if differences:
        return Verdict(str(path), tuple(differences))

    n_figures = len(figures.metrics) + len(figures.intervals)
    n_figures += sum(len(class_figures) for class_figures in figures.per_class.values())
    return VerifiedResult(path, row, samples, n_figures)


def _verify_stopped(path: Path, stored: ResultFiles, samples: Samples) -> VerifiedResult | Verdict:
    """Compare the metric, the looks and the answer of a run that stopped with its samples.

    Args:
        path: The JSON file of the result.
        stored: The contents of both files.
        samples: The arrays of the model, and of the baseline on the same samples.

    Returns:
        The verified result, or the verdict if something differs.
    """
    row = stored.row
    try:
        recomputed = recompute(row, samples)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        difference = f"impossible samples: {row.samples} gives no decision: {error!r}"
        return Verdict(str(path), (difference,))
    differences = list(_differing_figures("metric", row.metrics, recomputed.metrics))
    if row.intervals or row.per_class or row.confusion_pairs:
        differences.append("edited figures: a run that stopped has a metric and no other figures")
    differences += _differences_of_decision(row, recomputed)
    if not differences and record_is_unchanged(stored.record) is False:
        differences.append(
            "edited record: its figures follow from its samples, but something else was changed"
        )
    if differences:
        return Verdict(str(path), tuple(differences))
    n_figures = len(recomputed.metrics) + len(recomputed.looks)
    return VerifiedResult(path, row, samples, n_figures)


def _differences_of_decision(row: ResultRow, recomputed: Recomputed) -> Iterator[str]:
    """Yield a line for each part of a recorded decision that its samples contradict."""
    record = row.provenance[STOPPED]
    if record["metric"] not in recomputed.metrics:
        yield f"edited metric of the decision: {record['metric']}"
    if record["answer"] != recomputed.answer:
        yield f"edited answer: {record['answer']}, its samples give {recomputed.answer}"
    if not is_same_figure(record["difference"], recomputed.difference):
        yield f"edited difference: {record['difference']}, its samples give {recomputed.difference}"

    stored_looks = np.array(record["looks"], np.float64)
    looks = np.array(recomputed.looks, np.float64)
    has_same_looks = stored_looks.shape == looks.shape and np.allclose(
        stored_looks, looks, rtol=0, atol=1e-9
    )
    if not has_same_looks:
        yield f"edited looks: not the {len(looks)} intervals that its samples give"
    elif row.n_samples != recomputed.looks[-1].n_samples:
        yield (
            f"edited n_samples: {row.n_samples}, its samples are {recomputed.looks[-1].n_samples}"
        )


def _without_later_figures(figures: Figures, row: ResultRow) -> Figures:
    """Return figures without intervals and mistakes that a result of an older version lacks.

    Args:
        figures: The figures that were computed from the samples.
        row: The result, whose version may not have had all of them.
    """
    intervals = {}
    for name, interval in figures.intervals.items():
        if name in row.intervals:
            intervals[name] = interval
    confusion_pairs = figures.confusion_pairs if row.confusion_pairs else ()
    return replace(figures, intervals=intervals, confusion_pairs=confusion_pairs)


def _signs_of_swap(path: Path, row: ResultRow, archive: bytes | FileError) -> Iterator[str]:
    """Yield a line for each sign that a file of a result was swapped or edited.

    The file names must fit the result, and the samples must have the recorded hash.

    Args:
        path: The JSON file of the result.
        row: The result.
        archive: The content of the samples file, or the error of reading it.

    Raises:
        UsageError: If the samples are missing.
    """
    # Check the names of both files.
    usual_name = file_stem(row)
    name_after_renaming = renamed_result_path(path, row).stem
    if path.stem not in (usual_name, name_after_renaming):
        yield f"swapped file: it holds the result that is called {usual_name}.json"
    recorded_hash = row.provenance["samples_sha256"]
    if row.samples != samples_name(row, recorded_hash):
        yield f"swapped file: it names {row.samples}, the samples of another result"
        return

    # Check the hash of the samples. Other errors of reading are reported later.
    if isinstance(archive, MissingFileError):
        raise UsageError(f"missing samples: {row.samples} is not there")
    if isinstance(archive, FileError):
        return
    archive_hash = hashlib.sha256(archive).hexdigest()
    if archive_hash == recorded_hash:
        return
    other_result = _result_with_samples(path.parent, archive_hash)
    if other_result:
        yield f"swapped file: {row.samples} holds the samples of {other_result}"
    else:
        hashes = f"SHA-256 {archive_hash[:8]}..., stored: {recorded_hash[:8]}..."
        yield f"edited samples: {row.samples} has {hashes}"


def _result_with_samples(folder: Path, samples_sha256: str) -> str | None:
    """Return the name of the file in a folder whose result has samples with a hash, or None.

    Args:
        folder: The folder with results.
        samples_sha256: The SHA-256 of a samples file.
    """
    for path in sorted(folder.glob("[!.]*.json")):
        provenance: Any = None
        with suppress(UsageError):  # a file that is not a result has no samples
            provenance = read_record(path).get("provenance")
        if isinstance(provenance, Mapping):
            has_samples = provenance.get("samples_sha256") == samples_sha256
            if has_samples:
                return path.name
    return None


def _differences(row: ResultRow, figures: Figures) -> Iterator[str]:
    """Yield a line for each stored figure that differs from what the samples give.

    Args:
        row: The result with the stored figures.
        figures: The figures that were computed from the samples.
    """
    yield from _differing_figures("metric", row.metrics, figures.metrics)

    # Intervals may depend on the version of NumPy, since NumPy does not promise that another
    # version of it draws the same random numbers (NEP 19).
    stored_numpy = row.provenance["packages"].get("numpy")
    numpy_note = ""
    if stored_numpy != np.__version__:
        numpy_note = f" (by NumPy {np.__version__}, stored: by {stored_numpy})"
    intervals = {name: interval._asdict() for name, interval in figures.intervals.items()}
    for line in _differing_figures("interval of", row.intervals, intervals):
        yield f"{line}{numpy_note}"

    yield from _differing_figures("class", row.per_class, figures.per_class)
    if list(row.confusion_pairs) != list(figures.confusion_pairs):
        yield "edited confusion_pairs: not the most frequent mistakes of its samples"
    if row.n_samples != figures.n_samples:
        yield f"edited n_samples: {row.n_samples}, its samples are {figures.n_samples}"


def _differing_figures(
    kind: str, stored_figures: Mapping[str, Any], figures: Mapping[str, Any]
) -> Iterator[str]:
    """Yield a line for each stored figure that differs from the one that the samples give.

    Args:
        kind: The kind of the figures, such as "metric".
        stored_figures: The stored figures by name, which are numbers or records of numbers.
        figures: The figures that were computed from the samples. Either side may lack a figure.

    Example:
        "edited metric mAP: 0.5, its samples give 0.4"
    """
    all_names = stored_figures.keys() | figures.keys()
    for name in sorted(all_names):
        stored = stored_figures.get(name, "missing")
        recomputed = figures.get(name, "none")
        if not is_same_figure(stored, recomputed):
            yield (
                f"edited {kind} {name}: {_figure_text(stored)}, "
                f"its samples give {_figure_text(recomputed)}"
            )


def _figure_text(figure: Any) -> str:
    """Return a number as text, or a record of numbers as "high 0.5, low 0.3"."""
    if not isinstance(figure, Mapping):
        return str(figure)
    return ", ".join(f"{name} {value}" for name, value in sorted(figure.items()))
