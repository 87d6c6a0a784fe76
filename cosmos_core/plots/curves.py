"""A run's log as a picture: its figures over the steps, a panel for those that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cosmos_core.plots.page import new_page, plain_style, png
from cosmos_core.plots.series import Panel, Records, Series, panels, running_mean, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

COLUMNS = 3
# In pixels of the picture.
COLUMN, ROW, TITLE = 460, 300, 40
LEFT, BELOW = 75, 50  # of a panel, for what is written along its axes
RIGHT, ABOVE = 20, 30

MOST = 1000  # figures drawn of a line: a panel has fewer pixels
LONG = 100  # figures of a noisy line from which on a mean is drawn over it
WINDOW = 1 / 50  # of a line, that the mean is taken over
FEW = 50  # figures are marked as dots up to so many
COLOURS = 256  # of the file


def draw_curves(records: Records, title: str) -> bytes:
    """A PNG of the records of a log, at least one."""
    with plain_style():
        return png(lay_out(panels(records), title), colours=COLOURS)


def lay_out(found: Sequence[Panel], title: str) -> Figure:
    """The page of all panels, the first twice as wide as the others."""
    rows = -(-(len(found) + 1) // COLUMNS)
    page = new_page(COLUMNS * COLUMN, rows * ROW + TITLE)
    heading, left, top = _heading(found, title), LEFT / page.bbox.width, 1 - 15 / page.bbox.height
    page.text(left, top, heading, va="top", parse_math=False)
    _draw(_axes(page, 0, width=2 * COLUMN), found[0])
    for place, panel in enumerate(found[1:], start=2):
        _draw(_axes(page, place), panel)
    return page


def _heading(found: Sequence[Panel], title: str) -> str:
    """The title, and what a thick line over a pale one is."""
    windows = {_window(series) for panel in found if panel.noisy for series in panel.series} - {1}
    told = [f"thick: means over {window} lines of the log, pale: every line" for window in windows]
    return "; ".join([title, *told])


def _window(series: Series) -> int:
    """How many figures of a noisy line a mean is taken over; 1 of a short line."""
    count = len(series.steps)
    return 1 + 2 * round(count * WINDOW / 2) if count >= LONG else 1


def _axes(page: Figure, place: int, width: int = COLUMN) -> Axes:
    """The axes of a panel; places count along the rows."""
    row, column = divmod(place, COLUMNS)
    whole = page.bbox
    left, bottom = column * COLUMN + LEFT, whole.height - TITLE - (row + 1) * ROW + BELOW
    width, height = width - LEFT - RIGHT, ROW - BELOW - ABOVE
    return page.add_axes(
        (left / whole.width, bottom / whole.height, width / whole.width, height / whole.height)
    )


def _draw(axes: Axes, panel: Panel) -> None:
    """All lines of a panel, a colour a name, and a legend where there are several."""
    colours = {name: f"C{n}" for n, name in enumerate(dict.fromkeys(s.name for s in panel.series))}
    lines: dict[str, Line2D] = {}
    for series in panel.series:
        line = _draw_series(axes, series, colours[series.name], noisy=panel.noisy)
        lines.setdefault(series.name, line)
    if len(panel.series) > 1:
        told = "dashed: student" if any(series.dashed for series in panel.series) else None
        legend = axes.legend(
            list(lines.values()), list(lines), title=told, fontsize=8, framealpha=0.5
        )
        legend.get_title().set_fontsize(8)
    if panel.wide and _powers_of_ten(panel) > 1:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_formatter("{x:g}")
    _dress(axes, panel)


def _powers_of_ten(panel: Panel) -> float:
    """How many lie between the least and the largest positive figure."""
    values = np.concatenate([series.values for series in panel.series])
    positive = values[values > 0]
    return np.log10(positive.max() / positive.min()) if positive.size else 0.0


def _draw_series(axes: Axes, series: Series, colour: str, *, noisy: bool) -> Line2D:
    """A line; of many noisy figures a pale one, and their mean over it, which is returned."""
    window = _window(series) if noisy else 1
    shown = thinned(series, MOST)
    (line,) = axes.plot(
        shown.steps,
        shown.values,
        "--" if series.dashed else "-",
        color=colour,
        marker="." if len(series.steps) <= FEW else "",
    )
    if window > 1:
        line.set(alpha=0.3, linewidth=0.7)
        mean = thinned(series._replace(values=running_mean(series.values, window)), MOST)
        (line,) = axes.plot(mean.steps, mean.values, color=colour)
    return line


def _dress(axes: Axes, panel: Panel) -> None:
    """Title, units, grid and whole steps."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(panel.title, fontsize=10, parse_math=False)
    axes.set_xlabel("step")
    axes.set_ylabel(panel.unit)
    axes.grid(color="lightgrey", linewidth=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
