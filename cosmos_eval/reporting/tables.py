"""Fill the tables of a page (leaderboards, classes, provenance) and the data of its scripts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from cosmos_eval.reporting.content import Content, ModelPair, group_by_data_set
from cosmos_eval.reporting.overview import Overview
from cosmos_eval.results.compare import MetricTest
from cosmos_eval.results.identity import is_partial
from cosmos_eval.results.labels import StoredResult, count_models
from cosmos_eval.results.leaderboard.board import Board
from cosmos_eval.results.leaderboard.entries import Entry, headlines_of
from cosmos_eval.results.text import (
    difference_text,
    exact_difference,
    interval_text,
    p_value_text,
    percent,
    round_metric,
    rounded,
)
from cosmos_eval.tasks import metric_of, usable_task

_MARGIN = 0.06  # left and right of the numbers, relative to the distance between their ends
_FIRST_METRIC = "IoU"  # its table comes before the tables of other metrics of classes

ValueWithEnds = tuple[float, float, float]
"""A value, and the lower and the upper end of its interval."""


class Bar(NamedTuple):
    """A value and its interval, in percent of the length of the column's scale."""

    value: float
    low: float
    high: float
    # The same three numbers as text, such as ("71.2", "70.8", "71.6"). Fractions are in percent.
    exact: tuple[str, ...]


def bars_of(board: Board) -> list[tuple[Bar | None, ...]]:
    """Return the bars of a leaderboard's cells: one tuple for each row, with one bar per column.

    A bar shows a number and its interval. The bars of a column have the same scale. A cell without
    a number has None instead of a bar.
    """
    bars_of_columns = []
    for column_index, column in enumerate(board.columns):
        metric = column.metric
        # For each row: the value of the metric, and the ends of its interval.
        values: list[ValueWithEnds | None] = []
        task = ""
        for row in board.rows:
            entry = row.entries[column_index]
            if entry is None or metric not in entry.metrics:
                values.append(None)
                continue
            task = entry.task  # all entries of a column are of the same task
            value = entry.metrics[metric]
            interval = entry.intervals.get(metric)
            if interval:
                values.append((value, interval["low"], interval["high"]))
            else:
                values.append((value, value, value))
        bars_of_columns.append(bars_on_scale(values, metric_of(task, metric).factor))
    # From one list for each column to one tuple for each row.
    return list(zip(*bars_of_columns, strict=True))


def bars_on_scale(values: Sequence[ValueWithEnds | None], factor: int) -> list[Bar | None]:
    """Return the bars of values on a common scale, and None for a value that is None.

    The scale goes from the lowest to the highest number, with a margin at both ends.

    Args:
        values: Each value with the lower and the upper end of its interval, or None.
        factor: The factor that turns the numbers into those that are shown: 100 for fractions.

    Example:
        On a scale from 0.5 to 0.9, the value (0.7, 0.6, 0.8) has the bar value=50, low=25, high=75,
        in percent of the scale. With a factor of 100, `exact` is ("70", "60", "80").
    """
    numbers = [number for value in values if value is not None for number in value]
    lowest = min(numbers)
    highest = max(numbers)
    margin = _MARGIN * (highest - lowest) or 0.01  # also if all numbers are equal
    start = lowest - margin
    length = highest - lowest + 2 * margin
    bars: list[Bar | None] = []
    for value in values:
        if value is None:
            bars.append(None)
            continue
        places = [round(100 * (number - start) / length, 2) for number in value]
        # Four decimals without zeros at the end: 71.2000 -> "71.2".
        exact = tuple(f"{rounded(number, 4, factor)}".rstrip("0").rstrip(".") for number in value)
        bars.append(Bar(value=places[0], low=places[1], high=places[2], exact=exact))
    return bars


def overview_bars(overview: Overview) -> list[Bar | None]:
    """Return the bars of the models' means in an overview, the ranking of the models.

    All bars have the same scale. Models without an interval are left out.
    """
    values: list[ValueWithEnds | None] = []
    for row in overview.rows:
        if row.mean is not None and row.mean.interval is not None:
            values.append((row.mean.value, row.mean.interval.low, row.mean.interval.high))
    return bars_on_scale(values, overview.score.metric.factor)


class ClassRow(NamedTuple):
    """A class with a metric's value for each model."""

    name: str
    # The number of samples of the class. None if results do not record it.
    n_samples: int | None
    # One value for each model, fractions in percent. None if a model has no value.
    values: tuple[float | None, ...]


