"""`cosmos-eval run`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cosmos_core.utils.distributed import is_main_process, process_group
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
from cosmos_eval.tasks import TASKS
from cosmos_eval.types import Executor, Protocol, RunOptions, UsageError

if TYPE_CHECKING:
    from cosmos_eval.runner.pending import ExistingResult
    from cosmos_eval.runner.plan import Pair, Plan


def run(
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="A list of models and data sets, see `cosmos-eval list suites`; only what is "
            "missing in --output is measured.",
        ),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"Measure only this task: {', '.join(TASKS)}, or another of `cosmos-eval list "
            "tasks`. loc is measured on the embedded scenes only where it is named.",
        ),
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
            "Default: the bundled models.",
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
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--partial",
            help="Measure the samples found of known data sets that are not complete; such results "
            "are marked.",
        ),
    ] = False,
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
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="Go on past what cannot be measured; then status 1."),
    ] = False,
    executor: Annotated[
        Executor, typer.Option(help="Here, on a Ray cluster, or as SLURM jobs.")
    ] = "local",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only show what would be measured, what is there, and about how long."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Measure models on data sets, write the results and print them as a table."""
    from cosmos_eval.embedding.cache import embeddings_folder
    from cosmos_eval.runner.pending import existing_results
    from cosmos_eval.runner.plan import Machine, choose_protocols

    if suite is not None and (task != "all" or dataset or protocol or model):
        raise UsageError(
            "--suite names models and data sets: leave --task, --dataset, --protocol, --model out"
        )
    with process_group() as distributed:
        if executor != "local" and distributed.world_size > 1:
            raise UsageError("--executor local is the one for torchrun")
        options = RunOptions(
            data_root=data_root,
            download=download,
            attention=attention,
            batch_size=batch_size,
            workers=workers,
            limit=limit,
            allow_partial=allow_partial,
            save_predictions=save_predictions,
            overlays=overlays,
            unfinished=str(output / ".partial"),
            cache=str(embeddings_folder()) if cache else None,
            distributed=distributed,
        )
        make = partial(
            _plan,
            suite,
            partial(choose_protocols, task, dataset or (), protocol or ()),
            models=model or (),
            arch=arch,
            weights=weights,
            options=options,
            machine=Machine(device=device, precision=precision),
        )
        plan = distributed.synchronized(make)
        there = (
            {}
            if suite is None and not dry_run
            else distributed.gather(existing_results(plan, output))[0]
        )
        if dry_run:
            _show_preview(plan, there, output, as_json=json)
            return
        ended = _execute(plan, output, there, executor, keep_going=keep_going)
    if not is_main_process():
        return
    display.show_results(ended.paths, as_json=json)
    if suite is not None or keep_going:
        display.show_summary(ended.measured, ended.kept, ended.failed)
    if ended.failed:
        raise typer.Exit(1)


def _plan(
    suite: str | None,
    choose: Callable[[], Sequence[Protocol]],
    *,
    models: Sequence[str],
    **how: Any,
) -> Plan:
    """The plan of a suite, or of models and data sets that were named one by one."""
    from cosmos_eval.runner.plan import plan_of
    from cosmos_eval.runner.suites import Suite, read_suite

    chosen = Suite(tuple(models), tuple(choose())) if suite is None else read_suite(suite)
    return plan_of(chosen.protocols, models=chosen.models, **how)


class _Ended(NamedTuple):
    """The result files of a run in the plan's order, and how many there are of each kind."""

    paths: Sequence[Path]
    measured: int
    kept: int
    failed: int


def _execute(
    plan: Plan,
    output: Path,
    there: Mapping[Pair, ExistingResult],
    executor: Executor,
    *,
    keep_going: bool,
) -> _Ended:
    """Measure what is not there, telling of every result."""
    from cosmos_eval.runner.batch import Failed, execute
    from cosmos_eval.runner.executors import engine_of

    kept = {pair: existing.path for pair, existing in there.items() if existing.row is not None}
    stored: dict[Pair, Path] = {}
    failed = 0
    with display.Progress(silent=not is_main_process()) as progress:
        for existing in there.values():
            progress.found(existing)
        for event in execute(
            plan,
            output,
            engine_of(executor),
            skip=kept,
            keep_going=keep_going,
            watch=progress.step,
        ):
            if isinstance(event, Failed):
                failed += len(event.pairs)
                progress.failed(event)
            else:
                stored[event.pair] = event.path
                progress.wrote(event.path)
    every = {**kept, **stored}
    paths = [every[pair] for pair in plan.pairs if pair in every]
    return _Ended(paths, len(stored), len(kept), failed)


def _show_preview(
    plan: Plan, there: Mapping[Pair, ExistingResult], output: Path, *, as_json: bool
) -> None:
    from cosmos_eval.runner.preview import preview

    if is_main_process():
        display.show_preview(preview(plan, there, output), as_json=as_json)
