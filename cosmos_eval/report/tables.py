"""The tables of a page (leaderboards, classes, provenance), and the data of its scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cosmos_eval.report.content import Content, by_data_set
from cosmos_eval.results.compare import MetricTest
from cosmos_eval.results.labels import Stored, is_partial
from cosmos_eval.results.leaderboard.board import Board, Shown
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.text import bounds, difference, p_value_text, percent, shown
from cosmos_eval.tasks import known_tasks, metric_of

_MARGIN = 0.06  # of a scale, left and right of its ends
_FIRST_FIGURE = "IoU"  # has its table before those of other figures per class


class Bar(NamedTuple):
    """An interval and its value, in percent of the column's scale from the left."""

    low: float
    high: float
    value: float


class Cell(NamedTuple):
    """A number; `exact`, `low` and `high` are for sorting and drawing, shares in percent."""

    shown: Shown
    bar: Bar
    exact: str
    low: str
    high: str


class BoardView(NamedTuple):
    """A board with the task of every column, and cells by row, None where there is no number."""

    board: Board
    tasks: tuple[str, ...]
    cells: tuple[tuple[Cell | None, ...], ...]


def board_view(board: Board) -> BoardView:
    """Return a board with bars on the scales of its columns."""
    tasks = [*known_tasks(), "other"]
    columns = [_cells(board, index) for index in range(len(board.columns))]
    return BoardView(
        board,
        tuple(tasks[min(column.task, len(tasks) - 1)] for column in board.columns),
        tuple(zip(*columns, strict=True)),
    )


def _cells(board: Board, index: int) -> list[Cell | None]:
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
        value, low, high = (round(100 * (end - start) / length, 2) for end in of_row)
        factor = metric_of(entry.task, metric).factor
        exact = (f"{factor * number:.4f}".rstrip("0").rstrip(".") for number in of_row)
        cells.append(Cell(row.cells[index], Bar(low, high, value), *exact))
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
    classified = [one for one in results if one.row.per_class]
    return [table for group in by_data_set(classified) for table in _class_tables(*group)]


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
    # Results store shares as floats.
    values = [some[figure] for row in rows for some in row.per_class.values() if figure in some]
    return any(isinstance(v, int) for v in values) and not any(isinstance(v, float) for v in values)


def _class_row(name: str, rows: Sequence[ResultRow], figure: str, counted: str) -> ClassRow:
    of_class = [row.per_class.get(name, {}) for row in rows]
    counts = [count for some in of_class if (count := some.get(counted)) is not None]
    factor = metric_of(rows[0].task, figure).factor
    values = (some.get(figure) for some in of_class)
    rounded = tuple(None if value is None else round(factor * value, 2) for value in values)
    return ClassRow(name, int(counts[0]) if counts else None, rounded)


class Figure(NamedTuple):
    """A metric as text, with its interval, the method of the interval, and published numbers."""

    metric: str
    value: str
    interval: str
    method: str
    published: str


def figures_of(entry: Entry) -> list[Figure]:
    """Return the metrics of an entry, those of leaderboards first."""
    names = dict.fromkeys([*headlines_of(entry), *sorted(entry.metrics)])
    return [_figure(entry, name) for name in names if name in entry.metrics]


def _figure(entry: Entry, metric: str) -> Figure:
    value, interval = entry.metrics[metric], entry.intervals.get(metric)
    method = f"{interval['method']}, {100 * interval['level']:g}%" if interval else ""
    known = metric_of(entry.task, metric)
    text = f"{shown(known, value)}{' %' if known.unit == 'fraction' else ''}"
    published = ""
    if metric in entry.published:
        others = entry.published[metric]
        published = f"{percent(others)} ({difference(value, others)})"
    return Figure(metric, text, bounds(known, interval), method, published)


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


def page_data(content: Content, tables: Sequence[ClassTable]) -> dict[str, Any]:
    """Return what the page's scripts draw from, as JSON.

    `models` and `metrics` are lists; `pairs`, `classes` and `first` (the two models that are
    compared until others are chosen) hold indices into them. A pair has `a`, `b`, `tests` and `why`
    (one line for each data set that was not compared). A test is [metric, A, B, A - B, low, high,
    p, p by Holm, better model, only A right, only B right], shares in percent. A table of
    `classes` has a list of values per model, null where there is none.
    """
    models = {name: index for index, name in enumerate(content.models)}
    tests = {_key(test): test for pair in content.pairs for test in pair.tests}
    metrics = {key: index for index, key in enumerate(tests)}
    return {
        "models": content.models,
        "first": _most_often_better(content, models),
        "metrics": [
            {
                "protocol": test.protocol,
                "dataset": test.dataset,
                "title": test.record.label or test.metric,
                "share": test.record.unit == "fraction",
            }
            for test in tests.values()
        ],
        "pairs": [
            {
                **{side: models[name] for side, name in zip("ab", pair.models, strict=True)},
                "tests": [[metrics[_key(test)], *_test(test)] for test in pair.tests],
                "why": list(pair.obstacles),
            }
            for pair in content.pairs
        ],
        "classes": [_table(table, models) for table in tables],
    }


def _most_often_better(content: Content, models: Mapping[str, int]) -> list[int]:
    """Return the indices of the two models that won most tests, of equal ones the first by name."""

    def won(name: str) -> int:
        return sum(pair.wins(name) for pair in content.pairs if name in pair.models)

    return [models[name] for name in sorted(models, key=won, reverse=True)[:2]]


def _key(test: MetricTest) -> tuple[str, str, str]:
    return test.protocol, test.dataset, test.metric


def _test(test: MetricTest) -> list[Any]:
    found = test.difference
    interval = found.interval()
    numbers = (found.a, found.b, found.difference, interval.low, interval.high)
    rounded = [round(test.record.factor * number, 3) for number in numbers]
    adjusted = "" if test.adjusted is None else p_value_text(test.adjusted)
    changed = found.changed or (None, None)
    return [*rounded, p_value_text(found.p_value), adjusted, test.better, *changed]


def _table(table: ClassTable, models: Mapping[str, int]) -> dict[str, Any]:
    return {
        "protocol": table.protocol,
        "dataset": table.dataset,
        "figure": table.figure,
        "names": [row.name for row in table.rows],
        "models": [models[name] for name in table.models],
        "values": [list(one) for one in zip(*(row.values for row in table.rows), strict=True)],
    }
