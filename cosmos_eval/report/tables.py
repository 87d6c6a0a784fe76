"""The tables of a page: leaderboards with bars, figures per class, and provenance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cosmos_eval.results.labels import Stored, is_partial
from cosmos_eval.results.leaderboard.board import Board, Shown
from cosmos_eval.results.leaderboard.entries import Entry, Key, headlines_of
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.text import bounds, difference, percent
from cosmos_eval.tasks import known_tasks, metric_of

_MARGIN = 0.06  # of a scale, left and right of its ends
_FIRST_FIGURE = "IoU"  # has its table before those of other figures per class

Anchors = Mapping[Key, str]
"""The id of the element that holds the provenance of an entry."""


class Bar(NamedTuple):
    """An interval and its value, in percent of the column's scale from the left."""

    low: float
    high: float
    value: float


class Cell(NamedTuple):
    """A number; `exact`, `low` and `high` are for sorting and drawing, shares in percent."""

    shown: Shown
    anchor: str
    bar: Bar
    exact: str
    low: str
    high: str


class BoardView(NamedTuple):
    """A board with the task of every column, and cells by row, None where there is no number."""

    board: Board
    tasks: tuple[str, ...]
    cells: tuple[tuple[Cell | None, ...], ...]


def anchors_of(entries: Sequence[Entry]) -> Anchors:
    """Give every entry the id of an element."""
    return {entry.key: f"entry-{number}" for number, entry in enumerate(entries, start=1)}


def board_view(board: Board, anchors: Anchors) -> BoardView:
    """Return a board with bars on the scales of its columns."""
    tasks = [*known_tasks(), "other"]
    columns = [_cells(board, index, anchors) for index in range(len(board.columns))]
    return BoardView(
        board,
        tuple(tasks[min(column.task, len(tasks) - 1)] for column in board.columns),
        tuple(zip(*columns, strict=True)),
    )


def _cells(board: Board, index: int, anchors: Anchors) -> list[Cell | None]:
    """Return a column; its scale goes from its lowest to its highest end, with a margin."""
    metric = board.columns[index].metric
    ends = [_ends(row.entries[index], metric) for row in board.rows]
    lowest, highest = min(min(e) for e in ends if e), max(max(e) for e in ends if e)
    margin = _MARGIN * (highest - lowest) or 0.01
    start, length = lowest - margin, highest - lowest + 2 * margin

    cells: list[Cell | None] = []
    for row, of_row in zip(board.rows, ends, strict=True):
        entry = row.entries[index]
        if entry is None or not of_row:
            cells.append(None)
            continue
        value, low, high = of_row
        bar = Bar(*(round(100 * (end - start) / length, 2) for end in (low, high, value)))
        factor = metric_of(entry.task, metric).factor
        exact = (f"{factor * number:.4f}".rstrip("0").rstrip(".") for number in of_row)
        cells.append(Cell(row.cells[index], anchors[entry.key], bar, *exact))
    return cells


def _ends(entry: Entry | None, metric: str) -> tuple[float, float, float] | tuple[()]:
    """Return a value and its interval, which is the value itself where there is none."""
    if entry is None or metric not in entry.metrics:
        return ()
    value, interval = entry.metrics[metric], entry.intervals.get(metric)
    return (value, interval["low"], interval["high"]) if interval else (value, value, value)


class ClassRow(NamedTuple):
    """A class, its number of samples if recorded, and a value per model, shares in percent."""

    name: str
    counted: int | None
    values: tuple[float | None, ...]


class ClassTable(NamedTuple):
    """A figure of every class (`IoU`, `Acc`, `recall`...), and the name of its counts."""

    protocol: str
    dataset: str
    figure: str
    counted: str
    models: tuple[str, ...]
    rows: tuple[ClassRow, ...]


def class_tables(results: Sequence[Stored]) -> list[ClassTable]:
    """Return tables by protocol, data set and figure; classes in the order of the results."""
    groups: dict[tuple[str, str], list[Stored]] = {}
    for one in results:
        if one.row.per_class:
            groups.setdefault((one.row.protocol, one.row.dataset), []).append(one)
    return [
        table
        for key in sorted(groups)
        for table in _class_tables(*key, sorted(groups[key], key=lambda one: one.model))
    ]


