"""Results and their samples, together with the others of their data set. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cosmos_eval.data.user_yaml import FAMILY as USER
from cosmos_eval.protocols import prepare
from cosmos_eval.results.labels import Stored
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import read_files, read_stored, samples_of
from cosmos_eval.tasks import find_protocol, task_of
from cosmos_eval.types import Protocol, Samples, UsageError

WITH_PICTURES: tuple[str, ...] = ("retrieval", "cls", "seg")
"""Tasks whose samples tell which images to show."""


class Shown(NamedTuple):
    """A result whose images can be shown, and what tables call its model."""

    stored: Stored
    samples: Samples

    @property
    def row(self) -> ResultRow:
        """The result."""
        return self.stored.row

    @property
    def label(self) -> str:
        """The model with what departs from the defaults."""
        return self.stored.model


class Group(NamedTuple):
    """All results by one protocol, which share their images."""

    task: str
    protocol: Protocol
    results: tuple[Shown, ...]

    @property
    def name(self) -> str:
        """The data set, with its protocol where that is not the usual one."""
        return described(self.protocol)


class Grouped(NamedTuple):
    """Groups in the order of tasks, data sets and protocols; a line for what has no pictures."""

    groups: Sequence[Group]
    notes: Sequence[str]


def described(protocol: Protocol) -> str:
    """A data set and the family of its protocol, for notes."""
    return f"{protocol.dataset} ({protocol.family})"


def grouped(paths: Sequence[Path], own: Sequence[str]) -> Grouped:
    """The results in these files by their protocols; `own` are YAML files of users' data sets.

    Raises UsageError for a file that is no result, and for a YAML file that none is of.
    """
    by_name: dict[_Name, list[Shown]] = {}
    notes = []
    stored = read_stored(paths)
    known = _own(own, (one.row for one in stored))
    for one in stored:
        row = one.row
        if row.task not in WITH_PICTURES or one.is_edited:
            continue
        try:
            files = read_files(one.path)
            shown = Shown(one._replace(row=files.row), samples_of(one.path, files))
            by_name.setdefault(_name(files.row), []).append(shown)
        except UsageError as error:
            notes.append(f"{one.model} on {row.dataset}: no pictures: {error}")
    groups = []
    readable = [name for name, results in by_name.items() if results]
    for name in sorted(readable, key=lambda name: (WITH_PICTURES.index(name.task), name)):
        try:
            protocol = _protocol(name, known)
            prepare(protocol)
        except UsageError as error:
            notes.append(f"{name.dataset}: no pictures: {error}")
            continue
        results = sorted(by_name[name], key=lambda shown: shown.label)
        groups.append(Group(name.task, protocol, tuple(results)))
    return Grouped(groups, notes)


class _Name(NamedTuple):
    """What results of one protocol have in common."""

    task: str
    dataset: str
    family: str


def _name(row: ResultRow) -> _Name:
    return _Name(row.task, row.dataset, row.protocol)


def require_inputs(
    rows: Iterable[ResultRow],
    data_root: str | None,
    datasets: Sequence[str],
    predictions: Path | None,
) -> None:
    """Raise UsageError for a folder that is not there and a YAML file that no result is of."""
    for folder, option in ((data_root, "--data-root"), (predictions, "--predictions")):
        if folder is not None and not Path(folder).is_dir():
            raise UsageError(f"no folder {folder}, see {option}")
    _own(datasets, rows)


def _own(files: Sequence[str], rows: Iterable[ResultRow]) -> dict[_Name, Protocol]:
    """The protocols that users' files describe. Raises UsageError for one of no result."""
    measured = set(map(_name, rows)) if files else set()
    known = {}
    for protocol in map(find_protocol, files):
        name = _Name(task_of(protocol), protocol.dataset, protocol.family)
        if name not in measured:
            raise UsageError(
                f"no result is of your data set {protocol.dataset}: leave its file out"
            )
        known[name] = protocol
    return known


def _protocol(name: _Name, own: Mapping[_Name, Protocol]) -> Protocol:
    if name.family != USER:
        return find_protocol(name.dataset, name.family)
    if name not in own:
        raise UsageError("name the YAML file that describes it with --dataset FILE")
    return own[name]


def listed(labels: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    first = ", ".join(labels[:3])
    return first if len(labels) <= 3 else f"{first} and {len(labels) - 3} more"
