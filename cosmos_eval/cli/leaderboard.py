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
    from cosmos_eval.results.labels import warnings_of
    from cosmos_eval.results.leaderboard.entries import entries_of, published
    from cosmos_eval.results.leaderboard.ranking import find_ties
    from cosmos_eval.results.leaderboard.terminal import to_tables
    from cosmos_eval.results.leaderboard.writers import WRITERS
    from cosmos_eval.results.store import read_stored, result_paths

    results = read_stored(result_paths(directory))
    entries = [*entries_of(results), *(published() if with_published else ())]
    found = find_ties(entries, ties)
    if format == "table":
        print_tables(to_tables(entries, console().width, found))
    else:
        sys.stdout.write(WRITERS[format](entries, found))
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
    """Print published numbers beside those measured here.

    The numbers are those of the released checkpoints. What was not measured is `unverified`;
    without any results that is everything.
    """
    from cosmos_eval.results.labels import warnings_of
    from cosmos_eval.results.leaderboard import reproduce as reproduction
    from cosmos_eval.results.leaderboard.entries import entries_of
    from cosmos_eval.results.store import read_stored, result_paths

    has_results = directory is not None or (RESULTS.exists() and any(RESULTS.iterdir()))
    results = read_stored(result_paths(directory or RESULTS) if has_results else [])
    numbers = reproduction.reproductions(entries_of(results))
    if format == "json":
        sys.stdout.write(reproduction.to_json(numbers))
    elif format == "md":
        sys.stdout.write(reproduction.to_markdown(numbers))
    else:
        print_tables(reproduction.to_tables(numbers, console().width))
    print_notes(warnings_of(results))