class ClassTable(NamedTuple):
    """A metric of every class on a data set, such as IoU, by model."""

    protocol: str
    dataset: str
    # The name of the metric, such as `IoU`, `Acc` or `recall`.
    figure: str
    # The unit of `n_samples`, such as `images`. Empty if samples are not counted.
    counted: str
    models: tuple[str, ...]
    rows: tuple[ClassRow, ...]


def class_tables(results: Sequence[StoredResult]) -> list[ClassTable]:
    """Return the tables of classes: one for each protocol, data set and metric of classes.

    A metric of classes is, for example, the IoU of each class. Classes are in the order of the
    results. Bins of caption lengths are stored like classes, but have tables of their own.
    """
    results_with_classes = []
    for result in results:
        task = usable_task(result.row.task)
        has_lengths = task is not None and task.groups_by_length
        if result.row.per_class and not has_lengths:
            results_with_classes.append(result)
    tables: list[ClassTable] = []
    for results_of_set in group_by_data_set(results_with_classes):
        tables += _class_tables_of_set(results_of_set)
    return tables


def _class_tables_of_set(results: Sequence[StoredResult]) -> Iterator[ClassTable]:
    """Yield a table for each metric of the classes of one data set, IoU first.

    `results` are the results of all models on this data set, by the same protocol. A result stores
    the values of each class, such as {"cat": {"IoU": 0.6, "images": 5}}.
    """
    # The names of all classes, each once, in the order of the results.
    class_names = dict.fromkeys(name for result in results for name in result.row.per_class)
    metrics, counts = _split_metrics_and_counts(results)
    count_name = counts[0] if counts else ""
    first_row = results[0].row
    for metric in metrics:
        factor = metric_of(first_row.task, metric).factor
        rows = []
        for class_name in class_names:
            values: list[float | None] = []
            n_samples: int | None = None
            for result in results:
                values_of_class = result.row.per_class.get(class_name, {})
                value = values_of_class.get(metric)
                values.append(None if value is None else page_number(value, factor))
                # Take the first result that records the number of samples.
                count = values_of_class.get(count_name)
                if n_samples is None and count is not None:
                    n_samples = int(count)
            rows.append(ClassRow(class_name, n_samples, tuple(values)))
        yield ClassTable(
            protocol=first_row.protocol,
            dataset=results[0].dataset,
            figure=metric,
            counted=count_name,
            models=tuple(result.model for result in results),
            rows=tuple(rows),
        )


def _split_metrics_and_counts(results: Sequence[StoredResult]) -> tuple[list[str], list[str]]:
    """Return the names of the metrics of classes, IoU first, and the names of counts.

    Counts are stored as integers only. Metrics are floats, or None if a class has no value.

    Example:
        A result that stores {"cat": {"Acc": 0.8, "IoU": 0.6, "images": 5}} gives
        (["IoU", "Acc"], ["images"]).
    """
    # The types of all values with the same name, in all results and classes.
    types_by_name: dict[str, set[type]] = {}
    for result in results:
        for values_of_class in result.row.per_class.values():
            for name, value in values_of_class.items():
                types_by_name.setdefault(name, set()).add(type(value))
    metrics = []
    counts = []
    for name, types in types_by_name.items():
        if int in types and float not in types:
            counts.append(name)
        else:
            metrics.append(name)
    if _FIRST_METRIC in metrics:
        metrics.remove(_FIRST_METRIC)
        metrics.insert(0, _FIRST_METRIC)
    return metrics, counts


def page_number(value: float | Decimal, factor: int) -> float:
    """Return a value times a factor as the scripts and templates of the page need it.

    It has ten decimals, and so many that rounding it again for a table gives the digits that
    rounding the value itself gives: 0.6705 times 100 is 67.05, which tables show as 67.1.
    """
    return float(rounded(value, 10, factor))


class MetricFacts(NamedTuple):
    """A metric of a leaderboard entry as text."""

    metric: str
    value: str
    interval: str
    # The method of the interval and its level, such as "wilson, 95%".
    method: str
    # The value that the model's authors published, and the difference from it.
    published: str


