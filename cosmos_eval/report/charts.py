"""The charts of a page: Vega-Altair's specifications, the program that draws them, their data.

Colours and sizes come from the page when it draws. vl-convert bundles the program from its own
files, without network; the page carries it compressed, since it would take a fifth of the page.
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

ROWS = "rows"
"""The name of a chart's data."""


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


def specifications() -> dict[str, dict[str, Any]]:
    """Return the page's charts by name."""
    return {"intervals": _intervals(), "classes": _classes()}


def _intervals() -> dict[str, Any]:
    """A metric of all models, with intervals as bars.

    Rows have `name`, `source`, `value`, `low`, `high` and `label`, in the order of the chart.
    """
    import altair as alt

    y = alt.Y("name:N").sort(None).title(None).axis(labelLimit=320)
    x = alt.X("value:Q").scale(zero=False, nice=True).title(None).axis(tickCount=10)
    colour = alt.Color("source:N").legend(orient="top", title=None, symbolOpacity=1)
    tooltip = alt.Tooltip("label:N")
    bars = alt.Chart().mark_rule(strokeWidth=7, opacity=0.35).encode(
        x=alt.X("low:Q").scale(zero=False, nice=True).title(None), x2="high:Q", y=y, color=colour,
        tooltip=tooltip,
    )  # fmt: skip
    shape = alt.Shape("source:N").legend(None)
    points = alt.Chart().mark_point(size=55, filled=True, opacity=1).encode(
        x=x, y=y, color=colour, shape=shape, tooltip=tooltip
    )  # fmt: skip
    chart = alt.layer(bars, points, data=alt.NamedData(ROWS))
    return _finished(chart.properties(width="container"))


def _classes() -> dict[str, Any]:
    """A figure of every class by two models: `a`, `b`, `side` (which is higher) and `label`."""
    import altair as alt

    percent = alt.Scale(domain=[0, 100])
    points = alt.Chart(alt.NamedData(ROWS)).mark_circle(size=45, opacity=0.7).encode(
        x=alt.X("a:Q", scale=percent).title("A, %"),
        y=alt.Y("b:Q", scale=percent).title("B, %"),
        color=alt.Color("side:N").legend(orient="top", title=None),
        tooltip=alt.Tooltip("label:N"),
    )  # fmt: skip
    corners = alt.InlineData(values=[{"a": 0, "b": 0}, {"a": 100, "b": 100}])
    line = alt.Chart(corners).mark_line(strokeDash=[4, 4], opacity=0.6).encode(x="a:Q", y="b:Q")
    return _finished(alt.layer(line, points).properties(width="container", height=340))


def _finished(chart: Any) -> dict[str, Any]:
    fitted = chart.properties(autosize={"type": "fit-x", "contains": "padding"})
    specification: dict[str, Any] = fitted.to_dict()
    specification.pop("config", None)
    return specification


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
