"""Whether stored results are what they were when they were measured, from their two files alone.

Every figure is computed anew from the stored samples, by the function that measuring uses and with
the seed that it used, and has to be the same float. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cosmos_eval.store import (
    file_stem,
    read_record,
    read_samples,
    record_sha256,
    result_paths,
    samples_name,
    to_row,
)
from cosmos_eval.tasks import room_named
from cosmos_eval.types import SCHEMA_VERSION, Figures, ResultRow, UsageError
from cosmos_eval.versions import Record


class Verdict(NamedTuple):
    """What was found of one result, a line each: differences, or else why it cannot be looked at.

    `figures` is how many were computed anew and compared.
    """

    path: str
    differences: tuple[str, ...] = ()
    obstacle: str = ""
    figures: int = 0

    @property
    def outcome(self) -> Literal["verified", "differs", "not looked at"]:
        """The verdict in a word or three."""
        if self.differences:
            return "differs"
        return "not looked at" if self.obstacle else "verified"


def verify_all(places: Iterable[Path]) -> Iterator[Verdict]:
    """Verdicts on results in files and folders, in the order of their names.

    Raises UsageError for a folder without results.
    """
    for place in places:
        for path in result_paths(place) if place.is_dir() else [place]:
            yield verify(path)


def verify(path: Path) -> Verdict:
    """The verdict on the result in a JSON file."""
    try:
        record = read_record(path)
        row = to_row(record, str(path))
        swapped = [*_misnamed(path, row), *_samples_of_another(path, row)]
        if swapped:
            return Verdict(str(path), tuple(swapped))
        return _recomputed(path, record, row)
    except UsageError as error:
        return Verdict(str(path), obstacle=str(error).removeprefix(f"{path}: "))


def _recomputed(path: Path, record: Record, row: ResultRow) -> Verdict:
    try:
        again = room_named(row.task).recompute(read_samples(path), row.provenance["seed"])
    except (KeyError, ValueError, IndexError, TypeError) as error:
        foreign = f"swapped file: {row.samples} holds no samples of task {row.task}: {error!r}"
        return Verdict(str(path), (foreign,))
    if record["schema_version"] < SCHEMA_VERSION:
        again = _as_far_as_stored(row, again)
    found = [*_differences(row, again)] or [*_edited_elsewhere(record)]
    return Verdict(str(path), tuple(found), figures=_count(again))


def _as_far_as_stored(row: ResultRow, again: Figures) -> Figures:
    """Without the figures that came later than an older result."""
    return replace(
        again,
        intervals={
            name: again.intervals[name] for name in row.intervals if name in again.intervals
        },
        confusion_pairs=again.confusion_pairs if row.confusion_pairs else (),
    )


def _misnamed(path: Path, row: ResultRow) -> Iterator[str]:
    if path.stem != file_stem(row):
        yield f"swapped file: it holds the result that is called {file_stem(row)}.json"


def _samples_of_another(path: Path, row: ResultRow) -> Iterator[str]:
    """Samples that are not those stored with the result, by their name or their hash.

    Raises UsageError where there are none.
    """
    digest = row.provenance["samples_sha256"]
    if row.samples != samples_name(row, digest):
        yield f"swapped file: it names {row.samples}, the samples of another result"
        return
    archive = path.with_name(row.samples)
    if not archive.is_file():
        raise UsageError(f"missing samples: {archive.name} is not there")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found == digest:
        return
    owner = _owner(path.parent, found)
    if owner is None:
        yield f"edited samples: {archive.name} has SHA-256 {found[:8]}..., stored: {digest[:8]}..."
    else:
        yield f"swapped file: {archive.name} holds the samples of {owner}"


def _owner(folder: Path, digest: str) -> str | None:
    """The result of the folder that these samples were stored with."""
    return next((p.name for p in sorted(folder.glob("*.json")) if digest in p.read_text()), None)


def _differences(row: ResultRow, again: Figures) -> Iterator[str]:
    intervals = {name: value._asdict() for name, value in again.intervals.items()}
    yield from _compare("metric", row.metrics, again.metrics)
    for line in _compare("interval of", row.intervals, intervals):
        yield f"{line}{_other_numpy(row)}"
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


def _shown(value: Any) -> str:
    """A number, or the numbers of a class or an interval."""
    if not isinstance(value, Mapping):
        return str(value)
    return ", ".join(f"{key} {part}" for key, part in sorted(value.items()))


def _other_numpy(row: ResultRow) -> str:
    """NumPy does not promise that another version of it draws the same random numbers (NEP 19)."""
    then = row.provenance["packages"].get("numpy")
    return "" if then == np.__version__ else f" (by NumPy {np.__version__}, stored: by {then})"


def _edited_elsewhere(record: Record) -> Iterator[str]:
    if record["schema_version"] < 2:
        return
    stored = record["provenance"].get("record_sha256")
    if stored != record_sha256(record):
        yield "edited record: its figures follow from its samples, but something else was changed"


def _count(figures: Figures) -> int:
    parts: Sequence[Mapping[str, Any]] = (figures.metrics, figures.intervals)
    return sum(map(len, [*parts, *figures.per_class.values()]))
