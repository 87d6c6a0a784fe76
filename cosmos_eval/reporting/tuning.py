"""Draw the trials of `cosmos-eval tune` as one picture, by Matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np

from cosmos_core.utils.figures import figure_to_png, new_page, plain_style
from cosmos_core.utils.files import write_atomically
from cosmos_eval.runner.tune import Search, Tuned
from cosmos_eval.stats.estimates import Values
from cosmos_eval.stats.tuning import best_of

if TYPE_CHECKING:
    # Importing Matplotlib takes long, and not every caller draws.
    from matplotlib.axes import Axes

_PANEL_WIDTH, _PANEL_HEIGHT = 360, 300  # in pixels
_LONGEST_LABEL = 24  # characters of a value
_DARK_BLUE, _LIGHT_BLUE = "#1b5fa7", "#9dbde0"


def draw(search: Search, tuned_models: Sequence[Tuned], path: Path) -> Path:
    """Draw the trials of a random search to a PNG file, with one row of panels per model.

    The first panel of a row has the expected best of n trials with its interval. Each of the other
    panels has the scores of all trials by the values of one factor, which is a setting that the
    search varied.

    Args:
        search: The search, which holds the value of each factor in each trial.
        tuned_models: For each model, the scores of its trials.
        path: The file to write.

    Returns:
        The path of the file.
    """
    factors = search.factors
    n_columns = 1 + len(factors)
    n_rows = len(tuned_models)
    with plain_style({"font.size": 8, "text.parse_math": False}):
        page = new_page(_PANEL_WIDTH * n_columns, _PANEL_HEIGHT * n_rows)
        grid = page.subplots(n_rows, n_columns, squeeze=False, sharey=True)
        for tuned, panels in zip(tuned_models, grid, strict=True):
            percent_scores = 100 * np.array(tuned.scores)
            _draw_best_of_n(panels[0], tuned.model, percent_scores)
            for panel, (factor, values) in zip(panels[1:], factors.items(), strict=True):
                _draw_factor(panel, factor, values, percent_scores)
        page.tight_layout()
        write_atomically(path, figure_to_png(page))
    return path


def _draw_best_of_n(axes: Axes, model: str, scores: Values) -> None:
    """Draw the expected best of n trials against n, with its interval.

    Args:
        axes: The panel.
        model: The name of the model.
        scores: (N,), the score of each trial of the model in percent.
    """
    best = best_of(scores)
    n_trials = np.arange(1, len(scores) + 1)
    axes.fill_between(n_trials, best.low, best.high, color=_LIGHT_BLUE)
    axes.plot(n_trials, best.expected, color=_DARK_BLUE)
    axes.set(xscale="log", xlabel="n trials", ylabel="mIoU (%)", title=f"{model}: best of n")
    axes.xaxis.set_major_formatter("{x:g}")


def _draw_factor(axes: Axes, factor: str, values: Sequence[str], scores: Values) -> None:
    """Draw a box plot of the scores of all trials for each value of a factor.

    Args:
        axes: The panel.
        factor: The name of the factor, a setting that the search varied.
        values: (N,), the value of the factor in each trial.
        scores: (N,), the score of each trial in percent.
    """
    # Shorter texts come first, so that numbers are in their order: "5", "10", "100".
    distinct_values = sorted(set(values), key=lambda value: (len(value), value))
    values_of_trials = np.array(values)
    scores_by_value = [scores[values_of_trials == value] for value in distinct_values]
    axes.boxplot(scores_by_value, sym=".", medianprops={"color": _DARK_BLUE})
    labels = [shorten(value, _LONGEST_LABEL, placeholder="...") for value in distinct_values]
    axes.set_xticks(range(1, len(labels) + 1), labels, rotation=30, ha="right")
    axes.set_title(factor)
