"""Who is better than whom in how many tests, as a table of all models against all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cosmos_eval.report.pairs import Models, Versus


class Against(NamedTuple):
    """Tests that a model won and lost against another one, of all of theirs."""

    won: int
    lost: int
    tests: int


class Wins(NamedTuple):
    """A model against each of the models in their order; None where nothing was compared."""

    model: str
    against: tuple[Against | None, ...]


def wins_of(pairs: Sequence[Versus], models: Sequence[str]) -> list[Wins]:
    """Every model against every other one."""
    known = {pair.models: pair for pair in pairs}
    return [
        Wins(model, tuple(_against(known, model, other) for other in models)) for model in models
    ]


def _against(known: Mapping[Models, Versus], model: str, other: str) -> Against | None:
    first, second = sorted((model, other))
    pair = known.get((first, second))
    if pair is None or model == other:
        return None
    decisive = sum(test.adjusted is not None for test in pair.tests)
    own, others = ("A", "B") if model == first else ("B", "A")
    return Against(pair.wins(own), pair.wins(others), decisive)
