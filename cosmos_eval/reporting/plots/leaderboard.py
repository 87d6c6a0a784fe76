"""Bars with intervals: one panel per data set and metric, one bar per model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cosmos_eval.reporting.plots.style import (
    BLUE,
    INTERVALS_NOTE,
    draw_bars,
    new_figure,
    new_panels,
    shorten_all,
)
from cosmos_eval.results.leaderboard.board import Board, Column, Row, make_boards
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.tasks import metric_of
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS_PER_ROW = {1: 2, 2: 4}
_ROW_HEIGHT, _PANEL_MARGIN = 0.16, 0.6  # inches: of a bar, and of the titles of a panel
_NOTE_HEIGHT = 0.15  # inches
_LONGEST_NAME = {1: 22, 2: 28}  # characters of a model's name
_MOST_HEIGHT = 9.0  # inches: the height of a page


def draw_leaderboard(entries: Sequence[Entry], columns: int) -> Figure:
    """Draw the primary metrics of results as bars with 95% intervals.

    There is one panel per data set, protocol and metric, and one bar per model. Bars of numbers
    without an interval, such as published ones, are hollow. A note says what whiskers are.

    Args:
        entries: The results and published numbers to show.
        columns: The number of columns of the paper that the figure spans, 1 or 2.

    Raises:
        UsageError: If there is nothing to draw, or too much for a page.
    """
    panels = primary_panels(make_boards(entries))
    if not panels:
        raise UsageError("nothing to draw: no result has a primary metric")
    n_rows = math.ceil(len(panels) / _PANELS_PER_ROW[columns])
    row_labels = list(dict.fromkeys(row_label(row) for board, _ in panels for row in board.rows))
    height = n_rows * (_PANEL_MARGIN + _ROW_HEIGHT * len(row_labels))
    if height > _MOST_HEIGHT:
        raise UsageError(
            f"{len(panels)} panels of {len(row_labels)} models need {height:.0f} inches, more than "
            "a page: choose with --datasets, --metrics, --protocols or --models"
        )

    figure = new_figure(columns, height + _NOTE_HEIGHT)
    all_axes = new_panels(figure, len(panels), n_rows, share_rows=True)
    for axes, (board, column_index) in zip(all_axes, panels, strict=True):
        _draw_panel(axes, board, column_index, row_labels)
    short_labels = shorten_all(row_labels, _LONGEST_NAME[columns])
    all_axes[0].set_yticks(range(len(row_labels)), short_labels)
    figure.supxlabel(f"{INTERVALS_NOTE}; hollow: without an interval", fontsize=6)
    return figure


def primary_panels(boards: Sequence[Board]) -> list[tuple[Board, int]]:
    """Return the columns of boards to draw: each board, with the index of one of its columns.

    Only primary metrics are drawn, such as R@1 of retrieval.
    """
    panels = []
    for board in boards:
        for column_index, column in enumerate(board.columns):
            metric = metric_of(task_of_column(board, column_index), column.metric)
            if metric.primary:
                panels.append((board, column_index))
    return panels


def task_of_column(board: Board, column_index: int) -> str:
    """Return the name of the task that a column of a board belongs to."""
    for row in board.rows:
        entry = row.entries[column_index]
        if entry is not None:
            return entry.task
    raise ValueError(f"column {column_index} of {board.name} has no entry")


def panel_title(board: Board, column: Column) -> str:
    """Return the title of a panel on three lines: the data set, the protocol, and the metric."""
    return f"{column.dataset}\n{board.name}\n{column.title}"


def row_label(row: Row) -> str:
    """Return the name of a row's model, with its source unless it was measured here.

    The name is without the kind of attention map, which tables of localisation add: a model has one
    row in all panels.
    """
    for entry in row.entries:
        if entry is not None and entry.stored is not None:
            return entry.stored.model
    return f"{row.model} ({row.source})"


def _draw_panel(axes: Axes, board: Board, column_index: int, row_labels: Sequence[str]) -> None:
    """Draw a metric on a data set. Every panel has the rows `row_labels`; some may be empty."""
    column = board.columns[column_index]
    metric = metric_of(task_of_column(board, column_index), column.metric)
    entries_by_label = {row_label(row): row.entries[column_index] for row in board.rows}
    values: list[float] = []
    intervals: list[tuple[float, float] | None] = []
    for label in row_labels:
        entry = entries_by_label.get(label)
        if entry is None or column.metric not in entry.metrics:
            values.append(math.nan)
            intervals.append(None)
            continue
        values.append(metric.factor * entry.metrics[column.metric])
        interval = entry.intervals.get(column.metric)
        if interval is None:
            intervals.append(None)
        else:
            intervals.append((metric.factor * interval["low"], metric.factor * interval["high"]))
    draw_bars(axes, values, intervals, BLUE)
    unit = " (%)" if metric.in_percent else ""
    axes.set_title(f"{panel_title(board, column)}{unit}")
    axes.tick_params(axis="y", length=0)
