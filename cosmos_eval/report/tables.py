"""Fill the tables of a page (leaderboards, classes, provenance) and the data of its scripts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cosmos_eval.report.content import Content, ModelPair, group_by_data_set
from cosmos_eval.report.overview import Overview
from cosmos_eval.report.training import Curve
from cosmos_eval.results.compare import MetricTest
from cosmos_eval.results.identity import is_partial
from cosmos_eval.results.labels import StoredResult
from cosmos_eval.results.leaderboard.board import Board
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.text import (
    difference_text,
    interval_text,
    p_value_text,
    percent,
    round_metric,
)
from cosmos_eval.tasks import metric_of, usable_task

_MARGIN = 0.06  # left and right of the numbers, relative to the distance between their ends
_FIRST_FIGURE = "IoU"  # its table comes before the tables of other figures

ValueWithEnds = tuple[float, float, float]
"""A value and the lower and the upper end of its interval."""


class Bar(NamedTuple):
    """A value and its interval, in percent of the length of the column's scale."""

    value: float
    low: float
    high: float
    # The same three numbers as text; fractions in percent.
    exact: tuple[str, ...]


def bars_of(board: Board) -> list[tuple[Bar | None, ...]]:
    """Return the bars of a leaderboard's cells by row; None for a cell without a number."""
    columns = [_column_bars(board, index) for index in range(len(board.columns))]
    return list(zip(*columns, strict=True))


def _column_bars(board: Board, column: int) -> list[Bar | None]:
    """Return the bars of a column by row, on a common scale."""
    metric = board.columns[column].metric
    values: list[ValueWithEnds | None] = []
    tasks = []
    for row in board.rows:
        entry = row.entries[column]
        if entry is None or metric not in entry.metrics:
            values.append(None)
        else:
            values.append(_value_with_ends(entry, metric))
            tasks.append(entry.task)
    # All entries of a column are of the same task.
    return bars_on_scale(values, metric_of(tasks[0], metric).factor)


def _value_with_ends(entry: Entry, metric: str) -> ValueWithEnds:
    """Return a metric and its interval; without an interval both ends are the value itself."""
    value, interval = entry.metrics[metric], entry.intervals.get(metric)
    if not interval:
        return value, value, value
    return value, interval["low"], interval["high"]


def bars_on_scale(values: Sequence[ValueWithEnds | None], factor: float) -> list[Bar | None]:
    """Return the bars of values on a common scale; None for None.

    The scale goes from the lowest to the highest number, with a margin at both ends. `factor`
    turns the numbers into those that are shown: 100 for fractions.
    """
    numbers = [number for value in values if value is not None for number in value]
    low, high = min(numbers), max(numbers)
    margin = _MARGIN * (high - low) or 0.01
    start, length = low - margin, high - low + 2 * margin
    bars: list[Bar | None] = []
    for value in values:
        if value is None:
            bars.append(None)
            continue
        places = [round(100 * (number - start) / length, 2) for number in value]
        exact = tuple(f"{factor * number:.4f}".rstrip("0").rstrip(".") for number in value)
        bars.append(Bar(value=places[0], low=places[1], high=places[2], exact=exact))
    return bars


def overview_bars(overview: Overview) -> list[Bar | None]:
    """Return the bars of the means of an overview."""
    values: list[ValueWithEnds | None] = []
    for row in overview.rows:
        if row.mean is not None and row.mean.interval is not None:
            values.append((row.mean.value, row.mean.interval.low, row.mean.interval.high))
    return bars_on_scale(values, overview.score.metric.factor)


class ClassRow(NamedTuple):
    """A class, its number of samples if recorded, and a value per model, fractions in percent."""

    name: str
    n_samples: int | None
    values: tuple[float | None, ...]


