"""`cosmos-eval leaderboard` and `cosmos-eval reproduce`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from cosmos_eval.cli import options
from cosmos_eval.cli.output import console, print_notes, print_tables
from cosmos_eval.results import RESULTS


def leaderboard(
    directory: options.ResultFolder = RESULTS,
    format: Annotated[
        Literal["table", "md", "csv", "tex", "html", "json"],
        typer.Option(help="Form of the output."),
    ] = "table",
    with_published: Annotated[
        bool, typer.Option("--published", help="Add numbers that others published.")
    ] = False,
    ties: Annotated[
        Literal["auto", "paired", "intervals"],
        typer.Option(
            help="How models are compared with the best: by paired differences of their samples, "
            "or by whether intervals overlap. auto: by samples where that is quick."
        ),
    ] = "auto",
) -> None:
    """Print results side by side, one table per protocol family."""
    from cosmos_eval.results import leaderboard as board
    from cosmos_eval.results.labels import warnings_of
    from cosmos_eval.results.store import read_samples, read_stored, result_paths

    results = read_stored(result_paths(directory))
    paths = {id(one.row): one.path for one in results}
    entries = [*board.entries_of(results), *(board.published() if with_published else ())]
    found = board.find_ties(entries, lambda row: read_samples(paths[id(row)]), ties)
    if format == "table":
        print_tables(board.to_tables(entries, console().width, found))
    else:
        sys.stdout.write(board.WRITERS[format](entries, found))
    if format in ("csv", "json"):
        # The other forms have the warnings below their tables.
        print_notes(warnings_of(results))


def reproduce(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help=f"A folder of results. [default: {RESULTS}]"),
    ] = None,
    format: Annotated[
        Literal["table", "md", "json"], typer.Option(help="Form of the output.")
    ] = "table",
) -> None:
    """Print the released checkpoints' published numbers beside those measured here.

    What was not measured is `unverified`; without any results that is everything.
    """
    from cosmos_eval.results import leaderboard as board
    from cosmos_eval.results.labels import warnings_of
    from cosmos_eval.results.store import read_stored, result_paths

    has_results = directory is not None or (RESULTS.exists() and any(RESULTS.iterdir()))
    results = read_stored(result_paths(directory or RESULTS) if has_results else [])
    numbers = board.reproductions(board.entries_of(results))
    if format == "json":
        sys.stdout.write(board.reproductions_to_json(numbers))
    elif format == "md":
        sys.stdout.write(board.reproductions_to_markdown(numbers))
    else:
        print_tables(board.reproductions_to_tables(numbers, console().width))
    print_notes(warnings_of(results))
