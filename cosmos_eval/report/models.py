"""Metrics against what a model costs, the GFLOPs of an image."""

from collections.abc import Mapping
from typing import NamedTuple

from cosmos_eval.results.leaderboard.board import Board, Row
from cosmos_eval.results.leaderboard.facts import facts_of
from cosmos_eval.stats.pareto import pareto_front
from cosmos_eval.tasks import metric_of


class CostRow(NamedTuple):
    """A row of a leaderboard by its index, its GFLOPs per image, and the indices of the columns in
    which its number is on the Pareto front."""

    row: int
    gflops: float
    on_front: frozenset[int]


def cost_rows(board: Board) -> list[CostRow]:
    """Return the rows of models whose GFLOPs are known. What is not ranked is on no front."""
    found = {index: _gflops(row) for index, row in enumerate(board.rows)}
    costs = {index: gflops for index, gflops in found.items() if gflops is not None}
    fronts = [_front(board, costs, column) for column in range(len(board.columns))]
    return [
        CostRow(i, cost, frozenset(c for c, front in enumerate(fronts) if i in front))
        for i, cost in costs.items()
    ]


def _gflops(row: Row) -> float | None:
    known = (facts_of(entry).get("image_gflops") for entry in row.entries if entry)
    return next((gflops for gflops in known if gflops is not None), None)


def _front(board: Board, costs: Mapping[int, float], column: int) -> set[int]:
    name = board.columns[column].metric
    entries = ((i, board.rows[i].entries[column]) for i in costs)
    ranked = [(i, e) for i, e in entries if e and name in e.metrics and e.is_ranked]
    if not ranked or not (metric := metric_of(ranked[0][1].task, name)).is_ranked:
        return set()
    front = pareto_front(
        [costs[i] for i, _ in ranked],
        [entry.metrics[name] for _, entry in ranked],
        higher_is_better=metric.higher_is_better,
    )
    return {ranked[place][0] for place in front}
