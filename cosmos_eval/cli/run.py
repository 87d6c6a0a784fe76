"""`cosmos-eval run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Exit, Option

from cosmos_core.utils.distributed import is_main_process, process_group
from cosmos_eval.cli import options
from cosmos_eval.cli.options import flag, option
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
    suite: Annotated[
        str | None,
        option(
            "NAME|FILE",
            "A list of data sets, and perhaps of models, see `cosmos-eval list suites`; only "
            "results missing in --output are measured.",
        ),
    ] = None,
    task: Annotated[
        str,
        option(
            "NAME",
            "Measure only this task: retrieval, cls, seg, select, loc, probe or another of "
            "`cosmos-eval list tasks`. Only here are loc and probe measured on the embedded "
            "scenes.",
        ),
    ] = "all",
    dataset: Annotated[
        list[str] | None,
        option(
            "NAME|FILE",
            "A known data set or a YAML file that describes yours; repeatable. "
            "Default: the embedded scenes.",
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        option(
            "NAME",
            "Settings of this family, see `cosmos-eval list protocols`; repeatable. "
            "Default: the data set's usual ones.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        option(
            "SPEC",
            "A model, see `cosmos-eval list models`; repeatable. Default: the suite's, else the "
            "bundled models.",
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        option(
            "NAME",
            "What tables and files call the model in place of SPEC; given once per --model.",
        ),
    ] = None,
    settings: Annotated[
        Path | None,
        option("FILE", "Settings that `cosmos-eval tune` has chosen: names data set and model."),
    ] = None,
    transfer: Annotated[
        bool, flag("--transfer", "Allow --settings that were chosen for another model.")
    ] = False,
    arch: options.Arch = None,
    weights: options.Weights = "teacher",
    trainings: Annotated[
        Path | None,
        option("FILE", "YAML that states the trainings of models: group, seed, samples..."),
    ] = None,
    attention: options.Attention = None,
    auxiliary: options.Auxiliary = None,
    data_root: options.DataRoot = None,
    download: options.Download = False,
    stream: options.Stream = False,
    output: Annotated[Path, option("DIR", "Folder for results.")] = RESULTS,
    precision: options.Precision = "fp32",
    device: options.Device = "auto",
    batch_size: Annotated[int, Option(min=1, help="Images per batch.")] = RunOptions.batch_size,
    workers: Annotated[int, Option(min=0, help="Threads that read images.")] = RunOptions.workers,
    limit: options.Limit = None,
    allow_partial: Annotated[
        bool,
        flag(
            "--partial",
            "Measure the samples found of known data sets that are not complete; such results "
            "are marked.",
        ),
    ] = False,
    save_predictions: Annotated[
        str | None, option("DIR", "Save predicted label maps, one folder per model and protocol.")
    ] = None,
    overlays: Annotated[
        bool,
        flag("--overlays", "With --save-predictions: pictures of image, truth and prediction."),
    ] = False,
    cache: Annotated[
        bool,
        flag("--cache/--no-cache", "Read and write cached embeddings, see `cosmos-eval cache`."),
    ] = True,
    keep_going: options.KeepGoing = False,
    executor: options.Executor = "local",
    dry_run: Annotated[
        bool,
        flag("--dry-run", "Only show what would be measured, what exists, and about how long."),
    ] = False,
    json: options.Json = False,
) -> None:
    """Measure models on data sets; write and print the results."""
    from cosmos_eval.embedding.cache import embeddings_folder
    from cosmos_eval.models.specs import labelled, parse_model_spec
    from cosmos_eval.models.training import state_trainings
    from cosmos_eval.runner.execute import existing_results
    from cosmos_eval.runner.plan import make_plan
    from cosmos_eval.runner.preview import preview
    from cosmos_eval.runner.tune import tuned_plan

    with process_group() as distributed:
        if executor != "local" and distributed.world_size > 1:
            raise UsageError("torchrun needs --executor local")
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
            cache=str(embeddings_folder()) if cache else None,
            distributed=distributed,
        )
        make = partial(make_plan, suite=suite, task=task, datasets=dataset or ())
        if name and not model:
            raise UsageError("--name needs --model: the model that it names")
        make = partial(make, families=protocol or (), models=model or (), options=run_options)
        make = partial(make, names=name or (), arch=arch, weights=weights, trainings=trainings)
        if settings is not None:
            if suite or protocol or task not in ("all", "seg"):
                raise UsageError("--settings is for --task seg, without --suite and --protocol")
            specs = [parse_model_spec(text, arch=arch, weights=weights) for text in model or ()]
            specs = labelled(specs, name or ())
            specs = specs if trainings is None else state_trainings(trainings, specs)
            tuned = partial(tuned_plan, settings, dataset or (), specs, run_options)
            make = partial(tuned, transfer=transfer)
        plan = distributed.synchronized(make)
        existing: Existing = {}
        if suite is not None or dry_run:
            existing = distributed.gather(existing_results(plan, output))[0]
        if dry_run:
            if is_main_process():
                _print_previews(preview(plan, existing, output), as_json=json)
            return
        results = _execute(plan, output, existing, executor, keep_going=keep_going)
    if is_main_process():
        print_results(results, as_json=json, suite=suite)
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
    from cosmos_eval.results.labels import Stored, distinguish
    from cosmos_eval.results.leaderboard.entries import entries_of
    from cosmos_eval.results.leaderboard.writers import Leaderboard, to_tables
    from cosmos_eval.results.store import to_record

    stored = [Stored(one.path or Path(), one.row) for one in results if one.row is not None]
    rows = [one.row for one in stored]
    if as_json:
        print_json([to_record(row) for row in rows])
        return
    stored = distinguish(stored)
    entries = entries_of(stored)
    score = None if suite is None else _score(suite, entries)
    print_tables(partial(to_tables, Leaderboard(entries, suite=score)))
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
    counts = any((e.task, e.dataset, e.protocol) in members for e in ranked)
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
