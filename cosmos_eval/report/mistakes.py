"""What models take for what: the most frequent pairs of classes, models side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.report.sets import Set
from cosmos_eval.tasks import task_named
from cosmos_eval.types import CosmosEvalError, Mistakes, UsageError

OWN = 8
"""How many of a model's most frequent mistakes are shown."""


class Taken(NamedTuple):
    """Classes by name and, a model, the share of the true one that was taken for the other."""

    true: str
    predicted: str
    shares: tuple[float, ...]


class Confusions(NamedTuple):
    """The most frequent mistakes on a data set, by their mean share; shares are of `unit`."""

    protocol: str
    dataset: str
    unit: str
    models: tuple[str, ...]
    rows: tuple[Taken, ...]


def confusions_of(one: Set) -> Confusions | None:
    """None where the task knows no mistakes. Raises UsageError for samples of no use."""
    found: dict[str, Mistakes] = {}
    try:
        mistakes = task_named(one.task).mistakes
        if mistakes is None:
            return None
        for result in one.results:
            found[result.model] = mistakes(result.samples)
    except (CosmosEvalError, KeyError, IndexError, ValueError) as error:
        raise UsageError(
            f"{one.dataset} ({one.protocol}): no mistakes are shown: {error}"
        ) from error
    if not found:
        return None
    shares = {model: _shares(some) for model, some in found.items()}
    chosen = {pair for model in found for pair in _most_frequent(found[model])}
    rows = [
        Taken(true, predicted, tuple(of.get((true, predicted), 0.0) for of in shares.values()))
        for true, predicted in chosen
    ]
    rows.sort(key=lambda row: (-sum(row.shares), row.true, row.predicted))
    unit = next(iter(found.values())).unit
    return Confusions(one.protocol, one.dataset, unit, tuple(found), tuple(rows))


_Names = tuple[str, str]


def _shares(some: Mistakes) -> Mapping[_Names, float]:
    shares = some.amounts / some.totals[some.true]
    return dict(zip(_names(some, np.arange(len(some.true))), shares.tolist(), strict=True))


def _most_frequent(some: Mistakes) -> list[_Names]:
    return _names(some, np.argsort(-some.amounts, kind="stable")[:OWN])


def _names(some: Mistakes, places: NDArray[np.integer]) -> list[_Names]:
    chosen = zip(some.true[places], some.predicted[places], strict=True)
    return [(some.classes[true], some.classes[predicted]) for true, predicted in chosen]
