"""Paired differences of two models or methods, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from cosmos_eval.reporting.plots.style import (
    BLUE,
    GREY,
    INTERVALS_NOTE,
    VERMILION,
    new_figure,
    shorten,
    shorten_all,
)
from cosmos_eval.results.compare import Comparison, MetricTest
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW_HEIGHT, _PANEL_MARGIN, _TEXT_HEIGHT = 0.17, 0.45, 0.5  # inches
_LONGEST_LABEL = {1: 34, 2: 60}  # characters of the name of a row
_LONGEST_NAME = {1: 24, 2: 50}  # characters of the name of a model
_COLOURS = {"A": BLUE, "B": VERMILION, "": GREY}
_UNIT_LABELS = {
    "fraction": "percentage points",
    "difference": "percentage points",
    "rank": "ranks",
    "ratio": "ratio",
}


def draw_comparison(comparison: Comparison, columns: int, *, all_metrics: bool = False) -> Figure:
    """Draw the differences of a comparison with their 95% intervals, one row per metric.

    Rows are blue if A is shown to be better, red for B, and grey and hollow if neither is. Metrics
    of different units, such as fractions and ranks, have separate panels.

    Args:
        comparison: The comparison of two models, or of two groups of trainings.
        columns: The number of columns of the paper that the figure spans, 1 or 2.
        all_metrics: True to draw all metrics, not only the primary ones.

    Raises:
        UsageError: If there is nothing to draw.
    """
    if comparison.untested:
        raise UsageError("nothing to draw: imported results have no samples, so no intervals")
    tests_by_unit: dict[str, list[MetricTest]] = {}
    for test in comparison.tests:
        if all_metrics or test.metric_record.primary:
            tests_by_unit.setdefault(test.metric_record.unit, []).append(test)
    if not tests_by_unit:
        raise UsageError("nothing to draw: no primary metric was compared (see --all-metrics)")
    rows_by_unit = {unit: _rows_of_tests(tests) for unit, tests in tests_by_unit.items()}
    heights = [_PANEL_MARGIN + _ROW_HEIGHT * len(rows) for rows in rows_by_unit.values()]
    figure = new_figure(columns, sum(heights) + _TEXT_HEIGHT)
    grid = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
    for axes, (unit, rows) in zip(grid[:, 0], rows_by_unit.items(), strict=True):
        _draw_differences(axes, rows, _LONGEST_LABEL[columns])
        axes.set_xlabel(f"A - B, {_UNIT_LABELS.get(unit, 'difference')}")
    name_a, name_b = shorten_all([comparison.a, comparison.b], _LONGEST_NAME[columns])
    figure.suptitle(f"A: {name_a}\nB: {name_b}", fontsize=7)
    figure.supxlabel(
        "blue: A is better; red: B is better;\n"
        f"hollow: neither is shown to be better; {INTERVALS_NOTE}",
        fontsize=6,
    )
    return figure


class _Row(NamedTuple):
    """A row of a panel: the name of a data set, or a test below it."""

    label: str
    # None for the name of a data set.
    test: MetricTest | None


def _rows_of_tests(tests: Sequence[MetricTest]) -> list[_Row]:
    """Return the rows of a panel: each data set with its protocol, then its metrics."""
    rows: list[_Row] = []
    for (dataset, protocol), dataset_tests in groupby(tests, key=attrgetter("dataset", "protocol")):
        rows.append(_Row(f"{dataset} ({protocol})", None))
        for test in dataset_tests:
            label = test.metric_record.label or test.metric
            if not test.metric_record.higher_is_better:
                label += " (lower is better)"
            rows.append(_Row(label, test))
    return rows


def _draw_differences(axes: Axes, rows: Sequence[_Row], longest_label: int) -> None:
    """Draw the difference of each test with its interval, and a line at zero."""
    for position, row in enumerate(rows):
        if row.test is None:
            continue
        difference = row.test.difference
        factor = row.test.metric_record.factor
        interval = difference.interval()
        colour = _COLOURS[row.test.better]
        ends = [factor * interval.low, factor * interval.high]
        axes.plot(ends, [position] * 2, "|-", color=colour, solid_capstyle="butt", markersize=5)
        axes.plot(
            factor * difference.difference,
            position,
            "o",
            color=colour,
            markerfacecolor=colour if row.test.better else "white",
            markersize=3,
        )
    axes.axvline(0, color="black", linewidth=0.6)
    axes.spines["left"].set_visible(False)  # which would lie beside the line at zero
    axes.set_yticks(range(len(rows)), [shorten(row.label, longest_label) for row in rows])
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if row.test is None else "normal")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
