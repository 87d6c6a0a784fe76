"""`cosmos-eval data`: doctor and prepare."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Annotated

import typer

from cosmos_eval.cli import options
from cosmos_eval.cli.output import print_json, print_line, print_records
from cosmos_eval.types import RunOptions

if TYPE_CHECKING:
    from cosmos_eval.runner.doctor import Diagnosis

app = typer.Typer(help="Check data sets on the disk, or complete downloads.")

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
    data_root: options.DataRoot = None,
    json: options.Json = False,
) -> None:
    """Check whether data sets are complete, and how to mend them.

    Exit status: 0 all are complete, 1 one is not, 2 wrong usage.
    """
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.runner.doctor import choose, examine_all
    from cosmos_eval.tasks import task_named

    run_options = RunOptions(data_root=data_root, workers=_WORKERS)
    protocols = choose(names or (), run_options)
    with Progress() as progress:
        diagnoses = list(examine_all(protocols, run_options, progress.step))
    if json:
        print_json([dataclasses.asdict(diagnosis) for diagnosis in diagnoses])
    else:
        print_records([_row(diagnosis) for diagnosis in diagnoses])
        for task in dict.fromkeys(diagnosis.task for diagnosis in diagnoses):
            print_line(f"checked for {task}: {task_named(task).checked}")
        for diagnosis in diagnoses:
            for fault in diagnosis.faults:
                print_line(f"{diagnosis.dataset}: {fault}")
            if diagnosis.remedy:
                print_line(f"{diagnosis.dataset}: to mend it: {diagnosis.remedy}")
    if not all(diagnosis.whole for diagnosis in diagnoses):
        raise typer.Exit(1)


def _row(diagnosis: Diagnosis) -> dict[str, str | None]:
    expected = diagnosis.expected
    counts = {
        "images": (diagnosis.images, expected),
        "captions": (diagnosis.captions, diagnosis.expected_captions),
        "items": (diagnosis.items, diagnosis.expected_items),
        "label maps": (diagnosis.label_maps, expected),
    }
    ranges = {"labels": diagnosis.labels, "of": diagnosis.classes}
    return {
        "dataset": diagnosis.dataset,
        "task": diagnosis.task,
        "whole": "yes" if diagnosis.whole else "NO",
        **{key: None if n is None else f"{n} of {of}" for key, (n, of) in counts.items()},
        **{key: ends and f"{ends[0]}-{ends[1]}" for key, ends in ranges.items()},
        "suffix": diagnosis.mask_suffix,
        "folder": diagnosis.folder or diagnosis.note,
    }


@app.command("prepare")
def prepare(
    name: Annotated[
        str, typer.Argument(help="coco_object, coco_stuff, cityscapes, context or imagenet.")
    ],
    data_root: options.DataRoot = None,
    json: options.Json = False,
) -> None:
    """Make label maps or class folders that a download lacks.

    Existing files are kept.
    """
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.data.prepare import prepare as make

    with Progress() as progress:
        counts = make(
            name, data_root, workers=_WORKERS, progress=lambda step: progress.step(name, step)
        )
    print_records([{"prepared": name, **counts._asdict()}], as_json=json)
