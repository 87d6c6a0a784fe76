"""The size, font and colours that all figures for papers share, and how figures are written."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos_core.utils.figures import plain_style
from cosmos_core.utils.files import write_atomically
from cosmos_eval.results.latex import WIDTHS
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".pdf", ".svg", ".png")

# Colours of Okabe and Ito (jfly.uni-koeln.de/color), which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY_BLUE, GREY = "#CC79A7", "#56B4E9", "#7F7F7F"
LINE_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY_BLUE, GREY)
# Lines of the same colour have different markers.
LINE_MARKERS = ("o", "s", "^", "v", "D", "X")
INTERVALS_NOTE = "whiskers: 95% intervals"

_STYLE: dict[str, Any] = {
    "font.size": 7.0,
    "axes.titlesize": 7.0,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a `$` in the name of a model is a `$`
    "pdf.fonttype": 42,  # TrueType: conferences refuse fonts of type 3
    "svg.hashsalt": "cosmos-eval",  # without it, equal figures would have different files
    "savefig.dpi": 300,
}
# Without a date, equal figures are equal files.
_METADATA: dict[str, dict[str, Any]] = {
    ".pdf": {"CreationDate": None},
    ".svg": {"Date": None},
    ".png": {},
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Draw and write figures in the block with the fonts and lines of a paper."""
    with plain_style(_STYLE):
        yield


def new_figure(columns: int, height: float) -> Figure:
    """Return an empty figure.

    Args:
        columns: The number of columns of the paper that the figure spans, 1 or 2.
        height: The height in inches.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTHS[columns], height), layout="constrained")


def new_panels(
    figure: Figure, n_panels: int, n_rows: int, *, share_rows: bool = False
) -> list[Axes]:
    """Return the axes of panels in a grid, from left to right and top to bottom.

    Args:
        figure: The figure that the panels fill.
        n_panels: The number of panels. Places of the grid without a panel stay empty.
        n_rows: The number of rows of the grid.
        share_rows: True if all panels have the same rows on their vertical axis.
    """
    n_columns = math.ceil(n_panels / n_rows)
    grid = figure.subplots(n_rows, n_columns, squeeze=False, sharey=share_rows)
    all_axes = list(grid.flat)
    for axes in all_axes[n_panels:]:
        axes.set_visible(False)
    return all_axes[:n_panels]


def require_figure_name(path: Path) -> None:
    """Raise UsageError if the name of a file does not end with a format of figures."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: the name of a figure ends with {', '.join(FORMATS)}")


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PDF, SVG or PNG, by the suffix of the path.

    Equal figures give equal files. Call it inside of `paper_style`, since fonts are chosen when a
    figure is written. Raises UsageError for another suffix.
    """
    require_figure_name(path)
    suffix = path.suffix.lower()
    content = io.BytesIO()
    figure.savefig(content, format=suffix[1:], metadata=_METADATA[suffix])
    write_atomically(path, content.getvalue())


def draw_bars(
    axes: Axes, values: list[float], intervals: list[tuple[float, float] | None], colour: str
) -> None:
    """Draw horizontal bars with whiskers, the first one at the top.

    Whiskers have caps, so that an interval of no width is seen. A row without a value says so,
    since it would look like a bar of length 0.

    Args:
        axes: The axes, whose rows are at 0, 1, 2... from top to bottom.
        values: The lengths of the bars, NaN for a row without a value.
        intervals: The ends of the whisker of each bar, or None for a bar without one.
        colour: The colour of bars with whiskers. The others are hollow.
    """
    for row, (value, interval) in enumerate(zip(values, intervals, strict=True)):
        if math.isnan(value):
            axes.annotate(
                "no result", (0, row), (3, 0), "data", "offset points", va="center", fontsize=5.5
            )
            continue
        if interval is None:
            axes.barh(row, value, height=0.7, facecolor="white", edgecolor=GREY, linewidth=0.6)
            continue
        low, high = interval
        axes.barh(row, value, height=0.7, color=colour, linewidth=0)
        axes.plot(
            [low, high],
            [row, row],
            "|-",
            color="black",
            linewidth=0.8,
            solid_capstyle="butt",
            markersize=3,
            markeredgewidth=0.8,
        )
    axes.set_ylim(len(values) - 0.4, -0.6)


def shorten(name: str, longest: int) -> str:
    """Return a name of at most `longest` characters, with "..." in place of its middle.

    Example: "openclip:ViT-B-32/laion2b" for 15 -> "opencl...aion2b".
    """
    if len(name) <= longest:
        return name
    n_end = (longest - 3) // 2
    n_start = longest - 3 - n_end
    return f"{name[:n_start]}...{name[-n_end:]}"


def shorten_all(names: Sequence[str], longest: int) -> list[str]:
    """Return names of at most `longest` characters, or of more if two would become equal.

    Example: "ViT-B-32/laion2b" and "ViT-L-14/laion2b" for 9 -> "ViT-B...on2b", "ViT-L...on2b".
    """
    n_names = len(set(names))
    while len({shorten(name, longest) for name in names}) < n_names:
        longest += 1
    return [shorten(name, longest) for name in names]
