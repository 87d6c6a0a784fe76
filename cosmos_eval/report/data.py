"""What a page's scripts draw from: pairs of models and figures a class, as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cosmos_eval.report.classes import ClassTable
from cosmos_eval.report.content import Content
from cosmos_eval.report.pairs import Versus
from cosmos_eval.results.compare import MetricTest
from cosmos_eval.results.leaderboard import headlines_of
from cosmos_eval.results.text import p_value_text


def page_data(content: Content, tables: Sequence[ClassTable]) -> dict[str, Any]:
    """`models` by name; `pairs`, `classes` and `first` name them, and `metrics`, by their places.

    `first` are the two models that are compared until others are chosen.
    A pair has `a`, `b`, `tests` and `why` (what was not compared, a line each). A test is [metric,
    A, B, A - B, low, high, p, p by Holm, who is better, only A right, only B right], shares in
    percent. A table of `classes` has a list of values a model, null where there is none.
    """
    models = {name: place for place, name in enumerate(model_names(content))}
    metrics: dict[tuple[str, str, str], int] = {}
    titles = _titles(content)
    pairs = [_pair(pair, models, metrics) for pair in content.pairs]
    shares = {
        (test.protocol, test.dataset, test.metric): test.record.unit == "fraction"
        for pair in content.pairs
        for test in pair.tests
    }
    return {
        "models": list(models),
        "first": _most_often_better(content, models),
        "metrics": [
            {
                "protocol": key[0],
                "dataset": key[1],
                "title": titles[key],
                "share": shares[key],
            }
            for key in metrics
        ],
        "pairs": pairs,
        "classes": [_table(table, models) for table in tables],
    }


def model_names(content: Content) -> list[str]:
    """The models measured here, in alphabetical order."""
    return sorted({one.model for one in content.results})


def _most_often_better(content: Content, models: Mapping[str, int]) -> list[int]:
    """The places of the two models that won most tests; of equal ones the first by name."""
    won = dict.fromkeys(models, 0)
    for pair in content.pairs:
        for model, side in zip(pair.models, "AB", strict=True):
            won[model] += pair.wins(side)
    return [models[name] for name in sorted(models, key=lambda name: -won[name])[:2]]


def _titles(content: Content) -> Mapping[tuple[str, str, str], str]:
    return {
        (entry.protocol, entry.dataset, metric): title
        for entry in content.entries
        for metric, title in headlines_of(entry).items()
    }


def _pair(
    pair: Versus, models: Mapping[str, int], metrics: dict[tuple[str, str, str], int]
) -> dict[str, Any]:
    tests = []
    for test in pair.tests:
        place = metrics.setdefault((test.protocol, test.dataset, test.metric), len(metrics))
        tests.append([place, *_test(test)])
    a, b = (models[name] for name in pair.models)
    return {"a": a, "b": b, "tests": tests, "why": list(pair.obstacles)}


def _test(test: MetricTest) -> list[Any]:
    found = test.difference
    interval = found.interval()
    numbers = (found.a, found.b, found.difference, interval.low, interval.high)
    factor = test.record.factor
    adjusted = "" if test.adjusted is None else p_value_text(test.adjusted)
    return [
        *(round(factor * number, 3) for number in numbers),
        p_value_text(found.p_value),
        adjusted,
        test.better,
        *(found.changed or (None, None)),
    ]


def _table(table: ClassTable, models: Mapping[str, int]) -> dict[str, Any]:
    return {
        "protocol": table.protocol,
        "dataset": table.dataset,
        "figure": table.figure,
        "names": [row.name for row in table.rows],
        "models": [models[name] for name in table.models],
        "values": [[row.values[place] for row in table.rows] for place in range(len(table.models))],
    }
