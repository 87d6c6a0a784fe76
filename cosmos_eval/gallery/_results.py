"""Results and their samples, together with the others of their data set. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cosmos_eval.labels import model_label
from cosmos_eval.protocols import find_protocol, prepare
from cosmos_eval.protocols.user import FAMILY as USER
from cosmos_eval.store import read_result, read_samples
from cosmos_eval.types import Protocol, ResultRow, Samples, Task, UsageError

WITH_PICTURES: tuple[Task, ...] = ("retrieval", "cls", "seg")
"""Tasks whose samples tell which images to show."""


class Shown(NamedTuple):
    """A result whose images can be shown, and what tables call its model."""

    row: ResultRow
    samples: Samples

    @property
    def label(self) -> str:
        """The model with what departs from the defaults."""
        return model_label(self.row)


class Group(NamedTuple):
    """All results by one protocol, which share their images."""

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
    known = {protocol.dataset: protocol for protocol in map(find_protocol, own)}
    by_name: dict[tuple[int, str, str], list[Shown]] = {}
    notes = []
    for path in paths:
        row = read_result(path)
        if row.task not in WITH_PICTURES:
            continue
        key = (WITH_PICTURES.index(row.task), row.dataset, row.protocol)
        try:
            by_name.setdefault(key, []).append(Shown(row, read_samples(path)))
        except UsageError as error:
            notes.append(f"{model_label(row)} on {row.dataset}: no pictures: {error}")
    _require_used(known, {(dataset, family) for _, dataset, family in by_name})
    groups = []
    for (_, dataset, family), results in sorted(by_name.items(), key=lambda item: item[0]):
        if results:
            try:
                protocol = _protocol(dataset, family, known)
                prepare(protocol)
            except UsageError as error:
                notes.append(f"{dataset}: no pictures: {error}")
                continue
            ordered = sorted(results, key=lambda shown: shown.label)
            groups.append(Group(protocol, tuple(ordered)))
    return Grouped(groups, notes)


def _require_used(own: Mapping[str, Protocol], measured: set[tuple[str, str]]) -> None:
    for name in own:
        if (name, USER) not in measured:
            raise UsageError(f"no result is of your data set {name}: leave its file out")


def _protocol(dataset: str, family: str, own: Mapping[str, Protocol]) -> Protocol:
    if family != USER:
        return find_protocol(dataset, family)
    if dataset not in own:
        raise UsageError("name the YAML file that describes it with --dataset FILE")
    return own[dataset]


def listed(labels: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    first = ", ".join(labels[:3])
    return first if len(labels) <= 3 else f"{first} and {len(labels) - 3} more"
