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
    """Return the rows of a leaderboard whose models have a known number of GFLOPs.

    Each row says in which columns its number is on the Pareto front: no other model is both cheaper
    and better. Numbers that are not ranked are never on a front.

    Example:
        In a column, models of 4, 8 and 9 GFLOPs have the accuracies 0.6, 0.5 and 0.7. The first and
        the last model are on its front.
    """
    gflops_by_row: dict[int, float] = {}
    for row_index, row in enumerate(board.rows):
        gflops = _find_gflops(row)
        if gflops is not None:
            gflops_by_row[row_index] = gflops
    # For each column, the indices of the rows that are on its front.
    fronts = []
    for column_index in range(len(board.columns)):
        fronts.append(_rows_on_front(board, gflops_by_row, column_index))

    rows = []
    for row_index, gflops in gflops_by_row.items():
        columns_on_front = set()
        for column_index, front in enumerate(fronts):
            if row_index in front:
                columns_on_front.add(column_index)
        rows.append(CostRow(row_index, gflops, frozenset(columns_on_front)))
    return rows


def _find_gflops(row: Row) -> float | None:
    """Return the GFLOPs per image that the first entry of a row with this fact states, or None."""
    for entry in row.entries:
        if entry is not None:
            gflops: float | None = facts_of(entry).get("image_gflops")
            if gflops is not None:
                return gflops
    return None


def _rows_on_front(board: Board, gflops_by_row: Mapping[int, float], column_index: int) -> set[int]:
    """Return the indices of the rows that are on the Pareto front of a column.

    Args:
        board: The leaderboard.
        gflops_by_row: The GFLOPs of each model by the index of its row. Only these rows are
            compared.
        column_index: The index of the column, which holds one metric on one data set.
    """
    metric_name = board.columns[column_index].metric
    row_indices = []
    values = []
    task = ""
    for row_index in gflops_by_row:
        entry = board.rows[row_index].entries[column_index]
        if entry is not None and metric_name in entry.metrics and entry.is_ranked:
            row_indices.append(row_index)
            values.append(entry.metrics[metric_name])
            task = entry.task  # all entries of a column are of the same task
    if not row_indices:
        return set()
    metric = metric_of(task, metric_name)
    if not metric.is_ranked:
        return set()
    costs = [gflops_by_row[row_index] for row_index in row_indices]
    # The front holds indices into `costs`.
    front = pareto_front(costs, values, higher_is_better=metric.higher_is_better)
    return {row_indices[index] for index in front}
