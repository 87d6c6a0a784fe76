"""Find the models with the best metrics for their cost, the GFLOPs of an image."""

from collections.abc import Mapping
from typing import NamedTuple

from cosmos_eval.results.leaderboard.board import Board, Row
from cosmos_eval.results.leaderboard.facts import facts_of
from cosmos_eval.stats.pareto import pareto_front
from cosmos_eval.tasks import metric_of


class CostRow(NamedTuple):
    """A row of a leaderboard with the cost of its model."""

    # The index of the row.
    row: int
    # GFLOPs per image.
    gflops: float
    # The indices of the columns in which the number is on the Pareto front.
    on_front: frozenset[int]


def cost_rows(board: Board) -> list[CostRow]:
    """Return the rows of models whose GFLOPs are known.

    Numbers that are not ranked are on no Pareto front.
    """
    costs: dict[int, float] = {}
    for index, row in enumerate(board.rows):
        gflops = _gflops(row)
        if gflops is not None:
            costs[index] = gflops
    fronts = [_front(board, costs, column) for column in range(len(board.columns))]
    rows = []
    for index, gflops in costs.items():
        columns = [column for column, front in enumerate(fronts) if index in front]
        rows.append(CostRow(index, gflops, frozenset(columns)))
    return rows


def _gflops(row: Row) -> float | None:
    """Return the GFLOPs per image that any entry of a row states; None if none does."""
    for entry in row.entries:
        if entry is not None:
            gflops: float | None = facts_of(entry).get("image_gflops")
            if gflops is not None:
                return gflops
    return None


def _front(board: Board, costs: Mapping[int, float], column: int) -> set[int]:
    """Return the indices of the rows that are on the Pareto front of a column."""
    metric_name = board.columns[column].metric
    rows = []
    values = []
    tasks = []
    for index in costs:
        entry = board.rows[index].entries[column]
        if entry is not None and metric_name in entry.metrics and entry.is_ranked:
            rows.append(index)
            values.append(entry.metrics[metric_name])
            tasks.append(entry.task)
    if not rows:
        return set()
    metric = metric_of(tasks[0], metric_name)
    if not metric.is_ranked:
        return set()
    row_costs = [costs[index] for index in rows]
    front = pareto_front(row_costs, values, higher_is_better=metric.higher_is_better)
    return {rows[position] for position in front}
