"""A run's log taken apart: which figures go into which panel, and what of them is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cosmos_core.plots import new_page, plain_style, png
from cosmos_core.types import LossTerms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Floats = npt.NDArray[np.float64]
Records = Sequence[Mapping[str, Any]]


class Series(NamedTuple):
    """Figures (N,) by step (N,), NaN where the log has null. A `dashed` one is a student's."""

    name: str
    steps: Floats
    values: Floats
    dashed: bool = False


class Panel(NamedTuple):
    """What is drawn on the same axes. `noisy` figures differ from one line of the log to the next,
    so that a mean says more; those of `wide` may range over powers of ten."""

    title: str
    unit: str
    series: list[Series]
    noisy: bool = False
    wide: bool = False


class Plan(NamedTuple):
    """A panel before its figures are looked up: `names` are fields of the log, dots go deeper."""

    title: str
    unit: str
    names: tuple[str, ...]
    noisy: bool = False
    wide: bool = False
    factor: float = 1.0


LOSS = Plan("loss before the step", "nats", ("total", *LossTerms._fields), noisy=True)
PLANS = (
    Plan("learning rate", "", ("lr",)),
    Plan("logit scales", "", ("logit_scale", "distill_logit_scale")),
    Plan("teacher's momentum", "", ("momentum",)),
    Plan("norm of the gradient", "", ("gradient_norm",), noisy=True, wide=True),
    Plan("speed", "images a second", ("timing.samples_per_second",), noisy=True),
    Plan("time spent waiting for batches", "%", ("timing.data_wait",), noisy=True, factor=100),
    Plan("peak memory", "GB", ("timing.memory_bytes",), factor=1e-9),
    Plan("samples that could not be read", "samples", ("bad_samples",)),
)
OPTIONAL = ("bad_samples", *LossTerms._fields)  # not drawn while they are zero


def panels(records: Records) -> list[Panel]:
    """The panels of a run's log, the loss first, then one or two for each data set evaluated on.

    A panel without any figure is left out.
    """
    steps = [record for record in records if "evaluation" not in record]
    measured = [record for record in records if "evaluation" in record]
    planned = [_panel(plan, steps) for plan in (LOSS, *PLANS)]
    return [panel for panel in (*planned, *_evaluations(measured)) if panel.series]


def running_mean(values: Floats, window: int) -> Floats:
    """The mean of what is finite in a window around each place, of odd width, narrower at the
    ends."""
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(values))
    first = np.maximum(places - window // 2, 0)
    end = np.minimum(places + window // 2 + 1, len(values))
    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing is finite
        return (sums[end] - sums[first]) / (counts[end] - counts[first])


def thinned(series: Series, most: int) -> Series:
    """At most `most` figures that look like all of them: the least and the largest of every
    stretch, so that no peak is lost."""
    count, stretches = len(series.values), most // 2
    if count <= most:
        return series
    length = -(-count // stretches)
    padded = np.pad(series.values, (0, stretches * length - count), constant_values=np.nan)
    rows = padded.reshape(stretches, length)
    lowest = np.where(np.isnan(rows), np.inf, rows).argmin(1)
    highest = np.where(np.isnan(rows), -np.inf, rows).argmax(1)
    places = np.unique(np.stack([lowest, highest]) + length * np.arange(stretches))
    places = places[places < count]
    return series._replace(steps=series.steps[places], values=series.values[places])


def _panel(plan: Plan, records: Records) -> Panel:
    found = [_series(name, records, plan.factor) for name in plan.names]
    shown = [one for one in found if _is_shown(one)]
    terms = [one for one in shown if one.name != "total"]
    series = shown if len(terms) > 1 else terms  # the total of one term is that term
    return Panel(plan.title, plan.unit, series, plan.noisy, plan.wide)


def _series(name: str, records: Records, factor: float) -> Series:
    outer, _, inner = name.rpartition(".")
    groups = [record.get(outer, {}) for record in records] if outer else records
    figures = [group.get(inner) for group in groups]
    steps = np.array([record["step"] for record in records], float)
    return Series(inner, steps, np.array(figures, float) * factor)


def _is_shown(series: Series) -> bool:
    finite = series.values[np.isfinite(series.values)]
    return finite.size > 0 and (series.name not in OPTIONAL or bool(finite.any()))


def _evaluations(records: Records) -> Iterator[Panel]:
    """A panel a data set of `dataset/weights/metric`. What exceeds 1, as ranks do, is apart."""
    names = list(dict.fromkeys(name for record in records for name in record["evaluation"]))
    for dataset in dict.fromkeys(name.rsplit("/", 2)[0] for name in names):
        series = [_metric(name, records) for name in names if name.rsplit("/", 2)[0] == dataset]
        fractions = [one for one in series if not (one.values > 1).any()]
        larger = [one for one in series if (one.values > 1).any()]
        yield Panel(dataset, "fraction", fractions)
        yield Panel(f"{dataset}, not fractions", "", larger)


def _metric(name: str, records: Records) -> Series:
    found = [(r["step"], r["evaluation"][name]) for r in records if name in r["evaluation"]]
    steps, values = np.array(found, float).T
    _, weights, metric = name.rsplit("/", 2)
    return Series(metric, steps, values, dashed=weights == "student")


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
