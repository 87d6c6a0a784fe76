"""`cosmos-eval export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosmos_eval.cli import options
from cosmos_eval.cli.output import print_notes, print_written
from cosmos_eval.results import RESULTS


def export(
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            callback=options.require_output_file,
            help="The .csv or .parquet file to write.",
        ),
    ],
    directory: options.ResultFolder = RESULTS,
) -> None:
    """Write all results as one table, one row per metric."""
    from cosmos_eval.results.export import export as write
    from cosmos_eval.results.export import table_of
    from cosmos_eval.results.labels import warnings_of
    from cosmos_eval.results.store import read_stored, result_paths

    results = read_stored(result_paths(directory))
    changed = write(table_of(results), out)
    print_written(out)
    if changed:
        escaped = "texts would be formulas or several lines in CSV, and are escaped"
        print_notes([f"{changed} {escaped}"])
    print_notes(warnings_of(results))
