"""`cosmos-eval reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosmos_eval.cli import display
from cosmos_eval.results.leaderboard import entries_of, reproductions


def reproduce(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", help=f"A folder of results. [default: {display.RESULTS}]"),
    ] = None,
    format: Annotated[display.ReproductionFormat, typer.Option(help="How to print it.")] = "table",
) -> None:
    """Print the released checkpoints' published numbers beside those measured here.

    What was not measured is `unverified`; without any results that is everything.
    """
    from cosmos_eval.results.labels import warnings_of
    from cosmos_eval.results.store import read_stored, result_paths

    usual = display.RESULTS
    nothing_yet = directory is None and not (usual.exists() and any(usual.iterdir()))
    paths = [] if nothing_yet else result_paths(directory or usual)
    results = read_stored(paths)
    display.show_reproductions(reproductions(entries_of(results)), format)
    display.show_notes(warnings_of(results))
