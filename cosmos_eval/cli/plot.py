"""`cosmos-eval plot`: figures for papers, as PDF, SVG or PNG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, ParamSpec

import typer
from typer import Argument

from cosmos_eval.cli import options
from cosmos_eval.cli.completion import model_names, suite_names
from cosmos_eval.cli.options import (
    CONTENT,
    METHODS,
    Command,
    File,
    Texts,
    flag,
    option,
    output_file,
)
from cosmos_eval.cli.output import print_left_out, print_notes, print_written
from cosmos_eval.results import RESULTS
from cosmos_eval.results.table import NamePatterns, split_patterns
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cosmos_eval.results.leaderboard.entries import Entry

Arguments = ParamSpec("Arguments")

plot = typer.Typer(
    cls=options.CommandGroup,
    help="Draw figures for papers: results, differences, suites, costs, training curves.",
)

# The options that show the results which a figure leaves out.
_WAY_TO_SHOW = "--protocols '*' --models '*'"

_Output = Annotated[Path, output_file("FIG.pdf|svg|png", "The figure to write.")]
_Columns = Annotated[
    int, option("1|2", "Width of the figure in columns of the paper.", min=1, max=2)
]
_Models = Annotated[Texts, option("NAME,...", "Only these; `*` is any text.", CONTENT)]
_Datasets = Annotated[Texts, option("NAME,...", "Only these data sets.", CONTENT)]
_Protocols = Annotated[Texts, option("NAME,...", "Only these protocols.", CONTENT)]


def _write(
    output: Path,
    draw: Callable[Arguments, Figure],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> None:
    """Call a function that draws a figure, and write the figure with the fonts of a paper.

    Args:
        output: The file to write.
        draw: The function, which returns the figure.
        *args: The arguments of the function.
        **kwargs: Its keyword arguments.

    Raises:
        UsageError: If the name of the file does not end with a format of figures.
    """
    from cosmos_eval.reporting.plots.style import paper_style, require_figure_name, write_figure

    require_figure_name(output)
    with paper_style():
        write_figure(draw(*args, **kwargs), output)
    print_written(output)


def _read_entries(
    directory: Path, patterns: NamePatterns, *, with_published: bool = False
) -> tuple[list[Entry], int]:
    """Read the results in a folder, and return the entries to draw and how many are left out.

    Args:
        directory: The folder of results.
        patterns: The models, data sets, protocols and metrics to draw.
        with_published: True if numbers that others published are added.
    """
    from cosmos_eval.results.checked import read_checked
    from cosmos_eval.results.leaderboard.entries import entries_of, published_beside
    from cosmos_eval.results.leaderboard.task_tables import headline_entries, select_entries
    from cosmos_eval.results.store import result_paths

    results = read_checked(result_paths(directory))
    entries = entries_of(results)
    if with_published:
        entries += published_beside(entries)
    # As in tables: variants of a protocol, and other settings, only if they are named.
    selected_entries = select_entries(entries, patterns)
    shown_entries = headline_entries(
        selected_entries,
        with_variants=len(patterns.protocols) > 0,
        with_other_settings=len(patterns.models) > 0,
    )
    return shown_entries, len(selected_entries) - len(shown_entries)


@plot.command(cls=Command)
def leaderboard(
    output: _Output,
    directory: options.ResultFolder = RESULTS,
    columns: _Columns = 1,
    with_published: options.Published = False,
    models: _Models = None,
    datasets: _Datasets = None,
    protocols: _Protocols = None,
    metrics: options.Metrics = None,
) -> None:
    """Draw the primary metrics of models as bars with 95% intervals."""
    from cosmos_eval.reporting.plots.leaderboard import draw_leaderboard

    patterns = NamePatterns.split(
        models=models, datasets=datasets, protocols=protocols, metrics=metrics
    )
    entries, n_left_out = _read_entries(directory, patterns, with_published=with_published)
    _write(output, draw_leaderboard, entries, columns)
    print_left_out(n_left_out, _WAY_TO_SHOW)


@plot.command(cls=Command)
def compare(
    a: Annotated[Path, Argument(metavar="A", help="A result, or a folder of them.")],
    output: _Output,
    b: Annotated[File, Argument(metavar="B", help="Another one. Default: the folder A.")] = None,
    model: Annotated[
        Texts,
        option("SPEC", "Model of a folder; twice: A's, then B's.", autocompletion=model_names),
    ] = None,
    group: Annotated[Texts, option("NAME", "Twice: the trainings of A, and of B.", METHODS)] = None,
    same_seeds: Annotated[bool, flag("--same-seeds", "Pair trainings by seed.", METHODS)] = False,
    columns: _Columns = 1,
    all_metrics: Annotated[
        bool, flag("--all-metrics", "Draw all metrics, not only the primary ones.", CONTENT)
    ] = False,
) -> None:
    """Draw the paired differences of two models or methods with their 95% intervals."""
    from cosmos_eval.reporting.plots.comparison import draw_comparison
    from cosmos_eval.results.sides import read_comparison

    if same_seeds and not group:
        raise UsageError("--same-seeds needs --group, given twice")
    comparison = read_comparison(
        a, b, models=model or (), trainings=group or (), same_seeds=same_seeds
    )
    _write(output, draw_comparison, comparison, columns, all_metrics=all_metrics)


@plot.command(cls=Command)
def suite(
    output: _Output,
    suite: Annotated[str, option("NAME|FILE", "A suite of data sets.", autocompletion=suite_names)],
    directory: options.ResultFolder = RESULTS,
    columns: _Columns = 1,
    with_published: options.Published = False,
    groups: Annotated[
        bool, flag("--groups", "Means over the seeds of a training.", CONTENT)
    ] = False,
    models: _Models = None,
) -> None:
    """Draw the means of models over a suite as bars with 95% intervals."""
    from cosmos_eval.cli.results import read_results
    from cosmos_eval.reporting.plots.suite import draw_suite
    from cosmos_eval.results.leaderboard.entries import entries_of
    from cosmos_eval.results.leaderboard.suite import score_models
    from cosmos_eval.runner.suites import read_score

    entries = entries_of(read_results(directory))
    score = score_models(
        read_score(suite),
        entries,
        with_published=with_published,
        by_group=groups,
        model_patterns=split_patterns(models),
    )
    _write(output, draw_suite, score, columns)


@plot.command(cls=Command)
def scaling(
    output: _Output,
    directory: options.ResultFolder = RESULTS,
    columns: _Columns = 1,
    models: _Models = None,
    datasets: _Datasets = None,
    protocols: _Protocols = None,
    metrics: options.Metrics = None,
    x: Annotated[
        Literal["gflops", "samples", "flops"] | None,
        option(
            "gflops|samples|flops",
            "GFLOPs of an image; or budgets of trainings, if there are four.",
            CONTENT,
            show_default=False,
        ),
    ] = None,
    group: options.ScalingGroups = None,
    hold_out: options.HoldOut = None,
) -> None:
    """Draw metrics against GFLOPs per image, or errors against the budgets of trainings.

    GFLOPs of an image come with the Pareto front, budgets with laws of scale as in `scaling`.
    """
    from cosmos_eval.cli.results import read_results
    from cosmos_eval.reporting.plots.cost import draw_costs
    from cosmos_eval.reporting.plots.laws import draw_laws
    from cosmos_eval.results.labels import result_warnings
    from cosmos_eval.results.laws import interval_notes
    from cosmos_eval.results.scaling import (
        fit_scaling,
        has_ladder,
        make_options,
        select_results,
    )
    from cosmos_eval.results.store import read_samples

    patterns = NamePatterns.split(
        models=models, datasets=datasets, protocols=protocols, metrics=metrics
    )
    chosen_results = select_results(read_results(directory), patterns)
    if x is None:
        x = "samples" if group or hold_out or has_ladder(chosen_results) else "gflops"
    if x == "gflops":
        if group or hold_out:
            raise UsageError("--group and --hold-out need --x samples or --x flops")
        entries, n_left_out = _read_entries(directory, patterns)
        _write(output, draw_costs, entries, columns)
        print_left_out(n_left_out, _WAY_TO_SHOW)
        return
    scaling_options = make_options(
        unit=x, methods=group or (), metrics=metrics or (), hold_out=hold_out
    )
    report = fit_scaling(chosen_results, read_samples, scaling_options)
    _write(output, draw_laws, report.laws, columns)
    print_notes([*result_warnings(chosen_results), *report.notes, *interval_notes(report.laws)])


@plot.command(cls=Command)
def curves(
    runs: Annotated[
        list[Path], Argument(metavar="RUN...", help="Folders that `cosmos-train` wrote.")
    ],
    output: _Output,
    columns: _Columns = 1,
    all_panels: Annotated[
        bool, flag("--all-panels", "Also draw the learning rate, the speed and others.", CONTENT)
    ] = False,
) -> None:
    """Draw the losses and evaluations of trainings over the steps."""
    if not runs:
        raise UsageError("name the folders of one or more trainings")
    from cosmos_eval.reporting.plots.curves import draw_curves

    _write(output, draw_curves, runs, columns, all_panels=all_panels)
