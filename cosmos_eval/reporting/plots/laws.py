"""Errors of methods against their budgets, with laws of scale and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cosmos_eval.reporting.plots.style import (
    LINE_COLOURS,
    LINE_MARKERS,
    new_figure,
    new_panels,
    shorten_all,
)
from cosmos_eval.results.laws import MethodLaw, MetricLaws, budget_text
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS_PER_ROW = {1: 1, 2: 3}
_PANEL_HEIGHT = 2.1  # inches
_MOST_PANELS = {1: 4, 2: 12}  # on a page
_NOTE_HEIGHT = 0.15  # inches
_LONGEST_NAME = 24  # characters of the name of a method
_POINTS = 65  # budgets of a curve
_MOST_TICKS = 6
_UNITS = {"samples": "samples seen", "flops": "FLOPs of the training"}


def draw_laws(all_laws: Sequence[MetricLaws], columns: int) -> Figure:
    """Draw the errors of trainings and the laws of their methods, one panel per metric.

    Bands are 95% intervals of the law over seeds and images. Trainings are drawn without a law if
    they deviate from it, or if their error is not shown to fall. A held-out budget is hollow, with
    the interval that predicted it. A grey band is the interval of a crossing. If there are more
    methods than colours, markers tell methods of the same colour apart.

    Args:
        all_laws: The laws of each metric.
        columns: The number of columns of the paper that the figure spans, 1 or 2.

    Raises:
        UsageError: If a page has no room for all panels.
    """
    if len(all_laws) > _MOST_PANELS[columns]:
        raise UsageError(
            f"{len(all_laws)} panels, and a page has room for {_MOST_PANELS[columns]}: choose with "
            "--datasets, --metrics or --protocols"
        )
    n_rows = math.ceil(len(all_laws) / _PANELS_PER_ROW[columns])
    figure = new_figure(columns, n_rows * _PANEL_HEIGHT + _NOTE_HEIGHT)
    all_axes = new_panels(figure, len(all_laws), n_rows)
    for axes, laws in zip(all_axes, all_laws, strict=True):
        names = shorten_all([method.name for method in laws.methods], _LONGEST_NAME)
        for index, (method, name) in enumerate(zip(laws.methods, names, strict=True)):
            _draw_method(axes, laws, method, name, index)
        for crossing in laws.crossings.values():
            if crossing is not None and crossing.crosses:
                low = crossing.low or crossing.low_budget
                high = crossing.high or crossing.high_budget
                axes.axvspan(low, high, color="black", alpha=0.08, linewidth=0)
        unit = " (%)" if laws.factor == 100 else ""
        axes.set_title(f"{laws.title}{unit}")
        axes.set(xscale="log", xlabel=_UNITS[laws.unit], ylim=(0, None))
        _name_budgets(axes, laws)
        axes.legend(fontsize=5.5, frameon=False)
    figure.supxlabel("bands, whiskers, grey crossing: 95% intervals; hollow: held out", fontsize=6)
    return figure


def _name_budgets(axes: Axes, laws: MetricLaws) -> None:
    """Put a tick at each budget of the method with the most of them, at every other one if many."""
    budgets = max((method.fitted.ladder.budgets for method in laws.methods), key=len)
    step = math.ceil(len(budgets) / _MOST_TICKS)
    ticks = budgets[::step]
    axes.set_xticks(ticks, [budget_text(float(tick)) for tick in ticks])
    axes.xaxis.set_minor_formatter("")


def _draw_method(axes: Axes, laws: MetricLaws, method: MethodLaw, name: str, index: int) -> None:
    """Draw the trainings of a method, its law if one is shown, and its predictions.

    Args:
        axes: The axes of the metric.
        laws: The laws of the metric.
        method: The method, whose law is one of them.
        name: The name of the method in the legend.
        index: The number of the method from 0, which chooses its colour and marker.
    """
    round_number, colour_index = divmod(index, len(LINE_COLOURS))
    colour = LINE_COLOURS[colour_index]
    marker = LINE_MARKERS[round_number % len(LINE_MARKERS)]
    ladder = method.fitted.ladder
    supported = [prediction for prediction in method.predictions if not prediction.refusal]
    if method.is_shown:
        predicted_budgets = [prediction.budget for prediction in supported]
        last_budget = max([float(ladder.fitted_budgets[-1]), *predicted_budgets])
        _draw_law(axes, laws, method, last_budget, colour)
        axes.plot([], [], f"{marker}-", color=colour, linewidth=1, markersize=2.5, label=name)
    else:
        axes.plot([], [], marker, color=colour, markersize=2.5, label=f"{name} (no law)")
    for budget, values, is_fitted in zip(
        ladder.budgets, ladder.errors, ladder.is_fitted, strict=True
    ):
        axes.plot(
            np.full(len(values), budget),
            laws.factor * values,
            marker,
            linestyle="",
            color=colour,
            markersize=2.5,
            fillstyle="full" if is_fitted else "none",
            markeredgewidth=0.7,
        )
    for prediction in supported:
        ends = [laws.factor * prediction.interval.low, laws.factor * prediction.interval.high]
        axes.plot([prediction.budget] * 2, ends, color=colour, linewidth=0.8)


def _draw_law(
    axes: Axes, laws: MetricLaws, method: MethodLaw, last_budget: float, colour: str
) -> None:
    """Draw the law of a method with its band, from its smallest budget to the last one."""
    fitted = method.fitted
    budgets = np.geomspace(fitted.ladder.fitted_budgets[0], last_budget, _POINTS)
    intervals = [fitted.mean_interval(float(budget)) for budget in budgets]
    axes.fill_between(
        budgets,
        [laws.factor * interval.low for interval in intervals],
        [laws.factor * interval.high for interval in intervals],
        color=colour,
        alpha=0.2,
        linewidth=0,
    )
    axes.plot(budgets, laws.factor * fitted.law.error_at(budgets), color=colour, linewidth=1)
