"""Curves of trainings: the loss and the evaluations over the steps, one line per training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_eval.reporting.plots.style import LINE_COLOURS, new_figure, new_panels, shorten
from cosmos_eval.reporting.training import LOG, Curve, read_curves
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS_PER_ROW = {1: 1, 2: 3}
_PANEL_HEIGHT = 1.6  # inches
_MOST_PANELS = {1: 5, 2: 15}  # on a page
_LONGEST_NAME = 30  # characters of the name of a training
_LINE_STYLES = ("-", "--", ":", "-.")


def draw_curves(runs: Sequence[Path], columns: int, *, all_panels: bool = False) -> Figure:
    """Draw the loss of trainings, and their evaluations, over the steps.

    The colour says which training it is. If a panel has several lines of a training, such as the
    terms of the loss, their style tells them apart.

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
    colours = {name: LINE_COLOURS[index % len(LINE_COLOURS)] for index, name in enumerate(names)}
    for axes, (title, curves) in zip(all_axes, curves_by_panel.items(), strict=True):
        _draw_panel(axes, title, curves, colours)
    _draw_legend(figure, colours)
    return figure


def _find_log(run: Path) -> Path:
    """Return the log of a training's folder. Raises UsageError if there is none."""
    log = run / LOG if run.is_dir() else run
    if not log.is_file():
        raise UsageError(f"{log} does not exist: name the folder of a training")
    return log


def _names_of_runs(runs: Sequence[Path]) -> list[str]:
    """Return the name of each training, which is its folder's name, or its path if names repeat."""
    folders = [run if run.is_dir() else run.parent for run in runs]
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return names


def _draw_panel(axes: Axes, title: str, curves: Sequence[Curve], colours: dict[str, str]) -> None:
    """Draw the curves of a panel, with a legend of line styles if they have several kinds."""
    kinds = list(dict.fromkeys(curve.line for curve in curves))
    for curve in curves:
        style = _LINE_STYLES[kinds.index(curve.line) % len(_LINE_STYLES)]
        axes.plot(curve.steps, curve.values, style, color=colours[curve.model], linewidth=0.9)
    if len(kinds) > 1:
        for index, kind in enumerate(kinds):
            style = _LINE_STYLES[index % len(_LINE_STYLES)]
            axes.plot([], [], style, color="black", linewidth=0.9, label=kind)
        axes.legend(frameon=False)
    axes.set_title(title)
    axes.set(xlabel="step", ylabel=curves[0].unit)


def _draw_legend(figure: Figure, colours: dict[str, str]) -> None:
    """Name the trainings below the panels, each with its colour."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour) for colour in colours.values()]
    labels = [shorten(name, _LONGEST_NAME) for name in colours]
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
