"""Results with their samples, and what the sources of examples share. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from cosmos_eval.data.user_yaml import FAMILY as USER
from cosmos_eval.protocols import prepare
from cosmos_eval.report.comparisons import Sampled
from cosmos_eval.report.gallery.models import Outputs, Request, listed
from cosmos_eval.report.gallery.selection import Candidate
from cosmos_eval.results.labels import model_label
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import read_files, read_stored, samples_of
from cosmos_eval.tasks import find_protocol, task_of
from cosmos_eval.types import Protocol, RunOptions, UsageError

TASKS = ("retrieval", "cls", "seg")
"""Tasks with examples: their samples tell which images to show."""

PAIRS = 3
"""Images with a text, at most, of a data set."""

# Indices that `spread` takes, as fractions: both ends, the middle, the quarters.
_SPREAD = (1.0, 0.0, 0.5, 0.75, 0.25)


class Group(NamedTuple):
    """All results by one protocol, which share their images; `name` is for notes."""

    task: str
    protocol: Protocol
    results: tuple[Sampled, ...]

    @property
    def name(self) -> str:
        return f"{self.protocol.dataset} ({self.protocol.family})"


class _Name(NamedTuple):
    """The task, data set and protocol family that the results of a group share."""

    task: str
    dataset: str
    family: str


def _name(row: ResultRow) -> _Name:
    return _Name(row.task, row.dataset, row.protocol)


def group_results(
    paths: Sequence[Path], user_files: Sequence[str]
) -> tuple[list[Group], list[str]]:
    """Group results by protocol; returns also notes on results without pictures.

    `user_files` describe users' data sets. Raises UsageError for a file that is no result, and for
    a YAML file of no result.
    """
    by_name: dict[_Name, list[Sampled]] = {}
    notes = []
    stored = read_stored(paths)
    known = _user_protocols(user_files, (one.row for one in stored))
    for one in stored:
        if one.row.task not in TASKS or one.is_edited:
            continue
        try:
            files = read_files(one.path)
            sampled = Sampled(one._replace(row=files.row), samples_of(one.path, files))
            by_name.setdefault(_name(files.row), []).append(sampled)
        except UsageError as error:
            notes.append(f"{one.model} on {one.row.dataset}: no pictures: {error}")
    groups = []
    for name in sorted(by_name, key=lambda name: (TASKS.index(name.task), name)):
        try:
            protocol = _protocol(name, known)
            prepare(protocol)
        except UsageError as error:
            notes.append(f"{name.dataset}: no pictures: {error}")
            continue
        results = sorted(by_name[name], key=lambda result: result.model)
        groups.append(Group(name.task, protocol, tuple(results)))
    return groups, notes


def require_inputs(
    rows: Iterable[ResultRow],
    data_root: str | None,
    datasets: Sequence[str],
    predictions: Path | None,
) -> None:
    """Raise UsageError for a folder that does not exist and a YAML file of no result."""
    for folder, option in ((data_root, "--data-root"), (predictions, "--predictions")):
        if folder is not None and not Path(folder).is_dir():
            raise UsageError(f"no folder {folder}, see {option}")
    _user_protocols(datasets, rows)


def _user_protocols(files: Sequence[str], rows: Iterable[ResultRow]) -> dict[_Name, Protocol]:
    """Read the protocols of users' files. Raises UsageError for one of no result."""
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


def _protocol(name: _Name, known: Mapping[_Name, Protocol]) -> Protocol:
    if name.family != USER:
        return find_protocol(name.dataset, name.family)
    if name not in known:
        raise UsageError("name the YAML file that describes it with --dataset FILE")
    return known[name]


class Pair(NamedTuple):
    """An image of a data set and a text about it.

    `image` returns it as RGB; raises UsageError where it cannot be used.
    """

    dataset: str
    name: str
    image: Callable[[], Image.Image]
    text: str


class Source:
    """The examples of a group of results: read data, request outputs of models, then draw.

    `notes` has one line for each thing that cannot be shown; `pairs` are a few of the images with
    texts, for attention maps.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.pairs: list[Pair] = []

    def requests(self) -> Iterable[Request]:
        """Return what models have to compute."""
        return ()

    def candidates(self, outputs: Outputs) -> Iterable[Candidate]:
        """Return the examples, given the outputs of models."""
        raise NotImplementedError

    def open_results(
        self,
        group: Group,
        options: RunOptions,
        open_data: Callable[[Any, RunOptions], Any],
        is_of: Callable[[Any, Sampled], bool],
    ) -> list[tuple[Sampled, Any]]:
        """Open the data of every result of a group, as many samples as it was limited to.

        `is_of` tells whether a result was measured on the opened data; others are noted.
        """
        data: dict[RunOptions, Any] = {}
        found, foreign = [], []
        for own in dict.fromkeys(_measured(result.row, options) for result in group.results):
            try:
                data[own] = open_data(group.protocol, own)
            except UsageError as error:
                self.note_fault(group, error)
        for result in group.results:
            opened = data.get(_measured(result.row, options))
            if opened is not None and is_of(opened, result):
                found.append((result, opened))
            elif opened is not None:
                foreign.append(result.model)
        self.note_other_data(group, foreign)
        return found

    def note_fault(self, group: Group, error: UsageError) -> None:
        """Note that the data of a group cannot be read."""
        dataset = group.protocol.dataset
        reason = str(error).removeprefix(f"{dataset}: ")
        hint = (
            "" if group.protocol.family == USER else f" (see `cosmos-eval data doctor {dataset}`)"
        )
        self.notes.append(f"{group.name}: no pictures: {reason}{hint}")

    def note_other_data(self, group: Group, models: Sequence[str]) -> None:
        """Note which models were measured on other data than these."""
        if models:
            self.notes.append(
                f"{group.name}: no pictures of {listed(models)}: measured on other images, "
                "captions or classes than are there now"
            )


def _measured(row: ResultRow, options: RunOptions) -> RunOptions:
    """Return the options with the limit of a result."""
    limit = row.provenance["limit"]
    return replace(options, limit=limit, allow_partial=limit is None)


def plain_name(result: Sampled) -> str:
    """Return the name of a model in tables, without what concerns the measurement alone."""
    rest = {name: value for name, value in result.row.provenance.items() if name != "partial"}
    row = replace(result.row, provenance={**rest, "limit": None, "attention": None})
    return model_label(row, result.stored.notes)


def spread(n: int, most: int) -> list[int]:
    """Return a few of n indices: the last, the first, the middle, the quarters."""
    indices = (round(fraction * (n - 1)) for fraction in _SPREAD)
    return list(dict.fromkeys(indices))[:most] if n else []
