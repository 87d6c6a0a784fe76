"""The log of a run as a picture: one panel for values of the same kind, over the steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cosmos_core.utils.figures import new_page, plain_style, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Floats = npt.NDArray[np.float64]
Records = Sequence[Mapping[str, Any]]

COLUMNS = 3
WIDTH, HEIGHT, TITLE = 460, 300, 40  # of a panel and of the title, in pixels
MOST = 1000  # points drawn per line: a panel has fewer pixels
LONG = 100  # points of a noisy line from which on a mean is drawn over it
WINDOW = 1 / 50  # of a line, for the mean
FEW = 50  # lines of at most so many points have markers
COLOURS = 256  # of the file


class Series(NamedTuple):
    """Values (N,) by step (N,), NaN where the log has null; `dashed` for a student."""

    name: str
    steps: Floats
    values: Floats
    dashed: bool = False


class Panel(NamedTuple):
    """Lines on the same axes: `series` of the log's fields `names`, after a dot inside another.
    `noisy` values get a mean over them, `wide` ones may range over powers of ten."""

    title: str
    unit: str
    names: tuple[str, ...] = ()
    noisy: bool = False
    wide: bool = False
    factor: float = 1.0
    series: Sequence[Series] = ()


PANELS = (
    Panel("learning rate", "", ("lr",)),
    Panel("logit scales", "", ("logit_scale", "distill_logit_scale")),
    Panel("logit bias", "", ("logit_bias",)),
    Panel("teacher's momentum", "", ("momentum",)),
    Panel("norm of the gradient", "", ("gradient_norm",), noisy=True, wide=True),
    Panel("speed", "images per second", ("timing.samples_per_second",), noisy=True),
    Panel("time spent waiting for batches", "%", ("timing.data_wait",), noisy=True, factor=100),
    Panel("FLOPs of the peak (MFU)", "%", ("timing.mfu",), noisy=True, factor=100),
    Panel("peak memory", "GB", ("timing.memory_bytes", "timing.gpu_reserved_bytes"), factor=1e-9),
    Panel("samples that could not be read", "samples", ("bad_samples",)),
)
OPTIONAL = "bad_samples"  # not drawn while it is zero


def draw_curves(records: Records, title: str, terms: Sequence[str]) -> bytes:
    """Draw the records of a log, at least one, with loss terms of these names; return a PNG."""
    with plain_style():
        return png(lay_out(panels(records, terms), title), colours=COLOURS)


def panels(records: Records, terms: Sequence[str]) -> list[Panel]:
    """Return the panels of a log that have something to show: the loss first, data sets last. Of
    several records, values that never change are left out."""
    steps = [record for record in records if "evaluation" not in record]
    measured = [record for record in records if "evaluation" in record]
    names = ("total", *terms) if len(terms) > 1 else tuple(terms)  # else the total is the term
    loss = Panel("loss before the step", "nats", names, noisy=True)
    planned = [_with_series(panel, steps) for panel in (loss, *PANELS)]
    shown = [panel for panel in planned if panel.title == loss.title or _changes(panel)]
    return [panel for panel in (*shown, *_evaluations(measured)) if panel.series]


def _changes(panel: Panel) -> bool:
    lines = [series.values[np.isfinite(series.values)] for series in panel.series]
    return any(len(series.values) == 1 for series in panel.series) or any(
        line.size and line.min() < line.max() for line in lines
    )


def _with_series(panel: Panel, records: Records) -> Panel:
    steps, shown = np.array([record["step"] for record in records], float), []
    for field in panel.names:
        outer, _, name = field.rpartition(".")
        groups = [record.get(outer, {}) for record in records] if outer else records
        values = np.array([group.get(name) for group in groups], float)
        finite = values[np.isfinite(values)]
        if finite.any() or (finite.size and name != OPTIONAL):
            shown.append(Series(name, steps, values * panel.factor))
    return panel._replace(series=shown)


def _evaluations(records: Records) -> Iterator[Panel]:
    """Yield a panel per data set of `dataset/weights/metric`, and one for values above 1: ranks."""
    steps = np.array([record["step"] for record in records], float)
    found: dict[str, tuple[list[Series], list[Series]]] = {}
    for name in dict.fromkeys(name for record in records for name in record["evaluation"]):
        values = np.array([record["evaluation"].get(name) for record in records], float)
        dataset, weights, metric = name.rsplit("/", 2)
        series = Series(metric, steps, values, dashed=weights == "student")
        found.setdefault(dataset, ([], []))[bool((values > 1).any())].append(series)
    for dataset, (fractions, larger) in found.items():
        yield Panel(dataset, "fraction", series=fractions)
        yield Panel(f"{dataset}, not fractions", "", series=larger)


def lay_out(found: Sequence[Panel], title: str) -> Figure:
    """Return a figure of all panels, the first twice as wide as the others."""
    rows = -(-(len(found) + 1) // COLUMNS)
    page = new_page(COLUMNS * WIDTH, rows * HEIGHT + TITLE)
    page.set_layout_engine("constrained")
    # What a thick line over a pale one means.
    windows = {_window(series) for panel in found if panel.noisy for series in panel.series} - {1}
    meanings = [f"thick: means over {size} lines of the log, pale: every line" for size in windows]
    heading = "; ".join([title, *meanings])
    page.suptitle(heading, x=0.01, ha="left", fontsize="medium", parse_math=False)
    grid = page.add_gridspec(rows, COLUMNS)
    _draw(page.add_subplot(grid[0, :2]), found[0])
    for number, panel in enumerate(found[1:], start=2):
        _draw(page.add_subplot(grid[divmod(number, COLUMNS)]), panel)
    return page


def _window(series: Series) -> int:
    """Return the number of points of a noisy line in a mean; 1 for a short line."""
    count = len(series.steps)
    return 1 + 2 * round(count * WINDOW / 2) if count >= LONG else 1


def _draw(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    colours = {name: f"C{n}" for n, name in enumerate(dict.fromkeys(s.name for s in panel.series))}
    lines: dict[str, Line2D] = {}
    for series in panel.series:
        line = _draw_series(axes, series, colours[series.name], noisy=panel.noisy)
        lines.setdefault(series.name, line)
    if len(panel.series) > 1:
        title = "dashed: student" if any(series.dashed for series in panel.series) else None
        small: dict[str, Any] = {"fontsize": 8, "title_fontsize": 8}
        axes.legend([*lines.values()], [*lines], title=title, framealpha=0.5, **small)
    values = np.concatenate([series.values for series in panel.series])
    positive = values[values > 0]
    if panel.wide and positive.size and positive.max() > 10 * positive.min():
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title(panel.title, fontsize=10, parse_math=False)
    axes.set(xlabel="step", ylabel=panel.unit)
    axes.grid(color="lightgrey", linewidth=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_series(axes: Axes, series: Series, colour: str, *, noisy: bool) -> Line2D:
    """Draw a line; a long noisy one pale, with its mean over it, which is returned."""
    window = _window(series) if noisy else 1
    shown, style = thinned(series), "--" if series.dashed else "-"
    marker = "." if len(series.steps) <= FEW else ""
    (line,) = axes.plot(shown.steps, shown.values, style, color=colour, marker=marker)
    if window > 1:
        line.set(alpha=0.3, linewidth=0.7)
        mean = thinned(series._replace(values=running_mean(series.values, window)))
        (line,) = axes.plot(mean.steps, mean.values, color=colour)
    return line


def running_mean(values: Floats, window: int) -> Floats:
    """Return the mean of finite values in a centred window, which is narrower at the ends."""
    import pandas as pd

    return pd.Series(values).rolling(window, center=True, min_periods=1).mean().to_numpy()


def thinned(series: Series, most: int = MOST) -> Series:
    """Return at most `most` points that look like all: the extremes of every section."""
    count, sections = len(series.values), most // 2
    if count <= most:
        return series
    length = -(-count // sections)
    padded = np.pad(series.values, (0, sections * length - count), constant_values=np.nan)
    rows = padded.reshape(sections, length)
    lowest = np.where(np.isnan(rows), np.inf, rows).argmin(1)
    highest = np.where(np.isnan(rows), -np.inf, rows).argmax(1)
    indices = np.unique(np.stack([lowest, highest]) + length * np.arange(sections))
    indices = indices[indices < count]
    return series._replace(steps=series.steps[indices], values=series.values[indices])
