"""`cosmos-eval report`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cosmos_eval.cli import options
from cosmos_eval.cli.output import print_notes, print_written
from cosmos_eval.results import RESULTS
from cosmos_eval.types import RunOptions


def report(
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.html", callback=options.require_output_file, help="The page to write."
        ),
    ],
    directory: options.ResultFolder = RESULTS,
    with_published: Annotated[
        bool,
        typer.Option(
            "--published/--no-published",
            help="Add numbers that others published for the same data sets and protocols.",
        ),
    ] = True,
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures/--no-pictures",
            help="Add examples; models on this machine compute what results do not store.",
        ),
    ] = True,
    data_root: options.DataRoot = None,
    dataset: options.OwnDatasets = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Label maps that `run --save-predictions` wrote."),
    ] = None,
    device: options.Device = "auto",
) -> None:
    """Write all results as one web page that works offline."""
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.embedding.cache import embeddings_folder
    from cosmos_eval.report.content import content_of
    from cosmos_eval.report.gallery import collect
    from cosmos_eval.report.gallery.records import Gallery
    from cosmos_eval.report.gallery.source import require_inputs
    from cosmos_eval.report.page import require_page_name, room_for_pictures, to_page, write_page
    from cosmos_eval.results.labels import warnings_of
    from cosmos_eval.results.leaderboard.entries import published
    from cosmos_eval.results.store import read_samples, read_stored, result_paths

    require_page_name(out)
    paths = result_paths(directory)
    results = read_stored(paths)
    require_inputs((one.row for one in results), data_root, dataset or (), predictions)
    gallery = Gallery()
    with Progress() as progress:
        content = content_of(
            results,
            read_samples,
            published() if with_published else (),
            partial(progress.step, "report"),
        )
        if pictures:
            gallery = collect(
                paths,
                RunOptions(data_root=data_root, cache=str(embeddings_folder())),
                datasets=dataset or (),
                predictions=predictions,
                device=device,
                budget=room_for_pictures(content),
                watch=progress.step,
            )
    page = to_page(content, gallery)
    write_page(out, page)
    print_written(out, f", {len(page.content) / 1e6:.1f} MB")
    print_notes(f"not shown: {note}" for note in page.notes)
    print_notes(warnings_of(results))