def figures_of(entry: Entry) -> Iterator[MetricFacts]:
    """Yield the metrics of a leaderboard entry as text.

    Metrics that leaderboards show come first, then all others in alphabetical order. An entry is a
    result, or a published number.
    """
    shown_first = headlines_of(entry)
    for name in dict.fromkeys([*shown_first, *sorted(entry.metrics)]):  # each name once
        if name not in entry.metrics:
            continue
        metric = metric_of(entry.task, name)
        value = entry.metrics[name]
        interval = entry.intervals.get(name)
        value_text = str(round_metric(metric, value))
        if metric.in_percent:
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
    """Return a summary of what was measured, when, where and by which code, as text by title.

    For example, {"Results": "12", "Models": "3", "On": "NVIDIA H100"}. Titles whose number is 0 are
    left out. Everything follows from the results, so that equal results give an equal page.
    """
    # How each result was measured.
    records = [result.row.provenance for result in results]
    n_models = count_models(results)
    n_variants = len({result.model for result in results})
    n_edited = sum(bool(result.row.provenance["dirty"]) for result in results)
    n_random = sum(bool(result.row.model["random"]) for result in results)
    n_partial = sum(is_partial(result.row) for result in results)
    text_by_title = {
        "Results": str(len(results)),
        "Models": str(n_models),
        "Models and their variants": str(n_variants) if n_variants > n_models else "",
        "Data sets": str(len({result.row.dataset for result in results})),
        "Protocols": _list_distinct(result.row.protocol for result in results),
        "Measured (UTC)": _format_period([record["utc"] for record in records]),
        "By cosmos-eval": _list_distinct(record["version"] for record in records),
        "Commits": _list_distinct(str(record["commit"] or "unknown")[:12] for record in records),
        "On": _list_distinct(record["device"] for record in records),
        "Precision": _list_distinct(record["precision"] for record in records),
        "With edited code": _format_count(n_edited),
        "With random weights": _format_count(n_random),
        "On some of the samples": _format_count(n_partial),
    }
    return {title: text for title, text in text_by_title.items() if text not in ("", "0")}


def _format_period(times: Sequence[str]) -> str:
    """Return the first and the last of several times in ISO 8601, to the minute.

    For example, "2026-01-05 09:30 to 2026-01-07 18:00". Return a single time if both are the same
    minute, and "" without times.
    """
    minutes = sorted(time[:16].replace("T", " ") for time in times)
    if not minutes:
        return ""
    first, last = minutes[0], minutes[-1]
    return first if first == last else f"{first} to {last}"


def _list_distinct(values: Iterable[str]) -> str:
    """Return the distinct values in alphabetical order: ["b", "a", "b"] -> "a, b"."""
    return ", ".join(sorted(set(values)))


def _format_count(n_results: int) -> str:
    """Return a number of results as text, such as "3 results", or "" for 0."""
    return f"{n_results} results" if n_results else ""


def page_data(content: Content, tables: Sequence[ClassTable]) -> dict[str, Any]:
    """Return the data that the page's scripts draw from, for JSON.

    Args:
        content: Everything that the page states without pictures.
        tables: The tables of classes.

    Returns:
        A dictionary with these keys:

        - `models`: the names of the models. Everywhere else a model is its index into this list.
        - `first`: the two models that are compared until the reader chooses others.
        - `metrics`: the metrics that were tested; tests hold indices into this list. Each has its
          `protocol`, `dataset`, `name` and `title`, and `share` if its values are percentages.
        - `pairs`: every two models with their tests, see `_pair_record`.
        - `classes`: the tables of classes, see `_class_record`.
        - `curves`: the curves of trainings, see `Curve`.
    """
    model_indices = {name: index for index, name in enumerate(content.models)}

    # The metrics of all tests, each once.
    test_by_metric: dict[_MetricKey, MetricTest] = {}
    for pair in content.pairs:
        for test in pair.tests:
            test_by_metric[test.protocol, test.dataset, test.metric] = test
    metric_indices = {key: index for index, key in enumerate(test_by_metric)}
    metrics = []
    for test in test_by_metric.values():
        metrics.append(
            {
                "protocol": test.protocol,
                "dataset": test.dataset,
                "name": test.metric,
                "title": test.metric_record.label or test.metric,
                "share": test.metric_record.in_percent,
            }
        )

    pairs = []
    for pair in content.pairs:
        pairs.append(_pair_record(pair, model_indices, metric_indices, content.overview))
    curves = []
    for curve in content.curves:
        curve_record = curve._asdict()
        del curve_record["is_result"]
        curve_record["model"] = model_indices[curve.model]
        curves.append(curve_record)
    best_two_models = _sort_models(content)[:2]
    return {
        "models": content.models,
        "first": [model_indices[name] for name in best_two_models],
        "metrics": metrics,
        "pairs": pairs,
        "classes": [_class_record(table, model_indices) for table in tables],
        "curves": curves,
    }


