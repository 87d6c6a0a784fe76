"""The program that draws the charts of a page, and the data of its scripts.

static/charts.json has the Vega-Lite specifications; colours and sizes come from the page.
vl-convert bundles the program from its own files, without network; the page carries it compressed.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from cosmos_eval.report.content import Content
from cosmos_eval.report.tables import ClassTable
from cosmos_eval.results.compare import MetricTest
from cosmos_eval.results.text import p_value_text


class Program(NamedTuple):
    """JavaScript as it runs, and as a page carries it (gzip, then base64), and its versions."""

    text: str
    packed: str
    versions: str


@cache
def program() -> Program:
    """Bundle Vega, Vega-Lite and Vega-Embed, which leaves `vegaEmbed` in the window."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # Its names must not become the page's.
    text = f"(() => {{{bundle}\n}})();"
    packed = base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
    vega, embed = vl_convert.get_vega_version(), vl_convert.get_vega_embed_version()
    lite = vl_convert.get_vegalite_versions()[-1]
    versions = f"Vega {vega}, Vega-Lite {lite}, Vega-Embed {embed}"
    return Program(text, packed, versions)


def page_data(content: Content, tables: Sequence[ClassTable]) -> dict[str, Any]:
    """Return what the page's scripts draw from, as JSON.

    `models` and `metrics` are lists; `pairs`, `classes` and `first` (the two models that are
    compared until others are chosen) hold indices into them. A pair has `a`, `b`, `tests` and `why`
    (one line for each data set that was not compared). A test is [metric, A, B, A - B, low, high,
    p, p by Holm, better model, only A right, only B right], shares in percent. A table of
    `classes` has a list of values per model, null where there is none.
    """
    models = {name: index for index, name in enumerate(model_names(content))}
    tests = {_key(test): test for pair in content.pairs for test in pair.tests}
    metrics = {key: index for index, key in enumerate(tests)}
    return {
        "models": list(models),
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


def model_names(content: Content) -> list[str]:
    """Return the models measured here, in alphabetical order."""
    return sorted({one.model for one in content.results})


def _most_often_better(content: Content, models: Mapping[str, int]) -> list[int]:
    """Return the indices of the two models that won most tests, of equal ones the first by name."""
    won = dict.fromkeys(models, 0)
    for pair in content.pairs:
        for model in pair.models:
            won[model] += pair.wins(model)
    return [models[name] for name in sorted(models, key=lambda name: -won[name])[:2]]


def _key(test: MetricTest) -> tuple[str, str, str]:
    return test.protocol, test.dataset, test.metric


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
        "values": [[row.values[index] for row in table.rows] for index in range(len(table.models))],
    }
