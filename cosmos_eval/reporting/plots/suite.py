"""The means of models over a suite, as bars with intervals, and the values of its members."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosmos_eval.reporting.plots.style import (
    INTERVALS_NOTE,
    SKY_BLUE,
    draw_bars,
    new_figure,
    shorten_all,
)
from cosmos_eval.results.leaderboard.suite import SuiteScore
from cosmos_eval.types import Suite, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW_HEIGHT, _MARGIN = 0.2, 0.65  # inches
_LONGEST_NAME = {1: 24, 2: 48}  # characters of a model's name


def _mean_name(suite: Suite) -> str:
    """Return what a mean is of, such as "mean acc1 over 38 members of datacomp-38"."""
    kind = "harmonic mean" if suite.is_harmonic else "mean"
    metrics = {metric for member in suite.members for metric in member.metrics}
    if len(metrics) == 1:
        kind += f" {metrics.pop()}"
    return f"{kind} over {len(suite.members)} members of {suite.name}"


def draw_suite(score: SuiteScore, columns: int) -> Figure:
    """Draw the mean of each model over a suite, with its 95% interval, the best model first.

    Models that lack a member of the suite have no mean and are left out. Means of published numbers
    have no interval and are hollow.

    Args:
        score: The means over the suite.
        columns: The number of columns of the paper that the figure spans, 1 or 2.

    Raises:
        UsageError: If no model has a mean.
    """
    factor = score.metric.factor
    labels: list[str] = []
    values: list[float] = []
    intervals: list[tuple[float, float] | None] = []
    for row in score.rows:
        if row.mean is None:
            continue
        name = row.model if row.source == "measured" else f"{row.model} ({row.source})"
        labels.append(name)
        values.append(factor * row.mean.value)
        interval = row.mean.interval
        intervals.append(interval and (factor * interval.low, factor * interval.high))
    if not labels:
        raise UsageError(
            f"nothing to draw: no model has results of all {len(score.suite.members)} members of "
            f"the suite {score.suite.name}"
        )
    figure = new_figure(columns, _MARGIN + _ROW_HEIGHT * len(labels))
    axes = figure.subplots()
    draw_bars(axes, values, intervals, SKY_BLUE)
    axes.set_yticks(range(len(labels)), shorten_all(labels, _LONGEST_NAME[columns]))
    axes.tick_params(axis="y", length=0)
    unit = ", %" if score.metric.in_percent else ""
    axes.set_xlabel(f"{_mean_name(score.suite)}{unit}")
    figure.supxlabel(f"{INTERVALS_NOTE}; hollow: without an interval", fontsize=6)
    return figure
