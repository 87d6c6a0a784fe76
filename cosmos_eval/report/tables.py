"""Boards as a page shows them: every number with its bar, its source and what to sort by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cosmos_eval.results.leaderboard import Board, Column, Entry, Key, Row, Shown
from cosmos_eval.tasks import Metric, known_tasks, metric_of

_MARGIN = 0.06  # of a scale, left and right of its ends


class Bar(NamedTuple):
    """An interval and its number, in percent of the column's scale from the left."""

    low: float
    high: float
    value: float


class CellView(NamedTuple):
    """A number: `exact`, `low` and `high` for sorting and drawing, shares in percent."""

    shown: Shown
    anchor: str = ""
    exact: str = ""
    low: str = ""
    high: str = ""
    bar: Bar | None = None


class ColumnView(NamedTuple):
    """A data set's metric."""

    dataset: str
    task: str
    metric: str
    title: str


class RowView(NamedTuple):
    """A model's numbers from one source."""

    model: str
    source: str
    url: str
    cells: tuple[CellView, ...]


class BoardView(NamedTuple):
    """A protocol family's table."""

    protocol: str
    columns: tuple[ColumnView, ...]
    rows: tuple[RowView, ...]
    notes: tuple[str, ...]
    shows_source: bool


Anchors = Mapping[Key, str]
"""Where on the page the provenance of an entry stands."""


def anchors_of(entries: Sequence[Entry]) -> Anchors:
    """A name for each entry."""
    return {entry.key: f"entry-{number}" for number, entry in enumerate(entries, start=1)}


def board_view(board: Board, anchors: Anchors) -> BoardView:
    """A board with the scales of its columns."""
    scales = [_scale(board, place) for place in range(len(board.columns))]
    tasks = list(known_tasks())
    return BoardView(
        protocol=board.protocol,
        columns=tuple(_column(column, tasks) for column in board.columns),
        rows=tuple(_row(row, board, scales, anchors) for row in board.rows),
        notes=board.notes,
        shows_source=board.shows_source,
    )


class _Scale(NamedTuple):
    low: float
    high: float

    def place(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 2)


def _scale(board: Board, place: int) -> _Scale:
    """From the lowest to the highest end of a column, with a margin."""
    metric = board.columns[place].metric
    ends = [end for row in board.rows for end in _ends(row.entries[place], metric)]
    low, high = min(ends), max(ends)
    margin = _MARGIN * (high - low) or 0.01
    return _Scale(low - margin, high + margin)


def _ends(entry: Entry | None, metric: str) -> tuple[float, ...]:
    if entry is None or metric not in entry.metrics:
        return ()
    interval = entry.intervals.get(metric, {})
    return entry.metrics[metric], *(interval[end] for end in ("low", "high") if end in interval)


def _column(column: Column, tasks: Sequence[str]) -> ColumnView:
    task = tasks[column.task] if column.task < len(tasks) else "other"
    return ColumnView(column.dataset, task, column.metric, column.title)


def _row(row: Row, board: Board, scales: Sequence[_Scale], anchors: Anchors) -> RowView:
    columns = zip(row.cells, row.entries, board.columns, scales, strict=True)
    cells = tuple(_cell(shown, e, c.metric, scale, anchors) for shown, e, c, scale in columns)
    return RowView(row.model, row.source, row.url, cells)


def _cell(
    shown: Shown, entry: Entry | None, metric: str, scale: _Scale, anchors: Anchors
) -> CellView:
    if entry is None or metric not in entry.metrics:
        return CellView(shown)
    known = metric_of(entry.task, metric)
    value, *ends = _ends(entry, metric)
    low, high = ends if len(ends) == 2 else (value, value)
    return CellView(
        shown,
        anchors[entry.key],
        exact=_exact(known, value),
        low=_exact(known, low),
        high=_exact(known, high),
        bar=Bar(scale.place(low), scale.place(high), scale.place(value)),
    )


def _exact(metric: Metric, value: float) -> str:
    return f"{metric.factor * value:.4f}".rstrip("0").rstrip(".")
