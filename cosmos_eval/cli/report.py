"""`cosmos-eval report`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cosmos_eval.cli import display


def report(
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="Where the page is written.")],
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="A folder of results.")
    ] = display.RESULTS,
    with_published: Annotated[
        bool,
        typer.Option(
            "--published/--no-published",
            help="With numbers that others published for the same data sets and protocols.",
        ),
    ] = True,
) -> None:
    """Write all results as one web page that works offline."""
    from cosmos_eval.compare import Stored
    from cosmos_eval.leaderboard import published
    from cosmos_eval.report import content_of, require_page_name, to_page, write_page
    from cosmos_eval.store import read_result, read_samples, result_paths

    require_page_name(out)
    results = [Stored(path, read_result(path)) for path in result_paths(directory)]
    with display.Progress() as progress:
        content = content_of(
            results,
            read_samples,
            published() if with_published else (),
            partial(progress.step, "report"),
        )
    page = to_page(content)
    write_page(out, page)
    display.show_page(out, page)
