"""`cosmos-eval data`: doctor and prepare."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from cosmos_eval.cli import display
from cosmos_eval.cli.options import (
    DataRootOption,
    JsonOption,
)
from cosmos_eval.types import RunOptions

app = typer.Typer(help="Look at data sets on the disk, and make what they lack.")

_WORKERS = os.cpu_count() or 1


@app.command("doctor")
def doctor(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|FILE]...",
            help="Known data sets or YAML files that describe yours. Default: all known ones.",
        ),
    ] = None,
    data_root: DataRootOption = None,
    json: JsonOption = False,
) -> None:
    """Tell whether data sets are whole, what is missing or wrong, and what mends it.

    Exit status: 0 all are whole, 1 one is not, 2 wrong usage.
    """
    from cosmos_eval.runner.doctor import choose, examine_all

    options = RunOptions(data_root=data_root, workers=_WORKERS)
    protocols = choose(names or (), options)
    with display.Progress() as progress:
        diagnoses = list(examine_all(protocols, options, progress.step))
    display.show_diagnoses(diagnoses, as_json=json)
    if not all(diagnosis.whole for diagnosis in diagnoses):
        raise typer.Exit(1)


@app.command("prepare")
def prepare(
    name: Annotated[
        str, typer.Argument(help="coco_object, coco_stuff, cityscapes, context or imagenet.")
    ],
    data_root: DataRootOption = None,
    json: JsonOption = False,
) -> None:
    """Make the label maps or class folders that a download lacks; what is there is kept."""
    from cosmos_eval.data.prepare import prepare as make

    with display.Progress() as progress:
        counts = make(
            name,
            data_root,
            workers=_WORKERS,
            progress=lambda step: progress.step(name, step),
        )
    display.show_records([{"prepared": name, **counts._asdict()}], as_json=json)
