"""The tables of a page (leaderboards, classes, provenance), and the data of its scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

from cosmos_eval.report.content import Content, by_data_set
from cosmos_eval.results.compare import MetricTest
from cosmos_eval.results.labels import Stored, is_partial
from cosmos_eval.results.leaderboard.board import Board, Shown
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.text import bounds, difference, p_value_text, percent, shown
from cosmos_eval.tasks import known_tasks, metric_of

_MARGIN = 0.06  # of a scale, left and right of its ends
_key = attrgetter("protocol", "dataset", "metric")
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
    known = [*known_tasks(), "other"]
    tasks = tuple(known[min(column.task, len(known) - 1)] for column in board.columns)
    columns = [_cells(board, index, task) for index, task in enumerate(tasks)]
    return BoardView(board, tasks, tuple(zip(*columns, strict=True)))


def _cells(board: Board, index: int, task: str) -> list[Cell | None]:
    """Return a column; its scale goes from its lowest to its highest end, with a margin."""
    metric = board.columns[index].metric
    factor = metric_of(task, metric).factor
    ends = [_ends(row.entries[index], metric) for row in board.rows]
    known = [end for of_row in ends for end in of_row or ()]
    margin = _MARGIN * (max(known) - min(known)) or 0.01
    start, length = min(known) - margin, max(known) - min(known) + 2 * margin

    def cell(shown: Shown, of_row: Sequence[float]) -> Cell:
        value, low, high = (round(100 * (end - start) / length, 2) for end in of_row)
        exact = (f"{factor * number:.4f}".rstrip("0").rstrip(".") for number in of_row)
        return Cell(shown, Bar(low, high, value), *exact)

    rows = zip(board.rows, ends, strict=True)
    return [of_row and cell(row.cells[index], of_row) for row, of_row in rows]


def _ends(entry: Entry | None, metric: str) -> tuple[float, float, float] | None:
    """Return a value and its interval, which is the value itself where there is none."""
    if entry is None or metric not in entry.metrics:
        return None
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
    per_class = [one.row.per_class for one in results]
    figures: dict[str, set[type]] = {}
    for of_class in chain.from_iterable(classes.values() for classes in per_class):
        for name, value in of_class.items():
            figures.setdefault(name, set()).add(type(value))
    # Results store shares as floats.
    counts = [name for name, types in figures.items() if int in types and float not in types]
    counted = counts[0] if counts else ""
    models = tuple(one.model for one in results)
    for figure in sorted(figures.keys() - counts, key=[_FIRST_FIGURE, *figures].index):
        factor = metric_of(results[0].row.task, figure).factor
        rows = (
            _class_row(
                name, [classes.get(name, {}) for classes in per_class], figure, counted, factor
            )
            for name in dict.fromkeys(chain.from_iterable(per_class))
        )
        yield ClassTable(protocol, dataset, figure, counted, models, tuple(rows))


def _class_row(
    name: str,
    of_class: Sequence[Mapping[str, float | None]],
    figure: str,
    counted: str,
    factor: int,
) -> ClassRow:
    count = next((n for some in of_class if (n := some.get(counted)) is not None), None)
    values = (some.get(figure) for some in of_class)
    rounded = tuple(None if value is None else round(factor * value, 2) for value in values)
    return ClassRow(name, None if count is None else int(count), rounded)


class Figure(NamedTuple):
    """A metric as text, with its interval, the method of the interval, and published numbers."""

    metric: str
    value: str
    interval: str
    method: str
    published: str


def figures_of(entry: Entry) -> Iterator[Figure]:
    """Yield the metrics of an entry, those of leaderboards first."""
    for name in dict.fromkeys([*headlines_of(entry), *sorted(entry.metrics)]):
        if name in entry.metrics:
            metric = metric_of(entry.task, name)
            value, interval = entry.metrics[name], entry.intervals.get(name)
            text = f"{shown(metric, value)}{' %' if metric.unit == 'fraction' else ''}"
            method = f"{interval['method']}, {100 * interval['level']:g}%" if interval else ""
            other = entry.published.get(name)
            published = "" if other is None else f"{percent(other)} ({difference(value, other)})"
            yield Figure(name, text, bounds(metric, interval), method, published)


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
    # Of models that won as many tests the first by name.
    wins = {name: sum(p.wins(name) for p in content.pairs if name in p.models) for name in models}
    return {
        "models": content.models,
        "first": [models[name] for name in sorted(models, key=wins.__getitem__, reverse=True)[:2]],
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


def _table(table: ClassTable, models: Mapping[str, int]) -> dict[str, Any]:
    return {
        **{name: getattr(table, name) for name in ("protocol", "dataset", "figure")},
        "names": [row.name for row in table.rows],
        "models": [models[name] for name in table.models],
        "values": [list(one) for one in zip(*(row.values for row in table.rows), strict=True)],
    }


def _test(test: MetricTest) -> list[Any]:
    found = test.difference
    interval = found.interval()
    numbers = (found.a, found.b, found.difference, interval.low, interval.high)
    rounded = [round(test.record.factor * number, 3) for number in numbers]
    adjusted = "" if test.adjusted is None else p_value_text(test.adjusted)
    changed = found.changed or (None, None)
    return [*rounded, p_value_text(found.p_value), adjusted, test.better, *changed]