def _class_tables(protocol: str, dataset: str, results: Sequence[Stored]) -> Iterator[ClassTable]:
    rows = [one.row for one in results]
    classes = list(dict.fromkeys(name for row in rows for name in row.per_class))
    figures = dict.fromkeys(n for row in rows for some in row.per_class.values() for n in some)
    counts = [name for name in figures if _is_count(rows, name)]
    counted = counts[0] if counts else ""
    models = tuple(one.model for one in results)
    for figure in sorted(figures, key=lambda figure: figure != _FIRST_FIGURE):
        if figure not in counts:
            of_classes = tuple(_class_row(name, rows, figure, counted) for name in classes)
            yield ClassTable(protocol, dataset, figure, counted, models, of_classes)


def _is_count(rows: Sequence[ResultRow], figure: str) -> bool:
    """Whether a figure counts something: results store shares as floats."""
    values = [some[figure] for row in rows for some in row.per_class.values() if figure in some]
    return any(isinstance(v, int) for v in values) and not any(isinstance(v, float) for v in values)


def _class_row(name: str, rows: Sequence[ResultRow], figure: str, counted: str) -> ClassRow:
    of_class = [row.per_class.get(name, {}) for row in rows]
    counts = [some[counted] for some in of_class if some.get(counted) is not None]
    factor = metric_of(rows[0].task, figure).factor
    values = (some.get(figure) for some in of_class)
    return ClassRow(
        name,
        int(counts[0] or 0) if counts else None,
        tuple(None if value is None else round(factor * value, 2) for value in values),
    )


class Figure(NamedTuple):
    """A metric as text, with its interval, the method of the interval, and published numbers."""

    metric: str
    value: str
    interval: str
    method: str
    published: str


def figures_of(entry: Entry) -> list[Figure]:
    """Return the metrics of an entry, those of leaderboards first."""
    first = [name for name in headlines_of(entry) if name in entry.metrics]
    return [_figure(entry, name) for name in dict.fromkeys([*first, *sorted(entry.metrics)])]


def _figure(entry: Entry, metric: str) -> Figure:
    value, interval = entry.metrics[metric], entry.intervals.get(metric)
    method = f"{interval['method']}, {100 * interval['level']:g}%" if interval else ""
    known = metric_of(entry.task, metric)
    shown = f"{percent(value)} %" if known.unit == "fraction" else f"{value:.2f}"
    published = ""
    if metric in entry.published:
        others = entry.published[metric]
        published = f"{percent(others)} ({difference(value, others)})"
    return Figure(metric, shown, bounds(known, interval), method, published)


def summary_of(results: Sequence[Stored]) -> dict[str, str]:
    """Return what was measured, when, by which code and where; no clock is read."""
    rows = [one.row for one in results]
    recorded = [row.provenance for row in rows]
    # To the minute: the first 16 characters of ISO 8601.
    times = sorted(one["utc"][:16].replace("T", " ") for one in recorded)
    facts = {
        "Results": len(rows),
        "Models": len({one.model for one in results}),
        "Data sets": len({row.dataset for row in rows}),
        "Protocols": _listed(row.protocol for row in rows),
        "Measured (UTC)": " to ".join(dict.fromkeys(times[:1] + times[-1:])),
        "By cosmos-eval": _listed(one["version"] for one in recorded),
        "Commits": _listed(str(one["commit"] or "unknown")[:12] for one in recorded),
        "On": _listed(one["device"] for one in recorded),
        "Precision": _listed(one["precision"] for one in recorded),
        "Of edited code": _some(bool(one["dirty"]) for one in recorded),
        "Of random weights": _some(bool(row.model["random"]) for row in rows),
        "Of a part of the samples only": _some(map(is_partial, rows)),
    }
    return {name: str(value) for name, value in facts.items() if value}


def _listed(values: Iterator[str]) -> str:
    return ", ".join(sorted(set(values)))


def _some(found: Iterator[bool]) -> str:
    count = sum(found)
    return f"{count} results" if count else ""
