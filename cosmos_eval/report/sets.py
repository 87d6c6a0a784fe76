"""Results of one data set and protocol, with their samples, a set at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cosmos_eval.results.labels import Stored
from cosmos_eval.types import Samples, UsageError

Read = Callable[[Path], Samples]
"""The per-sample arrays of a result file; raises UsageError where there are none."""


class Sampled(NamedTuple):
    """A result and its samples."""

    stored: Stored
    samples: Samples

    @property
    def model(self) -> str:
        """What the model is called where models are compared."""
        return self.stored.model


class Set(NamedTuple):
    """All results of a data set by one protocol whose samples can be read, by model.

    `notes` says, a line each, which cannot, and why.
    """

    protocol: str
    dataset: str
    task: str
    results: tuple[Sampled, ...]
    notes: tuple[str, ...]


def sets_of(results: Sequence[Stored], read: Read) -> Iterator[Set]:
    """Sets in alphabetical order of protocol and data set; samples are read when one is reached."""
    groups: dict[tuple[str, str], list[Stored]] = {}
    for one in sorted(results, key=lambda one: one.model):
        groups.setdefault((one.row.protocol, one.row.dataset), []).append(one)
    for (protocol, dataset), group in sorted(groups.items()):
        sampled, notes = [], []
        for stored in group:
            try:
                sampled.append(Sampled(stored, read(stored.path)))
            except UsageError as error:
                notes.append(f"not compared with others: {error}")
        task = group[0].row.task
        yield Set(protocol, dataset, task, tuple(sampled), tuple(notes))