def _sort_models(content: Content) -> list[str]:
    """Return the models that were measured here, the best first.

    Models of the overview are ordered by their rank. The others follow by the number of tests that
    they won, then by name.
    """
    n_wins = dict.fromkeys(content.models, 0)
    for pair in content.pairs:
        for name in pair.models:
            n_wins[name] += pair.wins(name)
    ranked_models = []
    if content.overview:
        for row in content.overview.rows:
            # The overview's label of a model may be longer than the label in comparisons.
            if row.model in n_wins:
                ranked_models.append(row.model)
    by_wins = sorted(content.models, key=lambda name: -n_wins[name])
    return list(dict.fromkeys([*ranked_models, *by_wins]))


_MetricKey = tuple[str, str, str]
"""The protocol, the data set and the name of a metric."""


def _pair_record(
    pair: ModelPair,
    model_indices: Mapping[str, int],
    metric_indices: Mapping[_MetricKey, int],
    overview: Overview | None,
) -> dict[str, Any]:
    """Return the comparison of two models for JSON.

    Args:
        pair: The comparison of the models on all data sets.
        model_indices: The index of each model by name.
        metric_indices: The index of each metric by its protocol, data set and name.
        overview: The ranking of all models, or None if they cannot be ranked.

    Returns:
        A dictionary with these keys:

        - `a`, `b`: the indices of the models.
        - `tests`: the tests on all data sets, see `_test_record`.
        - `obstacles`: one line for each data set on which the models are not compared.
        - `mean`: the `difference` of their means in the overview and the ends of its interval,
          `low` and `high`; null if one of them has no mean.
    """
    a, b = pair.models
    mean = None
    if overview is not None:
        mean_difference = overview.difference(a, b)
        if mean_difference is not None:
            mean = mean_difference._asdict()
    tests = []
    for test in pair.tests:
        metric_index = metric_indices[test.protocol, test.dataset, test.metric]
        tests.append(_test_record(test, metric_index))
    return {
        "a": model_indices[a],
        "b": model_indices[b],
        "tests": tests,
        "obstacles": list(pair.obstacles),
        "mean": mean,
    }


def _test_record(test: MetricTest, metric_index: int) -> dict[str, Any]:
    """Return the test of a metric of models A and B for JSON. Fractions are in percent.

    Args:
        test: The test.
        metric_index: The index of the metric among all metrics of the page.

    Returns:
        A dictionary with these keys:

        - `metric`: the index of the metric.
        - `a`, `b`: the values of models A and B, rounded.
        - `difference`, `low`, `high`: A minus B, and the ends of its interval.
        - `p`, `holm`: the p-value, and Holm's p-value (empty for a metric that is not a main one).
        - `better`: the better model, `A` or `B`; empty if neither is better.
        - `onlyA`, `onlyB`: the numbers of samples on which only one model is right; null if samples
          are not right or wrong.
    """
    factor = test.metric_record.factor
    interval = test.difference.interval()
    difference = exact_difference(test.difference.a, test.difference.b)
    only_a = None
    only_b = None
    # Only metrics whose samples are right or wrong have the numbers of changed samples.
    changed = getattr(test.difference, "changed", None)
    if changed:
        only_a, only_b = changed
    return {
        "metric": metric_index,
        "a": page_number(test.difference.a, factor),
        "b": page_number(test.difference.b, factor),
        "difference": page_number(difference, factor),
        "low": page_number(interval.low, factor),
        "high": page_number(interval.high, factor),
        "p": p_value_text(test.difference.p_value),
        "holm": "" if test.adjusted is None else p_value_text(test.adjusted),
        "better": test.better,
        "onlyA": only_a,
        "onlyB": only_b,
    }


def _class_record(table: ClassTable, model_indices: Mapping[str, int]) -> dict[str, Any]:
    """Return a table of classes for JSON.

    Args:
        table: A metric of every class on a data set, by model.
        model_indices: The index of each model by name.

    Returns:
        A dictionary with these keys:

        - `protocol`, `dataset`, `figure`: the protocol, the data set and the metric of the table.
        - `names`: the names of the classes.
        - `columns`: for each model, its index `model` and the `values` of the classes. A value is
          null if the class has none.
    """
    columns = []
    for column_index, model in enumerate(table.models):
        values = [row.values[column_index] for row in table.rows]
        columns.append({"model": model_indices[model], "values": values})
    return {
        "protocol": table.protocol,
        "dataset": table.dataset,
        "figure": table.figure,
        "names": [row.name for row in table.rows],
        "columns": columns,
    }
