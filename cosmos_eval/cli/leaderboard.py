"""`cosmos-eval leaderboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosmos_eval.cli import display
from cosmos_eval.leaderboard import Format, TieRule, find_ties, measured, published


def leaderboard(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="A folder of results.")
    ] = display.RESULTS,
    format: Annotated[Format, typer.Option(help="How to print it.")] = "table",
    with_published: Annotated[
        bool, typer.Option("--published", help="Add numbers that others published.")
    ] = False,
    ties: Annotated[
        TieRule,
        typer.Option(
            help="What tells models from the best: paired differences of their samples, or whether "
            "their intervals overlap. auto: samples where that is quick."
        ),
    ] = "auto",
) -> None:
    """Print results side by side, one table a protocol family."""
    from cosmos_eval.store import read_result, read_samples, result_paths

    paths = result_paths(directory)
    rows = [read_result(path) for path in paths]
    # The name of a result's samples holds their hash: no other result has it.
    path_of = {row.samples: path for row, path in zip(rows, paths, strict=True)}
    entries = [*measured(rows), *(published() if with_published else ())]
    told = find_ties(entries, lambda row: read_samples(path_of[row.samples]), ties)
    display.show_leaderboard(entries, told, format)
