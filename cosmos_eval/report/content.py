"""The words and numbers of a page, from results and their samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cosmos_eval.report.comparisons import (
    Comparison,
    ModelPair,
    Read,
    ResultSet,
    compare_set,
    pair_models,
    result_sets,
    ties_of,
)
from cosmos_eval.results.labels import Stored, distinguish
from cosmos_eval.results.leaderboard.board import Board, boards
from cosmos_eval.results.leaderboard.entries import Entry, entries_of
from cosmos_eval.tasks import task_named
from cosmos_eval.types import (
    CosmosEvalError,
    Mistakes,
    OnProgress,
    Progress,
    UsageError,
    no_progress,
)

_FREQUENT = 8  # mistakes of each model that are shown


class Mistake(NamedTuple):
    """Two classes, and per model the share of the true one that got the predicted one."""

    true: str
    predicted: str
    shares: tuple[float, ...]


class MistakeTable(NamedTuple):
    """The most frequent mistakes on a data set, by their mean share of the true class's `unit`."""

    protocol: str
    dataset: str
    unit: str
    models: tuple[str, ...]
    rows: tuple[Mistake, ...]


class Content(NamedTuple):
    """A page without pictures.

    `results` are those measured here without edited ones, `entries` all of them and the published
    ones beside them, `pairs` every two models, `notes` one line for each thing that is not shown.
    """

    results: tuple[Stored, ...]
    entries: tuple[Entry, ...]
    boards: tuple[Board, ...]
    pairs: tuple[ModelPair, ...]
    mistakes: tuple[MistakeTable, ...]
    notes: tuple[str, ...]


def content_of(
    results: Sequence[Stored],
    read: Read,
    others: Sequence[Entry] = (),
    progress: OnProgress = no_progress,
) -> Content:
    """Compare everything that can be compared.

    `others` are published numbers; those of measured data sets and protocols are kept. Raises
    UsageError for two results of the same model, data set and protocol.
    """
    results = distinguish(results)
    trusted = [one for one in results if not one.is_edited]
    own = entries_of(results)
    measured = {(entry.protocol, entry.dataset) for entry in own}
    entries = [*own, *(o for o in others if (o.protocol, o.dataset) in measured)]
    found: list[Comparison] = []
    mistakes: list[MistakeTable | None] = []
    notes: list[str] = []
    # The matrices are small: more threads of NumPy's gain little, and wait for each other where
    # other processes are busy.
    with threadpool_limits(1):
        for done, one in enumerate(result_sets(trusted, read)):
            progress(Progress("data sets compared", done, len(measured)))
            found += compare_set(one)
            notes += one.notes
            try:
                mistakes.append(mistakes_of(one))
            except UsageError as error:
                notes.append(str(error))
    edited = (
        f"in leaderboards alone: {one.path}, which was edited after it was written"
        for one in results
        if one.is_edited
    )
    return Content(
        results=tuple(trusted),
        entries=tuple(sorted(entries, key=lambda entry: entry.key)),
        boards=tuple(boards(entries, ties_of(found, entries))),
        pairs=tuple(pair_models(found)),
        mistakes=tuple(table for table in mistakes if table is not None),
        notes=(*notes, *edited),
    )


def mistakes_of(one: ResultSet) -> MistakeTable | None:
    """Return the mistakes on a data set; None for a task that has none, or without results.

    Raises UsageError for samples that do not give them.
    """
    try:
        evaluate = task_named(one.task).mistakes
        if evaluate is None or not one.results:
            return None
        found = {result.model: evaluate(result.samples) for result in one.results}
    except (CosmosEvalError, KeyError, IndexError, ValueError) as error:
        raise UsageError(
            f"{one.dataset} ({one.protocol}): no mistakes are shown: {error}"
        ) from error
    shares = [_shares(some) for some in found.values()]
    chosen = {pair for some in found.values() for pair in _most_frequent(some)}
    rows = [Mistake(*pair, tuple(of.get(pair, 0.0) for of in shares)) for pair in chosen]
    rows.sort(key=lambda row: (-sum(row.shares), row.true, row.predicted))
    unit = next(iter(found.values())).unit
    return MistakeTable(one.protocol, one.dataset, unit, tuple(found), tuple(rows))


_Classes = tuple[str, str]


def _shares(some: Mistakes) -> Mapping[_Classes, float]:
    shares = some.amounts / some.totals[some.true]
    return dict(zip(_classes(some, np.arange(len(some.true))), shares.tolist(), strict=True))


def _most_frequent(some: Mistakes) -> list[_Classes]:
    return _classes(some, np.argsort(-some.amounts, kind="stable")[:_FREQUENT])


def _classes(some: Mistakes, indices: NDArray[np.integer]) -> list[_Classes]:
    chosen = zip(some.true[indices], some.predicted[indices], strict=True)
    return [(some.classes[true], some.classes[predicted]) for true, predicted in chosen]
