"""The trials of `cosmos-eval tune` as one picture, drawn by Matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np

from cosmos_core.utils.figures import new_page, plain_style, png
from cosmos_core.utils.files import write_atomically
from cosmos_eval.runner.tune import Search, Tuned
from cosmos_eval.stats.estimates import Values
from cosmos_eval.stats.tuning import best_of

if TYPE_CHECKING:
    # At run time it would take long, also where nothing is drawn.
    from matplotlib.axes import Axes

_CELL = (360, 300)  # width and height of a panel, in pixels
_LONGEST = 24  # characters of a value
_INK, _SOFT = "#1b5fa7", "#9dbde0"


def draw(search: Search, tuned: Sequence[Tuned], path: Path) -> Path:
    """Draw per model the expected best of n trials with its interval, and the scores of all trials
    by the values of every factor."""
    factors = search.factors
    width, height = _CELL
    with plain_style({"font.size": 8, "text.parse_math": False}):
        page = new_page(width * (1 + len(factors)), height * len(tuned))
        grid = page.subplots(len(tuned), 1 + len(factors), squeeze=False, sharey=True)
        for one, (first, *panels) in zip(tuned, grid, strict=True):
            percents = 100 * np.array(one.scores)
            _draw_best(first, one.model, percents)
            for panel, (name, values) in zip(panels, factors.items(), strict=True):
                _draw_factor(panel, name, values, percents)
        page.tight_layout()
        write_atomically(path, png(page))
    return path


def _draw_best(axes: Axes, model: str, percents: Values) -> None:
    best, n = best_of(percents), np.arange(1, len(percents) + 1)
    axes.fill_between(n, best.low, best.high, color=_SOFT)
    axes.plot(n, best.expected, color=_INK)
    axes.set(xscale="log", xlabel="n trials", ylabel="mIoU (%)", title=f"{model}: best of n")
    axes.xaxis.set_major_formatter("{x:g}")


def _draw_factor(axes: Axes, name: str, values: Sequence[str], percents: Values) -> None:
    known = sorted(set(values), key=lambda text: (len(text), text))  # numbers in their order
    groups = [percents[[one == value for one in values]] for value in known]
    axes.boxplot(groups, sym=".", medianprops={"color": _INK})
    labels = [shorten(value, _LONGEST, placeholder="...") for value in known]
    axes.set_xticks(range(1, len(known) + 1), labels, rotation=30, ha="right")
    axes.set_title(name)
