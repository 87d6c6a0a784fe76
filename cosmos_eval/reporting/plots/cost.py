"""Metrics against the GFLOPs of an image, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from cosmos_eval.reporting.models import CostRow, cost_rows
from cosmos_eval.reporting.plots.leaderboard import (
    panel_title,
    primary_panels,
    row_label,
    task_of_column,
)
from cosmos_eval.reporting.plots.style import (
    BLUE,
    GREY,
    INTERVALS_NOTE,
    new_figure,
    new_panels,
    shorten_all,
)
from cosmos_eval.results.leaderboard.board import Board, make_boards
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.tasks import metric_of
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS_PER_ROW = {1: 1, 2: 3}
_PANEL_HEIGHT = 2.1  # inches
_MOST_PANELS = {1: 4, 2: 12}  # on a page
_LONGEST_NAME = 20  # characters of a model's name
_MOST_NAMES = 10  # in a panel; if it has more models, only those on the front are named
_NOTE_HEIGHT = 0.15  # inches
_LABEL_GAP = 0.06  # between names above each other, as a fraction of the height of a panel
_NEAR_RATIO = 2.0  # models whose GFLOPs differ by a smaller ratio have names above each other


def draw_costs(entries: Sequence[Entry], columns: int) -> Figure:
    """Draw primary metrics against GFLOPs per image, one panel per data set and metric.

    A line joins the models on the Pareto front: no other model is both cheaper and better. If a
    panel has many models, only those on the front have names.

    Args:
        entries: The results to show. Models whose GFLOPs are unknown are left out.
        columns: The number of columns of the paper that the figure spans, 1 or 2.

    Raises:
        UsageError: If there is nothing to draw, or too much for a page.
    """
    panels = []
    for board, column_index in primary_panels(make_boards(entries)):
        rows_with_cost = _rows_with_metric(board, column_index)
        if rows_with_cost:
            panels.append((board, column_index, rows_with_cost))
    if not panels:
        raise UsageError("nothing to draw: no model with a primary metric has known GFLOPs")
    if len(panels) > _MOST_PANELS[columns]:
        raise UsageError(
            f"{len(panels)} panels, and a page has room for {_MOST_PANELS[columns]}: choose with "
            "--datasets, --metrics or --protocols"
        )
    n_rows = math.ceil(len(panels) / _PANELS_PER_ROW[columns])
    figure = new_figure(columns, n_rows * _PANEL_HEIGHT + _NOTE_HEIGHT)
    all_axes = new_panels(figure, len(panels), n_rows)
    for axes, (board, column_index, rows_with_cost) in zip(all_axes, panels, strict=True):
        _draw_panel(axes, board, column_index, rows_with_cost)
    figure.supxlabel(f"blue: Pareto front; {INTERVALS_NOTE}", fontsize=6)
    return figure


def _rows_with_metric(board: Board, column_index: int) -> list[CostRow]:
    """Return the rows of a board with known GFLOPs and a number in a column, the cheapest first."""
    metric_name = board.columns[column_index].metric
    rows = []
    for cost_row in cost_rows(board):
        entry = board.rows[cost_row.row].entries[column_index]
        if entry is not None and metric_name in entry.metrics:
            rows.append(cost_row)
    return sorted(rows, key=lambda cost_row: cost_row.gflops)


def _draw_panel(
    axes: Axes, board: Board, column_index: int, rows_with_cost: Sequence[CostRow]
) -> None:
    """Draw a metric of models against their GFLOPs, with intervals, names and the front."""
    column = board.columns[column_index]
    metric = metric_of(task_of_column(board, column_index), column.metric)
    front: list[tuple[float, float]] = []
    points: list[_Point] = []
    for cost_row in rows_with_cost:
        row = board.rows[cost_row.row]
        entry = row.entries[column_index]
        if entry is None:
            continue
        value = metric.factor * entry.metrics[column.metric]
        is_on_front = column_index in cost_row.on_front
        colour = BLUE if is_on_front else GREY
        interval = entry.intervals.get(column.metric)
        if interval is not None:
            ends = [metric.factor * interval["low"], metric.factor * interval["high"]]
            axes.plot([cost_row.gflops] * 2, ends, "_-", color=colour, linewidth=0.8, markersize=4)
        axes.plot(cost_row.gflops, value, "o", color=colour, markersize=3)
        if is_on_front or len(rows_with_cost) <= _MOST_NAMES:
            points.append(_Point(row_label(row), cost_row.gflops, value))
        if is_on_front:
            front.append((cost_row.gflops, value))
    if front:
        costs, values = zip(*front, strict=True)
        axes.plot(costs, values, color=BLUE, linewidth=0.8, alpha=0.6)
    unit = " (%)" if metric.in_percent else ""
    axes.set_title(f"{panel_title(board, column)}{unit}")
    axes.set(xscale="log", xlabel="GFLOPs per image")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.margins(x=0.3, y=0.1)
    low, high = axes.get_ylim()
    names = shorten_all([point.name for point in points], _LONGEST_NAME)
    heights = _label_heights(points, _LABEL_GAP * (high - low))
    for point, name, height in zip(points, names, heights, strict=True):
        axes.annotate(
            name,
            (point.gflops, height),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=5.5,
            va="center",
        )


class _Point(NamedTuple):
    """A model in a panel."""

    name: str
    gflops: float
    value: float


def _label_heights(points: Sequence[_Point], gap: float) -> list[float]:
    """Return the height of each point's name, which is its value or a little above.

    Names of models with about the same GFLOPs are at least `gap` apart. Values of 50 and 51 with a
    gap of 3 give the heights 50 and 53.
    """
    heights = [point.value for point in points]
    lowest_first = sorted(range(len(points)), key=lambda index: points[index].value)
    for position, index in enumerate(lowest_first):
        for lower_index in lowest_first[:position]:
            ratio = points[index].gflops / points[lower_index].gflops
            if 1 / _NEAR_RATIO < ratio < _NEAR_RATIO:
                heights[index] = max(heights[index], heights[lower_index] + gap)
    return heights
