"""`cosmos-eval run`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cosmos_eval.cli import display
from cosmos_eval.cli.options import (
    ArchOption,
    AttentionOption,
    DataRootOption,
    DeviceOption,
    JsonOption,
    PrecisionOption,
    WeightsOption,
)
from cosmos_eval.processes import is_first, joined
from cosmos_eval.types import RunOptions

if TYPE_CHECKING:
    from cosmos_eval.plan import Plan


def run(
    task: Annotated[
        Literal["retrieval", "cls", "seg", "select", "all"],
        typer.Option(help="Measure only this task."),
    ] = "all",
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FILE",
            help="A known data set or a YAML file that describes yours; may be repeated. "
            "Default: the embedded scenes.",
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Settings of this family, see `cosmos-eval list protocols`; may be repeated. "
            "Default: the data set's usual ones.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="A model, see `cosmos-eval list models`; may be repeated. "
            "Default: both bundled models.",
        ),
    ] = None,
    arch: ArchOption = None,
    weights: WeightsOption = "teacher",
    attention: AttentionOption = None,
    data_root: DataRootOption = None,
    download: Annotated[
        bool,
        typer.Option(
            "--download", help="Fetch classification sets that are missing below --data-root."
        ),
    ] = False,
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where results are written.")
    ] = display.RESULTS,
    precision: PrecisionOption = "fp32",
    device: DeviceOption = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = RunOptions.batch_size,
    workers: Annotated[
        int, typer.Option(min=0, help="Threads that read images.")
    ] = RunOptions.workers,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N samples; the result is marked.")
    ] = None,
    save_predictions: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Keep predicted label maps here, a folder a model and protocol."
        ),
    ] = None,
    overlays: Annotated[
        bool,
        typer.Option(
            "--overlays", help="With --save-predictions: pictures of image, truth and prediction."
        ),
    ] = False,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache", help="Keep embeddings, see `cosmos-eval cache`, and use them."
        ),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be measured, and where.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Measure models on data sets, write the results and print them as a table."""
    from cosmos_eval.cache import embeddings_folder
    from cosmos_eval.plan import Machine, make_plan

    with joined() as share:
        options = RunOptions(
            data_root=data_root,
            download=download,
            attention=attention,
            batch_size=batch_size,
            workers=workers,
            limit=limit,
            save_predictions=save_predictions,
            overlays=overlays,
            partial=str(output / ".partial"),
            cache=str(embeddings_folder()) if cache else None,
            share=share,
        )
        make = partial(
            make_plan,
            task=task,
            datasets=dataset or (),
            families=protocol or (),
            models=model or (),
            arch=arch,
            weights=weights,
            options=options,
            machine=Machine(device=device, precision=precision),
        )
        plan = share.together(make)
        if not dry_run:
            stored = _measure(plan, output)
    if not is_first():
        return
    if dry_run:
        display.show_plan(plan, as_json=json)
    else:
        display.show_results(stored, as_json=json)


def _measure(plan: Plan, output: Path) -> list[Path]:
    """Carry out a plan; the first process writes the results and returns their paths."""
    from cosmos_eval.run import run_all
    from cosmos_eval.store import write_result

    share, stored = plan.options.share, []
    with display.Progress(silent=not is_first()) as progress:
        for finished in run_all(plan, progress.step):
            write = partial(write_result, output, *finished)
            path = share.together(write if is_first() else lambda: None)
            if path is not None:
                stored.append(path)
                progress.wrote(path)
    return stored
