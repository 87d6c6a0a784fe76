"""Draw the log of a run: one panel for values of the same kind, over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
WIDTH, HEIGHT, TITLE = 460, 300, 40  # width and height of a panel, height of the title, in pixels
MOST = 1000  # the largest number of points that are drawn of a line; a panel has fewer pixels
LONG = 100  # noisy lines of at least this number of points have a running mean drawn over them
WINDOW = 1 / 50  # the window of a running mean, as a fraction of a line's points
FEW = 50  # lines of at most this number of points have markers
COLOURS = 256  # the number of colours in the file


class Series(NamedTuple):
    """A line of values over steps."""

    name: str
    steps: Floats  # (N,)
    values: Floats  # (N,); NaN if the log has null
    dashed: bool = False  # for the student


class Panel(NamedTuple):
    """Lines on the same axes."""

    title: str
    unit: str
    # Fields of the log; those inside of another field have a name with a dot.
    names: tuple[str, ...] = ()
    # Whether a mean is drawn over long lines.
    noisy: bool = False
    # Whether values may range over powers of ten.
    wide: bool = False
    # Values are multiplied by it.
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
OPTIONAL = "bad_samples"  # is not drawn if it is always zero


def draw_curves(records: Records, title: str, terms: Sequence[str]) -> bytes:
    """Draw the records of a log, at least one, with loss terms of these names; return a PNG."""
    with plain_style():
        return png(lay_out(panels(records, terms), title), colours=COLOURS)


def panels(records: Records, terms: Sequence[str]) -> list[Panel]:
    """Return the panels of a log that have something to show: the loss first, data sets last.

    Panels whose values never change over several records are left out, except the loss.
    """
    step_records = [record for record in records if "evaluation" not in record]
    evaluation_records = [record for record in records if "evaluation" in record]
    # With a single term the total is the same.
    loss_names = ("total", *terms) if len(terms) > 1 else tuple(terms)
    loss_panel = Panel("loss before the step", "nats", loss_names, noisy=True)
    all_panels = [_with_series(loss_panel, step_records)]
    for panel in PANELS:
        panel_with_series = _with_series(panel, step_records)
        if _is_informative(panel_with_series):
            all_panels.append(panel_with_series)
    all_panels += _evaluation_panels(evaluation_records)
    return [panel for panel in all_panels if panel.series]


def _is_informative(panel: Panel) -> bool:
    """Return whether a line of a panel has different values, or only one point."""
    for series in panel.series:
        if len(series.values) == 1:
            return True
        finite_values = series.values[np.isfinite(series.values)]
        if finite_values.size and finite_values.min() < finite_values.max():
            return True
    return False


def _with_series(panel: Panel, records: Records) -> Panel:
    """Return a panel with the lines of its fields that have finite values."""
    steps = np.array([record["step"] for record in records], float)
    all_series = []
    for field in panel.names:
        section, _, name = field.rpartition(".")
        numbers = []
        for record in records:
            values_by_name = record.get(section, {}) if section else record
            numbers.append(values_by_name.get(name))
        values = np.array(numbers, float)
        finite_values = values[np.isfinite(values)]
        is_drawn = finite_values.any() if name == OPTIONAL else finite_values.size > 0
        if is_drawn:
            all_series.append(Series(name, steps, values * panel.factor))
    return panel._replace(series=all_series)


def _evaluation_panels(records: Records) -> list[Panel]:
    """Return two panels per data set, for fractions, and for metrics that exceed 1, such as ranks.

    The names of metrics in the log are `dataset/weights/metric`.
    """
    steps = np.array([record["step"] for record in records], float)
    fraction_series_by_dataset: dict[str, list[Series]] = {}
    other_series_by_dataset: dict[str, list[Series]] = {}
    names = dict.fromkeys(name for record in records for name in record["evaluation"])
    for name in names:
        values = np.array([record["evaluation"].get(name) for record in records], float)
        dataset, weights, metric = name.rsplit("/", 2)
        series = Series(metric, steps, values, dashed=weights == "student")
        fraction_series = fraction_series_by_dataset.setdefault(dataset, [])
        other_series = other_series_by_dataset.setdefault(dataset, [])
        if (values > 1).any():
            other_series.append(series)
        else:
            fraction_series.append(series)
    dataset_panels = []
    for dataset, fraction_series in fraction_series_by_dataset.items():
        other_series = other_series_by_dataset[dataset]
        dataset_panels.append(Panel(dataset, "fraction", series=fraction_series))
        dataset_panels.append(Panel(f"{dataset}, not fractions", "", series=other_series))
    return dataset_panels


def lay_out(all_panels: Sequence[Panel], title: str) -> Figure:
    """Return a figure of all panels, the first twice as wide as the others."""
    rows = math.ceil((len(all_panels) + 1) / COLUMNS)
    page = new_page(COLUMNS * WIDTH, rows * HEIGHT + TITLE)
    page.set_layout_engine("constrained")
    heading = "; ".join([title, *_meanings_of_lines(all_panels)])
    page.suptitle(heading, x=0.01, ha="left", fontsize="medium", parse_math=False)
    grid = page.add_gridspec(rows, COLUMNS)
    _draw(page.add_subplot(grid[0, :2]), all_panels[0])
    for number, panel in enumerate(all_panels[1:], start=2):
        row, column = divmod(number, COLUMNS)
        _draw(page.add_subplot(grid[row, column]), panel)
    return page


def _meanings_of_lines(all_panels: Sequence[Panel]) -> list[str]:
    """Return the meanings of thick and pale lines, if there are any."""
    windows: set[int] = set()
    for panel in all_panels:
        if panel.noisy:
            windows.update(_window(series) for series in panel.series)
    windows.discard(1)
    return [f"thick: means over {size} lines of the log, pale: every line" for size in windows]


def _window(series: Series) -> int:
    """Return the number of points in the window of a line's running mean, an odd number.

    It is 1, which means no running mean, for lines of fewer than LONG points.
    """
    n_points = len(series.steps)
    if n_points < LONG:
        return 1
    points_per_side = round(n_points * WINDOW / 2)
    return 1 + 2 * points_per_side


def _draw(axes: Axes, panel: Panel) -> None:
    """Draw a panel; lines of the same name have the same colour."""
    from matplotlib.ticker import MaxNLocator

    names = dict.fromkeys(series.name for series in panel.series)
    colours = {name: f"C{number}" for number, name in enumerate(names)}
    lines: dict[str, Line2D] = {}
    for series in panel.series:
        line = _draw_series(axes, series, colours[series.name], noisy=panel.noisy)
        lines.setdefault(series.name, line)
    if len(panel.series) > 1:
        title = "dashed: student" if any(series.dashed for series in panel.series) else None
        axes.legend(
            [*lines.values()],
            [*lines],
            title=title,
            framealpha=0.5,
            fontsize=8,
            title_fontsize=8,
        )
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
    """Draw a line and return it; a long noisy line is pale, and its mean over it is returned."""
    window = _window(series) if noisy else 1
    points = thinned(series)
    style = "--" if series.dashed else "-"
    marker = "." if len(series.steps) <= FEW else ""
    (line,) = axes.plot(points.steps, points.values, style, color=colour, marker=marker)
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
    """Return a line of at most `most` points that looks like the whole line.

    The line is cut into `most // 2` sections of equal length. The lowest and the highest point of
    each section are returned.
    """
    n_points = len(series.values)
    if n_points <= most:
        return series
    n_sections = most // 2
    section_length = math.ceil(n_points / n_sections)
    n_padding = n_sections * section_length - n_points
    padded_values = np.pad(series.values, (0, n_padding), constant_values=np.nan)
    sections = padded_values.reshape(n_sections, section_length)
    lowest = np.where(np.isnan(sections), np.inf, sections).argmin(1)
    highest = np.where(np.isnan(sections), -np.inf, sections).argmax(1)
    section_starts = section_length * np.arange(n_sections)
    indices = np.unique(np.stack([lowest, highest]) + section_starts)
    # A section that has only padding points behind the line.
    indices = indices[indices < n_points]
    return series._replace(steps=series.steps[indices], values=series.values[indices])
