"""The tables of a page (leaderboards, classes, provenance), and the data of its scripts."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

from cosmos_eval.report.content import Content, by_data_set
from cosmos_eval.report.overview import Overview
from cosmos_eval.results.compare import MetricTest
from cosmos_eval.results.identity import is_partial
from cosmos_eval.results.labels import Stored
from cosmos_eval.results.leaderboard.board import Board
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.text import bounds, difference, p_value_text, percent, shown
from cosmos_eval.tasks import metric_of, usable_task

_MARGIN = 0.06  # of a scale, left and right of its ends
_key = attrgetter("protocol", "dataset", "metric")
_FIRST_FIGURE = "IoU"  # has its table before those of other figures per class


class Bar(NamedTuple):
    """A value and its interval, in percent of the column's scale, and as `exact` numbers in text,
    shares in percent."""

    value: float
    low: float
    high: float
    exact: tuple[str, ...]


def bars_of(board: Board) -> list[tuple[Bar | None, ...]]:
    """Return the bars of a board's cells by row, None where there is no number."""
    return list(zip(*(_bars(board, index) for index in range(len(board.columns))), strict=True))


def _bars(board: Board, index: int) -> Iterator[Bar | None]:
    metric = board.columns[index].metric
    entries = [row.entries[index] for row in board.rows]
    factor = next(metric_of(e.task, metric).factor for e in entries if e and metric in e.metrics)
    return on_scale([_ends(entry, metric) if entry else () for entry in entries], factor)


def on_scale(ends: Sequence[tuple[float, ...]], factor: float) -> Iterator[Bar | None]:
    """Yield the bars of values with both ends of their intervals, None for an empty tuple. The
    scale goes from the lowest to the highest end, with a margin."""
    low, high = min(chain(*ends)), max(chain(*ends))
    margin = _MARGIN * (high - low) or 0.01
    start, length = low - margin, high - low + 2 * margin
    for of_row in ends:
        if of_row:
            exact = (f"{factor * number:.4f}".rstrip("0").rstrip(".") for number in of_row)
            value, lower, upper = (round(100 * (end - start) / length, 2) for end in of_row)
            yield Bar(value, lower, upper, tuple(exact))
        else:
            yield None


def overview_bars(overview: Overview) -> list[Bar | None]:
    """Return the bars of the means of an overview."""
    means = [row.mean for row in overview.rows]
    ends = [(m.value, m.interval.low, m.interval.high) for m in means if m and m.interval]
    return list(on_scale(ends, overview.score.metric.factor))


def _ends(entry: Entry, metric: str) -> tuple[float, ...]:
    """Return a value and its interval, which is the value itself where there is none."""
    if metric not in entry.metrics:
        return ()
    value, interval = entry.metrics[metric], entry.intervals.get(metric)
    return (value, interval["low"], interval["high"]) if interval else (value, value, value)


class ClassTable(NamedTuple):
    """A figure of every class (`IoU`, `Acc`, `recall`...), and the name of its counts. A row has
    the class, its number of samples if recorded, and a value per model, shares in percent."""

    protocol: str
    dataset: str
    figure: str
    counted: str
    models: tuple[str, ...]
    rows: tuple[tuple[str, int | None, tuple[float | None, ...]], ...]


def class_tables(results: Sequence[Stored]) -> list[ClassTable]:
    """Return tables by protocol, data set and figure; classes in the order of the results. Lengths
    of captions, which are no classes, have their own."""
    classified = []
    for result in results:
        task = usable_task(result.row.task)
        if result.row.per_class and not (task and task.groups_by_length):
            classified.append(result)
    return [table for group in by_data_set(classified) for table in _class_tables(*group)]


def _class_tables(protocol: str, dataset: str, results: Sequence[Stored]) -> Iterator[ClassTable]:
    per_class = [one.row.per_class for one in results]

    def values_of(name: str, figure: str) -> list[float | None]:
        return [classes.get(name, {}).get(figure) for classes in per_class]

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
        rows = []
        for name in dict.fromkeys(chain.from_iterable(per_class)):
            count = next((int(n) for n in values_of(name, counted) if n is not None), None)
            values = (v if v is None else round(factor * v, 2) for v in values_of(name, figure))
            rows.append((name, count, tuple(values)))
        yield ClassTable(protocol, dataset, figure, counted, models, tuple(rows))


def figures_of(entry: Entry) -> Iterator[tuple[str, ...]]:
    """Yield the metrics of an entry, those of leaderboards first: name, value, interval, the method
    of the interval, and what was published, as text."""
    for name in dict.fromkeys([*headlines_of(entry), *sorted(entry.metrics)]):
        if name in entry.metrics:
            metric = metric_of(entry.task, name)
            value, interval = entry.metrics[name], entry.intervals.get(name)
            text = f"{shown(metric, value)}{' %' if metric.unit == 'fraction' else ''}"
            method = f"{interval['method']}, {100 * interval['level']:g}%" if interval else ""
            other = entry.published.get(name)
            published = "" if other is None else f"{percent(other)} ({difference(value, other)})"
            yield name, text, bounds(metric, interval), method, published


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
    compared until others are chosen) hold indices into them. A pair has `a`, `b`, `tests`, `why`
    (one line for each data set that was not compared) and `mean` (A - B, low, high of the means of
    the overview, or null). A test is [metric, A, B, A - B, low, high,
    p, p by Holm, better model, only A right, only B right], shares in percent. A table of
    `classes` has a list of values per model, null where there is none.
    """
    models = {name: index for index, name in enumerate(content.models)}
    tests = {_key(test): test for pair in content.pairs for test in pair.tests}
    metrics = {key: index for index, key in enumerate(tests)}
    # Of models that won as many tests the first by name.
    wins = {name: sum(p.wins(name) for p in content.pairs if name in p.models) for name in models}
    order = sorted(models, key=wins.__getitem__, reverse=True)
    best = [row.model for row in content.overview.rows] if content.overview else []
    # Tables may call a model more than its name where models are compared.
    order = [*dict.fromkeys([*(name for name in best if name in models), *order])]
    return {
        "models": content.models,
        "first": [models[name] for name in order[:2]],
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
                "mean": content.overview and content.overview.difference(*pair.models),
            }
            for pair in content.pairs
        ],
        "classes": [_table(table, models) for table in tables],
        "curves": [{**curve._asdict(), "model": models[curve.model]} for curve in content.curves],
    }


def _table(table: ClassTable, models: Mapping[str, int]) -> dict[str, Any]:
    return {
        **{name: getattr(table, name) for name in ("protocol", "dataset", "figure")},
        "names": [name for name, *_ in table.rows],
        "models": [models[name] for name in table.models],
        "values": list(zip(*(values for *_, values in table.rows), strict=True)),
    }


def _test(test: MetricTest) -> list[Any]:
    found = test.difference
    interval = found.interval()
    numbers = (found.a, found.b, found.difference, interval.low, interval.high)
    rounded = [round(test.record.factor * number, 3) for number in numbers]
    adjusted = "" if test.adjusted is None else p_value_text(test.adjusted)
    changed = getattr(found, "changed", None) or (None, None)
    return [*rounded, p_value_text(found.p_value), adjusted, test.better, *changed]
