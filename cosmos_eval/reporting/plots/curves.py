"""Curves of trainings: the loss and the evaluations over the steps, one line per training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cosmos_eval.reporting.plots.style import (
    LINE_COLOURS,
    LINE_MARKERS,
    new_figure,
    new_panels,
    shorten_all,
)
from cosmos_eval.reporting.training import LOG, Curve, read_curves
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS_PER_ROW = {1: 1, 2: 3}
_PANEL_HEIGHT = 1.6  # inches
_MOST_PANELS = {1: 5, 2: 15}  # on a page
_LONGEST_NAME = 30  # characters of the name of a training
_LONGEST_NAME_OF_TWO = 18  # characters; longer ones do not fit side by side in one column
_MARKERS_PER_LINE = 8
_LINE_STYLES = ("-", "--", ":", "-.")


def draw_curves(runs: Sequence[Path], columns: int, *, all_panels: bool = False) -> Figure:
    """Draw the loss of trainings, and their evaluations, over the steps.

    The colour says which training it is, with a marker if there are more trainings than colours.
    If a panel has several lines of a training, such as the terms of the loss, their style tells
    them apart.

    Args:
        runs: The folders of trainings, or their files log.jsonl.
        columns: The number of columns of the paper that the figure spans, 1 or 2.
        all_panels: True to draw also the learning rate, the speed and others.

    Raises:
        UsageError: If a folder has no log, or a page has no room for all panels.
    """
    curves_by_panel: dict[str, list[Curve]] = {}
    names = _names_of_runs(runs)
    for name, run in zip(names, runs, strict=True):
        for curve in read_curves(name, _find_log(run)):
            if all_panels or curve.is_result:
                curves_by_panel.setdefault(curve.panel, []).append(curve)
    if not curves_by_panel:
        raise UsageError("nothing to draw: the logs have no finite values")
    if len(curves_by_panel) > _MOST_PANELS[columns]:
        raise UsageError(
            f"{len(curves_by_panel)} panels, and a page has room for {_MOST_PANELS[columns]}: use "
            "--columns 2, or leave out --all-panels"
        )
    n_rows = math.ceil(len(curves_by_panel) / _PANELS_PER_ROW[columns])
    figure = new_figure(columns, n_rows * _PANEL_HEIGHT + 0.15 * len(names))
    all_axes = new_panels(figure, len(curves_by_panel), n_rows)
    styles = {name: _style_of(index) for index, name in enumerate(names)}
    for axes, (title, curves) in zip(all_axes, curves_by_panel.items(), strict=True):
        _draw_panel(axes, title, curves, styles)
    _draw_legend(figure, styles, columns)
    return figure


class _RunStyle(NamedTuple):
    """How the lines of a training are drawn."""

    colour: str
    # Matplotlib's name of the marker, or "" for none.
    marker: str


def _style_of(index: int) -> _RunStyle:
    """Return the style of a training, by its number from 0. The first ones have no marker."""
    round_number, colour_index = divmod(index, len(LINE_COLOURS))
    markers = ("", *LINE_MARKERS)
    return _RunStyle(LINE_COLOURS[colour_index], markers[round_number % len(markers)])


def _find_log(run: Path) -> Path:
    """Return the log of a training's folder. Raises UsageError if there is none."""
    log = run / LOG if run.is_dir() else run
    if not log.is_file():
        raise UsageError(f"{log} does not exist: name the folder of a training")
    return log


def _names_of_runs(runs: Sequence[Path]) -> list[str]:
    """Return the name of each training: the end of its folder's path.

    It has as many folders as the names need to differ.

    Example: "out/clip/run" and "out/cosmos/run" -> "clip/run", "cosmos/run".
    """
    folders = [(run if run.is_dir() else run.parent).resolve() for run in runs]
    n_folders = len(set(folders))
    n_parts = 1
    while len({folder.parts[-n_parts:] for folder in folders}) < n_folders:
        n_parts += 1
    return ["/".join(folder.parts[-n_parts:]) for folder in folders]


def _draw_panel(
    axes: Axes, title: str, curves: Sequence[Curve], styles: Mapping[str, _RunStyle]
) -> None:
    """Draw the curves of a panel, with a legend of line styles if they have several kinds."""
    from matplotlib.ticker import MaxNLocator

    kinds = list(dict.fromkeys(curve.line for curve in curves))
    for curve in curves:
        style = _LINE_STYLES[kinds.index(curve.line) % len(_LINE_STYLES)]
        colour, marker = styles[curve.model]
        if len(curve.steps) == 1:
            marker = marker or "o"  # a single point has no line
        axes.plot(
            curve.steps,
            curve.values,
            style,
            color=colour,
            linewidth=0.9,
            marker=marker,
            markersize=3,
            markevery=max(1, len(curve.steps) // _MARKERS_PER_LINE),
        )
    if len(kinds) > 1:
        for index, kind in enumerate(kinds):
            style = _LINE_STYLES[index % len(_LINE_STYLES)]
            axes.plot([], [], style, color="black", linewidth=0.9, label=kind)
        axes.legend(frameon=False)
    axes.set_title(title)
    axes.set(xlabel="step", ylabel=curves[0].unit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))


def _draw_legend(figure: Figure, styles: Mapping[str, _RunStyle], columns: int) -> None:
    """Name the trainings below the panels, each with its colour and marker.

    Long names in one column of a paper are below each other, since two would be cut.
    """
    from matplotlib.lines import Line2D

    handles = []
    for colour, marker in styles.values():
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=3))
    labels = shorten_all(list(styles), _LONGEST_NAME)
    longest = max(len(label) for label in labels)
    n_columns = 2 if columns == 2 or longest <= _LONGEST_NAME_OF_TWO else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=n_columns, frameon=False)