class ClassTable(NamedTuple):
    """A figure of every class on a data set (`IoU`, `Acc`, `recall`...) by model."""

    protocol: str
    dataset: str
    figure: str
    # The unit of `n_samples` (`images`...); empty if samples are not counted.
    counted: str
    models: tuple[str, ...]
    rows: tuple[ClassRow, ...]


def class_tables(results: Sequence[StoredResult]) -> list[ClassTable]:
    """Return a table for each protocol, data set and figure, with classes as results order them.

    Bins of caption lengths are stored like classes, but have their own table.
    """
    results_with_classes = []
    for result in results:
        task = usable_task(result.row.task)
        has_lengths = task is not None and task.groups_by_length
        if result.row.per_class and not has_lengths:
            results_with_classes.append(result)
    tables: list[ClassTable] = []
    for set_results in group_by_data_set(results_with_classes):
        tables += _class_tables_of_set(set_results)
    return tables


def _class_tables_of_set(results: Sequence[StoredResult]) -> Iterator[ClassTable]:
    """Yield a table for each figure of the classes of one data set, IoU first."""
    classes = dict.fromkeys(name for result in results for name in result.row.per_class)
    figures, counts = _figures_and_counts(results)
    counted = counts[0] if counts else ""
    first = results[0].row
    for figure in figures:
        factor = metric_of(first.task, figure).factor
        rows = []
        for name in classes:
            values = []
            for value in _class_values(results, name, figure):
                values.append(None if value is None else round(factor * value, 2))
            n_samples = None
            if counted:
                n_samples = _first_count(_class_values(results, name, counted))
            rows.append(ClassRow(name, n_samples, tuple(values)))
        yield ClassTable(
            protocol=first.protocol,
            dataset=results[0].dataset,
            figure=figure,
            counted=counted,
            models=tuple(result.model for result in results),
            rows=tuple(rows),
        )


def _figures_and_counts(results: Sequence[StoredResult]) -> tuple[list[str], list[str]]:
    """Return the names of the figures of classes, IoU first, and the names of their counts.

    Counts are stored as integers only; figures are floats, or None if a class has none.
    """
    value_types: dict[str, set[type]] = {}
    for result in results:
        for class_values in result.row.per_class.values():
            for name, value in class_values.items():
                value_types.setdefault(name, set()).add(type(value))
    counts = [name for name, types in value_types.items() if int in types and float not in types]
    figures = [name for name in value_types if name not in counts]
    if _FIRST_FIGURE in figures:
        figures.remove(_FIRST_FIGURE)
        figures.insert(0, _FIRST_FIGURE)
    return figures, counts


def _class_values(results: Iterable[StoredResult], name: str, figure: str) -> list[float | None]:
    """Return a figure of a class by result; None if a result lacks it."""
    return [result.row.per_class.get(name, {}).get(figure) for result in results]


def _first_count(values: Iterable[float | None]) -> int | None:
    """Return the first value that is not None as a count; None without any."""
    for value in values:
        if value is not None:
            return int(value)
    return None


class MetricFacts(NamedTuple):
    """A metric of an entry as text."""

    metric: str
    value: str
    interval: str
    # The method of the interval and its level.
    method: str
    # What the model's authors published, and the difference from it.
    published: str


def figures_of(entry: Entry) -> Iterator[MetricFacts]:
    """Yield the metrics of an entry as text; those that leaderboards show come first."""
    for name in dict.fromkeys([*headlines_of(entry), *sorted(entry.metrics)]):
        if name not in entry.metrics:
            continue
        metric = metric_of(entry.task, name)
        value, interval = entry.metrics[name], entry.intervals.get(name)
        value_text = str(round_metric(metric, value))
        if metric.unit == "fraction":
            value_text += " %"
        method = ""
        if interval:
            method = f"{interval['method']}, {100 * interval['level']:g}%"
        published = ""
        published_value = entry.published.get(name)
        if published_value is not None:
            published = f"{percent(published_value)} ({difference_text(value, published_value)})"
        yield MetricFacts(name, value_text, interval_text(metric, interval), method, published)


