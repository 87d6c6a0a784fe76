"""Charts of a page: specifications by Vega-Altair, and the program that draws them.

Data, colours and sizes come from the page when it draws. The program is bundled by vl-convert from
what it ships, with no network; it is compressed, since it would take a fifth of a page.
"""

from __future__ import annotations

import base64
import gzip
from functools import cache
from typing import Any, NamedTuple

ROWS = "rows"
"""The name of a chart's data."""


class Program(NamedTuple):
    """JavaScript as it runs, and as a page carries it: gzip, then base64; and what it is."""

    text: str
    packed: str
    versions: str


@cache
def program() -> Program:
    """Vega, Vega-Lite and Vega-Embed, which leaves `vegaEmbed` in the window."""
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
    """The page's charts by name."""
    return {"intervals": _intervals(), "classes": _classes()}


def _intervals() -> dict[str, Any]:
    """A metric of all models: numbers with their intervals as bars.

    Rows have `name`, `source`, `value`, `low`, `high` and `told`, in the order of the chart.
    """
    import altair as alt

    y = alt.Y("name:N").sort(None).title(None).axis(labelLimit=320)
    x = alt.X("value:Q").scale(zero=False, nice=True).title(None).axis(tickCount=10)
    colour = alt.Color("source:N").legend(orient="top", title=None, symbolOpacity=1)
    tooltip = alt.Tooltip("told:N")
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
    """A figure of every class by two models: `a`, `b`, `side` (which is higher) and `told`."""
    import altair as alt

    percent = alt.Scale(domain=[0, 100])
    points = alt.Chart(alt.NamedData(ROWS)).mark_circle(size=45, opacity=0.7).encode(
        x=alt.X("a:Q", scale=percent).title("A, %"),
        y=alt.Y("b:Q", scale=percent).title("B, %"),
        color=alt.Color("side:N").legend(orient="top", title=None),
        tooltip=alt.Tooltip("told:N"),
    )  # fmt: skip
    corners = alt.InlineData(values=[{"a": 0, "b": 0}, {"a": 100, "b": 100}])
    line = alt.Chart(corners).mark_line(strokeDash=[4, 4], opacity=0.6).encode(x="a:Q", y="b:Q")
    return _finished(alt.layer(line, points).properties(width="container", height=340))


def _finished(chart: Any) -> dict[str, Any]:
    fitted = chart.properties(autosize={"type": "fit-x", "contains": "padding"})
    specification: dict[str, Any] = fitted.to_dict()
    specification.pop("config", None)
    return specification
