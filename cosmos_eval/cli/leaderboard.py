"""`cosmos-eval leaderboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosmos_eval.cli import display
from cosmos_eval.leaderboard import Format, measured, published


def leaderboard(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="A folder of results.")
    ] = display.RESULTS,
    format: Annotated[Format, typer.Option(help="How to print it.")] = "table",
    with_published: Annotated[
        bool, typer.Option("--published", help="Add numbers that others published.")
    ] = False,
) -> None:
    """Print results side by side, one table a protocol family."""
    from cosmos_eval.store import read_results

    entries = measured(read_results(directory))
    display.show_leaderboard(entries + (published() if with_published else []), format)
