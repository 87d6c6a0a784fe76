"""`cosmos-eval run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Exit

from cosmos_core.utils.distributed import is_main_process, process_group
from cosmos_eval.cli import options
from cosmos_eval.cli.options import COMPUTATION, DATA, MODELS, File, Text, Texts, flag, option
from cosmos_eval.cli.output import print_json, print_line, print_notes, print_records, print_tables
from cosmos_eval.results import RESULTS
from cosmos_eval.types import Executor, RunOptions, UsageError

if TYPE_CHECKING:
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.results.leaderboard.entries import Entry
    from cosmos_eval.results.leaderboard.suite import SuiteScore
    from cosmos_eval.runner.plan import Pair, Plan, Result
    from cosmos_eval.runner.preview import Preview

    Existing = Mapping[Pair, Result]

_MISTAKES_SHOWN = 3  # of the most frequent ones, which the result file has in full


def run(
    suite: Annotated[Text, option("NAME|FILE", "Measure what --output lacks of a suite.")] = None,
    task: Annotated[str, option("NAME", "Only this task; loc and probe if named.")] = "all",
    dataset: Annotated[Texts, option("NAME|FILE", "Data set. Default: embedded scenes.")] = None,
    protocol: Annotated[Texts, option("NAME", "Protocol. Default: the data set's own.")] = None,
    model: Annotated[Texts, option("SPEC", "Model. Default: the suite's, or bundled.")] = None,
    name: options.Names = None,
    output: Annotated[Path, option("DIR", "Folder of the results.")] = RESULTS,
    format: options.Format = "table",
    dry_run: Annotated[bool, flag("--dry-run", "Show what would be measured, how long.")] = False,
    arch: options.Arch = None,
    weights: options.Weights = "teacher",
    trainings: Annotated[File, option("FILE", "Groups and seeds of the trainings.", MODELS)] = None,
    attention: options.Attention = None,
    auxiliary: options.Auxiliary = None,
    settings: Annotated[File, option("FILE", "Settings by `cosmos-eval tune`.", MODELS)] = None,
    transfer: Annotated[bool, flag("--transfer", "Allow --settings of others.", MODELS)] = False,
    data_root: options.DataRoot = None,
    download: Annotated[bool, flag("--download", "Fetch wds/ and cls sets.", DATA)] = False,
    stream: Annotated[bool, flag("--stream", "Measure wds/ sets without storing.", DATA)] = False,
    limit: Annotated[
        int | None, option("N", "Only the first N samples (marked).", DATA, min=1)
    ] = None,
    allow_partial: Annotated[bool, flag("--partial", "Allow missing files; marked.", DATA)] = False,
    precision: options.Precision = "fp32",
    device: options.Device = "auto",
    batch_size: Annotated[
        int, option("N", "Images per batch.", COMPUTATION, min=1)
    ] = RunOptions.batch_size,
    workers: options.Workers = RunOptions.workers,
    no_cache: Annotated[bool, flag("--no-cache", "Use no cached embeddings.", COMPUTATION)] = False,
    keep_going: Annotated[
        bool, flag("--keep-going", "Go on after a failure, then fail.", COMPUTATION)
    ] = False,
    executor: Annotated[Executor, option("NAME", "local, ray or slurm.", COMPUTATION)] = "local",
    save_predictions: Annotated[Text, option("DIR", "Write label maps.", "Label maps")] = None,
    overlays: Annotated[
        bool, flag("--overlays", "Also draw them over images.", "Label maps")
    ] = False,
) -> None:
    """Measure models on data sets; write and print the results.

    Without options: the bundled models on the embedded scenes. `cosmos-eval list` shows models,
    tasks, data sets, protocols and suites; --model, --name, --dataset, --protocol are repeatable.
    """
    from cosmos_eval.embedding.cache import embeddings_folder
    from cosmos_eval.runner.execute import existing_results
    from cosmos_eval.runner.plan import make_plan, model_specs
    from cosmos_eval.runner.preview import preview
    from cosmos_eval.runner.tune import tuned_plan

    with process_group() as distributed:
        if executor != "local" and distributed.world_size > 1:
            raise UsageError("torchrun needs --executor local")
        if settings is not None and (suite or protocol or task not in ("all", "seg")):
            raise UsageError("--settings is for --task seg, without --suite and --protocol")
        run_options = RunOptions(
            data_root=data_root,
            download=download,
            stream=stream,
            attention=attention,
            auxiliary=auxiliary,
            device=device,
            precision=precision,
            batch_size=batch_size,
            workers=workers,
            limit=limit,
            allow_partial=allow_partial,
            save_predictions=save_predictions,
            overlays=overlays,
            unfinished=str(output / ".partial"),
            cache=None if no_cache else str(embeddings_folder()),
            distributed=distributed,
        )
        if settings is None:
            make = partial(
                make_plan,
                suite=suite,
                task=task,
                datasets=dataset or (),
                families=protocol or (),
                models=model or (),
                names=name or (),
                arch=arch,
                weights=weights,
                trainings=trainings,
                options=run_options,
            )
        else:
            specs = model_specs(model or (), name or (), arch, weights, trainings)
            make = partial(
                tuned_plan, settings, dataset or (), specs, run_options, transfer=transfer
            )
        plan = distributed.synchronized(make)
        existing: Existing = {}
        if suite is not None or dry_run:
            existing = distributed.gather(existing_results(plan, output))[0]
        if dry_run:
            if is_main_process():
                _print_previews(preview(plan, existing, output), as_json=format == "json")
            return
        results = _execute(plan, output, existing, executor, keep_going=keep_going)
    if is_main_process():
        print_results(results, as_json=format == "json", suite=suite)
        failed = sum(result.error is not None for result in results)
        if suite is not None or keep_going:
            reused = sum(existing.get(result.pair) is result for result in results)
            counts = f"measured {len(results) - reused - failed}, there already {reused}"
            print_line(f"{counts}, failed {failed}", error=True)
        if failed:
            raise Exit(1)


def _execute(
    plan: Plan, output: Path, existing: Existing, executor: Executor, *, keep_going: bool
) -> list[Result]:
    """Measure the pairs without a valid result; return all results, in the plan's order."""
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.runner.execute import engine_of, execute

    results = {pair: result for pair, result in existing.items() if result.error is None}
    with Progress(silent=not is_main_process()) as progress:
        for pair, result in existing.items():
            valid = f"there already: {result.path}"
            progress.print(valid if pair in results else f"{result.error}: measured again")
        engine, skip, watch = engine_of(executor), frozenset(results), progress.step
        for batch in execute(plan, output, engine, skip=skip, keep_going=keep_going, watch=watch):
            _report(batch, progress)
            results.update({result.pair: result for result in batch})
    return [results[pair] for pair in plan.pairs if pair in results]