def summary_of(results: Sequence[StoredResult]) -> dict[str, str]:
    """Return what was measured, when, where and by which code, as text by title.

    Everything follows from the results, so that equal results give an equal page.
    """
    facts = {
        "Results": str(len(results)),
        "Models": str(len({result.model for result in results})),
        "Data sets": str(len({result.row.dataset for result in results})),
        "Protocols": _distinct_text(result.row.protocol for result in results),
    }
    facts.update(_provenance_facts([result.row.provenance for result in results]))
    facts.update(_unusual_counts(results))
    return {title: text for title, text in facts.items() if text not in ("", "0")}


def _provenance_facts(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return when, where and by which code results were measured."""
    return {
        "Measured (UTC)": _period([record["utc"] for record in records]),
        "By cosmos-eval": _distinct_text(record["version"] for record in records),
        "Commits": _distinct_text(str(record["commit"] or "unknown")[:12] for record in records),
        "On": _distinct_text(record["device"] for record in records),
        "Precision": _distinct_text(record["precision"] for record in records),
    }


def _unusual_counts(results: Sequence[StoredResult]) -> dict[str, str]:
    """Return the numbers of results with edited code, random weights or a part of the samples."""
    n_edited = sum(bool(result.row.provenance["dirty"]) for result in results)
    n_random = sum(bool(result.row.model["random"]) for result in results)
    n_partial = sum(is_partial(result.row) for result in results)
    return {
        "Of edited code": _n_results(n_edited),
        "Of random weights": _n_results(n_random),
        "Of a part of the samples only": _n_results(n_partial),
    }


def _period(times: Sequence[str]) -> str:
    """Return the first and the last of times in ISO 8601, to the minute."""
    minutes = sorted(time[:16].replace("T", " ") for time in times)
    if not minutes:
        return ""
    first, last = minutes[0], minutes[-1]
    return first if first == last else f"{first} to {last}"


def _distinct_text(values: Iterable[str]) -> str:
    """Return the distinct values in alphabetical order, separated by commas."""
    return ", ".join(sorted(set(values)))


def _n_results(count: int) -> str:
    """Return a count as text, such as `3 results`; empty for 0."""
    return f"{count} results" if count else ""


def page_data(content: Content, tables: Sequence[ClassTable]) -> dict[str, Any]:
    """Return what the page's scripts draw from, as JSON.

    - `models`: the names of the models. Everywhere else a model is its index into this list.
    - `first`: the two models that are compared until the reader chooses others.
    - `metrics`: the metrics that were tested; tests hold indices into this list.
    - `pairs`: every two models with their tests, see `_pair_record`.
    - `classes`: the tables of classes, see `_class_record`.
    - `curves`: the curves of trainings, see `_curve_record`.
    """
    model_numbers = {name: number for number, name in enumerate(content.models)}
    tested_metrics = {_metric_key(test): test for pair in content.pairs for test in pair.tests}
    metric_numbers = {key: number for number, key in enumerate(tested_metrics)}
    first_models = _best_models(content)[:2]
    return {
        "models": content.models,
        "first": [model_numbers[name] for name in first_models],
        "metrics": [_metric_record(test) for test in tested_metrics.values()],
        "pairs": [
            _pair_record(pair, model_numbers, metric_numbers, content.overview)
            for pair in content.pairs
        ],
        "classes": [_class_record(table, model_numbers) for table in tables],
        "curves": [_curve_record(curve, model_numbers) for curve in content.curves],
    }


def _best_models(content: Content) -> list[str]:
    """Return the models measured here, the best first.

    Models of the overview are ordered by their rank. The others follow by the number of tests that
    they won, then by name.
    """
    models = content.models
    wins = dict.fromkeys(models, 0)
    for pair in content.pairs:
        for name in pair.models:
            wins[name] += pair.wins(name)
    by_wins = sorted(models, key=lambda name: -wins[name])
    ranked = [row.model for row in content.overview.rows] if content.overview else []
    # The overview's label of a model may be longer than the label by which models are compared.
    ranked = [name for name in ranked if name in wins]
    return list(dict.fromkeys([*ranked, *by_wins]))


_MetricKey = tuple[str, str, str]


def _metric_key(test: MetricTest) -> _MetricKey:
    """Return the protocol, the data set and the name of the metric of a test."""
    return test.protocol, test.dataset, test.metric


def _metric_record(test: MetricTest) -> dict[str, Any]:
    """Return a metric for JSON; `share` tells whether its values are percentages."""
    return {
        "protocol": test.protocol,
        "dataset": test.dataset,
        "title": test.metric_record.label or test.metric,
        "share": test.metric_record.unit == "fraction",
    }


def _pair_record(
    pair: ModelPair,
    model_numbers: Mapping[str, int],
    metric_numbers: Mapping[_MetricKey, int],
    overview: Overview | None,
) -> dict[str, Any]:
    """Return the comparison of two models for JSON.

    - `a`, `b`: the models.
    - `tests`: the tests on all data sets, see `_test_record`.
    - `obstacles`: one line for each data set on which the models are not compared.
    - `mean`: the `difference` of their means in the overview and the ends of its interval, `low`
      and `high`; null if one of them has no mean.
    """
    a, b = pair.models
    mean = None
    if overview is not None:
        mean_difference = overview.difference(a, b)
        if mean_difference is not None:
            mean = mean_difference._asdict()
    return {
        "a": model_numbers[a],
        "b": model_numbers[b],
        "tests": [_test_record(test, metric_numbers[_metric_key(test)]) for test in pair.tests],
        "obstacles": list(pair.obstacles),
        "mean": mean,
    }


def _test_record(test: MetricTest, metric_number: int) -> dict[str, Any]:
    """Return the test of a metric for JSON; values are rounded, fractions in percent.

    - `metric`: the metric.
    - `a`, `b`: its values of both models.
    - `difference`, `low`, `high`: A minus B, and the ends of its interval.
    - `p`, `holm`: the p-value, and Holm's p-value (empty for a metric that is not a main one).
    - `better`: the better model, `A` or `B`; empty if neither is better.
    - `onlyA`, `onlyB`: the numbers of samples on which only one model is right; null if samples
      are not right or wrong.
    """
    paired = test.difference
    interval = paired.interval()
    factor = test.metric_record.factor
    only_a, only_b = getattr(paired, "changed", None) or (None, None)
    return {
        "metric": metric_number,
        "a": round(factor * paired.a, 3),
        "b": round(factor * paired.b, 3),
        "difference": round(factor * paired.difference, 3),
        "low": round(factor * interval.low, 3),
        "high": round(factor * interval.high, 3),
        "p": p_value_text(paired.p_value),
        "holm": "" if test.adjusted is None else p_value_text(test.adjusted),
        "better": test.better,
        "onlyA": only_a,
        "onlyB": only_b,
    }


def _class_record(table: ClassTable, model_numbers: Mapping[str, int]) -> dict[str, Any]:
    """Return a table of classes for JSON.

    - `protocol`, `dataset`, `figure`: what the table is about.
    - `names`: the names of the classes.
    - `columns`: the `values` of the classes by `model`; null for a class without a value.
    """
    columns = []
    for index, model in enumerate(table.models):
        values = [row.values[index] for row in table.rows]
        columns.append({"model": model_numbers[model], "values": values})
    return {
        "protocol": table.protocol,
        "dataset": table.dataset,
        "figure": table.figure,
        "names": [row.name for row in table.rows],
        "columns": columns,
    }


def _curve_record(curve: Curve, model_numbers: Mapping[str, int]) -> dict[str, Any]:
    """Return the curve of a training for JSON, with the number of its model."""
    record = curve._asdict()
    record["model"] = model_numbers[curve.model]
    return record
