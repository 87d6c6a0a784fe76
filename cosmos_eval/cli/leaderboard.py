"""`cosmos-eval leaderboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosmos_eval.cli import display
from cosmos_eval.results.leaderboard import Format, TieRule, entries_of, find_ties, published


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
    from cosmos_eval.results.labels import warnings_of
    from cosmos_eval.results.store import read_samples, read_stored, result_paths

    results = read_stored(result_paths(directory))
    path_of = {id(one.row): one.path for one in results}
    entries = [*entries_of(results), *(published() if with_published else ())]
    told = find_ties(entries, lambda row: read_samples(path_of[id(row)]), ties)
    display.show_leaderboard(entries, told, format)
    if format in ("csv", "json"):
        # The other forms say it below their tables.
        display.show_notes(warnings_of(results))
