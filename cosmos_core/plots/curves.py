"""Draw the log of a training run: one panel for values of the same kind, over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cosmos_core.utils.figures import figure_to_png, new_page, plain_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Floats = npt.NDArray[np.float64]
Records = Sequence[Mapping[str, Any]]

COLUMNS = 3
PANEL_WIDTH, PANEL_HEIGHT, TITLE_HEIGHT = 460, 300, 40  # in pixels
MAX_POINTS = 1000  # the largest number of points that are drawn of a line; a panel has fewer pixels
MIN_POINTS_FOR_MEAN = 100  # noisy lines of this length or more have a running mean over them
WINDOW_FRACTION = 1 / 50  # the window of a running mean, as a fraction of a line's points
MAX_POINTS_WITH_MARKERS = 50  # lines of at most this number of points have markers
COLOURS = 256  # the number of colours in the file


class Series(NamedTuple):
    """A line of values over the steps of a training."""

    name: str
    steps: Floats  # (N,)
    values: Floats  # (N,); NaN if the log has null
    dashed: bool = False  # whether the line is for the student's weights


class Panel(NamedTuple):
    """A panel of the picture: lines on the same axes."""

    title: str
    unit: str
    # The fields of the log that are drawn. `timing.mfu` is the field "mfu" inside of "timing".
    names: tuple[str, ...] = ()
    # Whether a running mean is drawn over long lines.
    noisy: bool = False
    # Whether values may range over powers of ten, so that the axis may be logarithmic.
    wide: bool = False
    # The factor by which values are multiplied.
    factor: float = 1.0
    # The lines; none before the log is read.
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
    """Draw the log of a training run as curves over the steps, and return a PNG file.

    Args:
        records: The records of the log, one or more, such as {"step": 10, "lr": 0.001, ...}.
        title: The title of the picture.
        terms: The names of the loss terms.
    """
    with plain_style():
        return figure_to_png(lay_out(panels(records, terms), title), colours=COLOURS)


def panels(records: Records, terms: Sequence[str]) -> list[Panel]:
    """Return the panels of a log: the loss first, then the PANELS, and data sets last.

    Panels without values are left out. Panels whose values never change over several records are
    left out too, except the loss.

    Args:
        records: The records of the log. A record of an evaluation has the key "evaluation".
        terms: The names of the loss terms.
    """
    step_records = [record for record in records if "evaluation" not in record]
    evaluation_records = [record for record in records if "evaluation" in record]
    # If there is a single term, the total is the same.
    loss_names = ("total", *terms) if len(terms) > 1 else tuple(terms)
    loss_panel = Panel("loss before the step", "nats", loss_names, noisy=True)
    all_panels = [_with_series(loss_panel, step_records)]
    for panel in PANELS:
        panel_with_series = _with_series(panel, step_records)
        if any(_is_informative(series) for series in panel_with_series.series):
            all_panels.append(panel_with_series)
    all_panels += _evaluation_panels(evaluation_records)
    # A panel without lines is left out.
    return [panel for panel in all_panels if panel.series]


def _is_informative(series: Series) -> bool:
    """Return whether a line has different values, or only one point."""
    if len(series.values) == 1:
        return True
    finite_values = series.values[np.isfinite(series.values)]
    return finite_values.size > 0 and bool(finite_values.min() < finite_values.max())


def _with_series(panel: Panel, records: Records) -> Panel:
    """Return a panel with a line for each of its fields that has finite values in the log.

    Args:
        panel: The panel without lines, which names the fields, such as "lr" and "timing.mfu".
        records: Records of steps, such as {"step": 10, "lr": 0.001, "timing": {"mfu": 0.4}}.
    """
    steps = np.array([record["step"] for record in records], float)
    all_series = []
    for field in panel.names:
        # "timing.mfu" is the value "mfu" of the section "timing", and "lr" has no section.
        section, _, name = field.rpartition(".")
        logged_values = []
        for record in records:
            value_by_name = record.get(section, {}) if section else record
            logged_values.append(value_by_name.get(name))
        values = np.array(logged_values, float)
        finite_values = values[np.isfinite(values)]
        is_drawn = finite_values.any() if name == OPTIONAL else finite_values.size > 0
        if is_drawn:
            all_series.append(Series(name, steps, values * panel.factor))
    return panel._replace(series=all_series)


def _evaluation_panels(records: Records) -> list[Panel]:
    """Return two panels for each data set on which the model was evaluated during the training.

    The first panel has metrics that are fractions, such as recalls. The second panel has metrics
    that exceed 1, such as ranks. Either may have no lines.

    Args:
        records: Records of evaluations, such as {"step": 400, "evaluation":
            {"scenes-cls/student/acc1": 0.7}}. A name states the data set, the weights and the
            metric.
    """
    steps = np.array([record["step"] for record in records], float)
    fraction_series_by_dataset: dict[str, list[Series]] = {}
    other_series_by_dataset: dict[str, list[Series]] = {}
    # All names, each once, in their order.
    names = dict.fromkeys(name for record in records for name in record["evaluation"])
    for name in names:
        # A metric that is missing in a record becomes NaN.
        values = np.array([record["evaluation"].get(name) for record in records], float)
        dataset, weights, metric = name.rsplit("/", 2)
        series = Series(metric, steps, values, dashed=weights == "student")
        fraction_series = fraction_series_by_dataset.setdefault(dataset, [])
        other_series = other_series_by_dataset.setdefault(dataset, [])
        has_fractions = not (values > 1).any()
        if has_fractions:
            fraction_series.append(series)
        else:
            other_series.append(series)

    dataset_panels = []
    for dataset, fraction_series in fraction_series_by_dataset.items():
        other_series = other_series_by_dataset[dataset]
        dataset_panels.append(Panel(dataset, "fraction", series=fraction_series))
        dataset_panels.append(Panel(f"{dataset}, not fractions", "", series=other_series))
    return dataset_panels


def lay_out(all_panels: Sequence[Panel], title: str) -> Figure:
    """Return a figure with all panels in a grid of COLUMNS columns, below a title.

    The first panel, the loss, takes two columns.

    Args:
        all_panels: The panels, in their order.
        title: The title. A text is added to it that says what thick and pale lines are.
    """
    # The first panel takes two places.
    n_rows = math.ceil((len(all_panels) + 1) / COLUMNS)
    page = new_page(COLUMNS * PANEL_WIDTH, n_rows * PANEL_HEIGHT + TITLE_HEIGHT)
    page.set_layout_engine("constrained")

    window_sizes: set[int] = set()
    for panel in all_panels:
        if panel.noisy:
            window_sizes.update(_window_size(series) for series in panel.series)
    window_sizes.discard(1)  # stands for no running mean
    headings = [title]
    for size in window_sizes:
        headings.append(f"thick: means over {size} lines of the log, pale: every line")
    page.suptitle("; ".join(headings), x=0.01, ha="left", fontsize="medium", parse_math=False)

    grid = page.add_gridspec(n_rows, COLUMNS)
    _draw_panel(page.add_subplot(grid[0, :2]), all_panels[0])
    # The first two places are taken, so the next panel is at place 2, which is row 0, column 2.
    for place, panel in enumerate(all_panels[1:], start=2):
        row, column = divmod(place, COLUMNS)
        _draw_panel(page.add_subplot(grid[row, column]), panel)
    return page


def _window_size(series: Series) -> int:
    """Return the number of points in the window of a line's running mean, which is odd.

    It is a fiftieth of the points: 21 for a line of 1000 points. It is 1, which means no running
    mean, for lines of fewer than MIN_POINTS_FOR_MEAN points.
    """
    n_points = len(series.steps)
    if n_points < MIN_POINTS_FOR_MEAN:
        return 1
    points_per_side = round(n_points * WINDOW_FRACTION / 2)
    return 1 + 2 * points_per_side


def _draw_panel(axes: Axes, panel: Panel) -> None:
    """Draw the lines of a panel, its legend and its axes.

    Lines of the same name have the same colour.

    Args:
        axes: The empty axes.
        panel: The panel, which has at least one line.
    """
    from matplotlib.ticker import MaxNLocator

    # Draw the lines, and a legend if there are several.
    names = dict.fromkeys(series.name for series in panel.series)
    colour_by_name = {name: f"C{number}" for number, name in enumerate(names)}
    line_by_name: dict[str, Line2D] = {}
    for series in panel.series:
        line = _draw_series(axes, series, colour_by_name[series.name], noisy=panel.noisy)
        line_by_name.setdefault(series.name, line)
    if len(panel.series) > 1:
        has_dashed_lines = any(series.dashed for series in panel.series)
        axes.legend(
            [*line_by_name.values()],
            [*line_by_name],
            title="dashed: student" if has_dashed_lines else None,
            framealpha=0.5,
            fontsize=8,
            title_fontsize=8,
        )

    # Choose the scale of the axis of values.
    values = np.concatenate([series.values for series in panel.series])
    positive_values = values[values > 0]
    is_logarithmic = (
        panel.wide
        and positive_values.size > 0
        and positive_values.max() > 10 * positive_values.min()
    )
    if is_logarithmic:
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
    """Draw a line, and return the Matplotlib line that stands for it in the legend.

    Args:
        axes: The axes to draw on.
        series: The values and their steps.
        colour: Matplotlib's name of a colour, such as "C0".
        noisy: True if a long line is drawn pale, with a thick running mean over it. Then the
            running mean is returned.
    """
    # A picture of some hundred pixels cannot show more points than `thinned` leaves.
    points = thinned(series)
    style = "--" if series.dashed else "-"
    marker = "." if len(series.steps) <= MAX_POINTS_WITH_MARKERS else ""
    (line,) = axes.plot(points.steps, points.values, style, color=colour, marker=marker)
    window_size = _window_size(series) if noisy else 1
    if window_size == 1:
        return line

    # Make the line pale, and draw its running mean over it.
    line.set(alpha=0.3, linewidth=0.7)
    mean_values = running_mean(series.values, window_size)
    mean_points = thinned(series._replace(values=mean_values))
    (mean_line,) = axes.plot(mean_points.steps, mean_points.values, color=colour)
    return mean_line


def running_mean(values: Floats, window: int) -> Floats:
    """Return the running mean (N,) of values (N,), in which NaN is skipped.

    Args:
        values: The values.
        window: The number of points in the window, which is centred, and narrower at the ends.

    Example::

        [1, 2, 6] with a window of 3 points -> [1.5, 3, 4]
    """
    import pandas as pd

    return pd.Series(values).rolling(window, center=True, min_periods=1).mean().to_numpy()


def thinned(series: Series, most: int = MAX_POINTS) -> Series:
    """Return a line of at most `most` points that looks like the whole line.

    The line is cut into `most // 2` sections of equal length. The lowest and the highest point of
    each section stay.

    Args:
        series: The values and their steps.
        most: The largest number of points.

    Example:
        With `most` 4, the line has two sections: [1, 5, 3 | 2, 0, 2] becomes [1, 5, 2, 0].
    """
    n_points = len(series.values)
    if n_points <= most:
        return series

    # Cut the line into sections, after adding NaN until they have the same length.
    n_sections = most // 2
    section_length = math.ceil(n_points / n_sections)
    n_padding = n_sections * section_length - n_points
    padded_values = np.pad(series.values, (0, n_padding), constant_values=np.nan)
    sections = padded_values.reshape(n_sections, section_length)

    # Find the lowest and the highest point inside of each section, and their indices in the line.
    lowest = np.where(np.isnan(sections), np.inf, sections).argmin(1)
    highest = np.where(np.isnan(sections), -np.inf, sections).argmax(1)
    section_starts = section_length * np.arange(n_sections)
    indices = np.unique(np.stack([lowest, highest]) + section_starts)
    # In a section that is only padding, the index lies behind the end of the line.
    indices = indices[indices < n_points]
    return series._replace(steps=series.steps[indices], values=series.values[indices])
