"""Figures a class, models side by side: one table a data set and figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cosmos_eval.results.labels import Stored
from cosmos_eval.results.record import ResultRow
from cosmos_eval.tasks import metric_of

# Before the others of a table.
_FIRST = "IoU"


class ClassRow(NamedTuple):
    """A class, how much there is of it (None: not told), and a number a model.

    Shares are in percent.
    """

    name: str
    counted: int | None
    values: tuple[float | None, ...]


class ClassTable(NamedTuple):
    """A figure of every class: `IoU`, `Acc`, `recall`..., and what its counts are called."""

    protocol: str
    dataset: str
    figure: str
    counted: str
    models: tuple[str, ...]
    rows: tuple[ClassRow, ...]


def class_tables(results: Sequence[Stored]) -> list[ClassTable]:
    """All tables, by protocol, data set and figure; classes in the order of the results."""
    groups: dict[tuple[str, str], list[Stored]] = {}
    for one in results:
        if one.row.per_class:
            groups.setdefault((one.row.protocol, one.row.dataset), []).append(one)
    return [
        table
        for key in sorted(groups)
        for table in _tables(*key, sorted(groups[key], key=lambda one: one.model))
    ]


def _tables(protocol: str, dataset: str, results: Sequence[Stored]) -> list[ClassTable]:
    rows = [one.row for one in results]
    classes = list(dict.fromkeys(name for row in rows for name in row.per_class))
    figures = list(
        dict.fromkeys(n for row in rows for some in row.per_class.values() for n in some)
    )
    counts = [name for name in figures if _is_count(rows, name)]
    counted = counts[0] if counts else ""
    models = tuple(one.model for one in results)
    return [
        ClassTable(
            protocol,
            dataset,
            figure,
            counted,
            models,
            tuple(_row(name, rows, figure, counted) for name in classes),
        )
        for figure in sorted(figures, key=lambda figure: figure != _FIRST)
        if figure not in counts
    ]


def _is_count(rows: Sequence[ResultRow], figure: str) -> bool:
    """Whether a figure is a number of something: results store shares as floats."""
    values = [some[figure] for row in rows for some in row.per_class.values() if figure in some]
    return any(isinstance(v, int) for v in values) and not any(isinstance(v, float) for v in values)


def _row(name: str, rows: Sequence[ResultRow], figure: str, counted: str) -> ClassRow:
    of_class = [row.per_class.get(name, {}) for row in rows]
    counts = [some[counted] for some in of_class if some.get(counted) is not None]
    factor = metric_of(rows[0].task, figure).factor
    values = (some.get(figure) for some in of_class)
    return ClassRow(
        name,
        int(counts[0] or 0) if counts else None,
        tuple(None if value is None else round(factor * value, 2) for value in values),
    )
