"""`cosmos-eval export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosmos_eval.cli import display
from cosmos_eval.cli.options import writable


def export(
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", callback=writable, help="What to write: a .csv or a .parquet file."
        ),
    ],
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="A folder of results.")
    ] = display.RESULTS,
) -> None:
    """Write all results of a folder, and of those in it, as one table: a row a metric."""
    from cosmos_eval.results.export import export as write
    from cosmos_eval.results.export import stored_at, table_of
    from cosmos_eval.results.labels import warnings_of

    results = stored_at([directory])
    changed = write(table_of(results), out)
    display.show_wrote(out)
    escaped = f"{changed} texts would be formulas or several lines in CSV, and are escaped"
    display.show_notes([*([escaped] if changed else []), *warnings_of(results)])