def _report(results: Sequence[Result], progress: Progress) -> None:
    """Print the files of results, or what has none for one reason."""
    from cosmos_eval.runner.execute import reason_of

    error = results[0].error
    if error is None:
        progress.hide_bars()
        for result in results:
            progress.print(f"wrote {result.path}")
            if result.aside is not None:
                kept = "the former result, of another model of this name, is kept as"
                progress.print(f"{kept} {result.aside}")
        return
    models = {result.pair.model for result in results}
    sets = {f"{result.pair.dataset} ({result.pair.family})" for result in results}
    who = models.pop() if len(models) == 1 else f"{len(models)} models"
    progress.print(f"failed: {who} on {', '.join(sorted(sets))}: {reason_of(error)}")


def print_results(results: Sequence[Result], *, as_json: bool, suite: str | None = None) -> None:
    """Print results as a table, with a suite's score; on standard error frequent mistakes and
    notes."""
    from cosmos_eval.results.labels import Stored, distinct, distinguish
    from cosmos_eval.results.leaderboard.entries import entries_of
    from cosmos_eval.results.leaderboard.ranking import find_ties
    from cosmos_eval.results.leaderboard.writers import Leaderboard, to_texts
    from cosmos_eval.results.store import to_record
    from cosmos_eval.results.table import View

    stored = [Stored(one.path or Path(), one.row) for one in results if one.row is not None]
    rows = [one.row for one in stored]
    if as_json:
        print_json([to_record(row) for row in rows])
        return
    stored = distinct(distinguish(stored))
    entries = entries_of(stored)
    score = None if suite is None else _score(suite, entries)
    ties, view = find_ties(entries, "auto"), View(members=True)
    print_tables(partial(to_texts, Leaderboard(entries, ties, suite=score, view=view)))
    for one in stored:
        row = one.row
        pairs = ", ".join(
            f"{pair['true']} as {pair['predicted']} ({pair['images']})"
            for pair in row.confusion_pairs[:_MISTAKES_SHOWN]
        )
        if pairs:
            of = f"{one.model} on {row.dataset} ({row.protocol})"
            print_line(f"most confused by {of}: {pairs}", error=True)
    print_notes(dict.fromkeys(note for row in rows for note in row.provenance["notes"]))


def _score(name: str, entries: Sequence[Entry]) -> SuiteScore | None:
    """Return the score of a suite, None where it has none or no result counts in it."""
    from cosmos_eval.results.leaderboard.suite import suite_score
    from cosmos_eval.runner.suites import read_suite

    suite = read_suite(name, with_models=False)
    members = {member[:3] for member in suite.members}
    ranked = (entry for entry in entries if entry.is_ranked)
    counts = any((e.task, e.dataset_name, e.protocol) in members for e in ranked)
    return suite_score(suite, entries) if counts else None


def _print_previews(previews: Sequence[Preview], *, as_json: bool) -> None:
    if as_json:
        print_json([preview._asdict() for preview in previews])
        return
    print_records([_row(preview) for preview in previews])
    for dataset, state in {preview.dataset: preview.data_state for preview in previews}.items():
        if state not in ("there", "made by the run"):
            print_line(f"data of {dataset}: {state}")
    left = [one for one in previews if one.result is None or one.result_fault]
    print_line(f"there already: {len(previews) - len(left)} of {len(previews)}")
    known = [one.estimated_seconds for one in left if one.estimated_seconds is not None]
    if known:
        print_line(
            f"estimate for {len(known)} of the other {len(left)}: about {_duration(sum(known))} h, "
            "one after the other, without cached embeddings"
        )
    for basis in dict.fromkeys(one.estimated_from for one in left if one.estimated_from):
        print_line(f"estimated from {basis}")


def _row(preview: Preview) -> dict[str, Any]:
    cached, seconds = preview.embeddings_kept, preview.estimated_seconds
    counts = ", ".join(f"{count} {role}" for role, count in (cached or {}).items())
    result = preview.result and ("damaged" if preview.result_fault else "there")
    return {
        "model": preview.model,
        "data set": f"{preview.dataset} ({preview.protocol})",
        "data": preview.data_state,
        "samples": preview.samples,
        "result": result,
        "cached": "unknown" if cached is None else counts or "none",
        "h:mm:ss": "unknown" if seconds is None else _duration(seconds),
    }


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
