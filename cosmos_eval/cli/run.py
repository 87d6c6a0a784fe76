"""`cosmos-eval run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Exit

from cosmos_core.utils.command import interrupts_are_resumable
from cosmos_core.utils.distributed import is_main_process, process_group
from cosmos_eval.cli import options
from cosmos_eval.cli.completion import (
    dataset_names,
    model_names,
    protocol_names,
    suite_names,
    task_names,
)
from cosmos_eval.cli.options import COMPUTATION, DATA, MODELS, File, Text, Texts, flag, option
from cosmos_eval.cli.output import (
    print_json,
    print_left_out,
    print_line,
    print_notes,
    print_records,
    print_tables,
    shows_styles,
    table_width,
)
from cosmos_eval.results import RESULTS
from cosmos_eval.types import (
    DataOptions,
    Executor,
    ModelOptions,
    ModelSpec,
    RunOptions,
    Suite,
    UsageError,
    wording_name,
)

if TYPE_CHECKING:
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.results.labels import StoredResult
    from cosmos_eval.runner.deciding import DecidingRun
    from cosmos_eval.runner.plan import Pair, Plan, Result
    from cosmos_eval.runner.preview import Preview

    Existing = Mapping[Pair, Result]

UNTIL = "Stop early"
_MISTAKES_SHOWN = 3  # the most frequent ones; the result file has more


def run(
    suite: Annotated[
        Text,
        option("NAME|FILE", "Measure what --output lacks of a suite.", autocompletion=suite_names),
    ] = None,
    task: Annotated[
        str, option("NAME", "Only this task; loc and probe if named.", autocompletion=task_names)
    ] = "all",
    dataset: Annotated[
        Texts,
        option("NAME|FILE", "Data set. Default: embedded scenes.", autocompletion=dataset_names),
    ] = None,
    protocol: Annotated[
        Texts,
        option("NAME", "Protocol. Default: the data set's own.", autocompletion=protocol_names),
    ] = None,
    model: Annotated[
        Texts,
        option("SPEC", "Model. Default: the suite's, or bundled.", autocompletion=model_names),
    ] = None,
    name: options.Names = None,
    output: Annotated[Path, option("DIR", "Folder of the results.")] = RESULTS,
    format: options.Format = "table",
    dry_run: Annotated[bool, flag("--dry-run", "Show what would be measured, how long.")] = False,
    arch: options.Arch = None,
    weights: options.Weights = ModelSpec.weights,
    trainings: Annotated[File, option("FILE", "Groups and seeds of the trainings.", MODELS)] = None,
    attention: options.Attention = None,
    auxiliary: options.Auxiliary = None,
    tuned: Annotated[File, option("FILE", "Values by `cosmos-eval tune`.", MODELS)] = None,
    transfer: Annotated[bool, flag("--transfer", "Allow --tuned of others.", MODELS)] = False,
    wordings: Annotated[Text, option("FILE|N", "Measure other wordings too.", DATA)] = None,
    data_root: options.DataRoot = None,
    download: Annotated[bool, flag("--download", "Fetch wds/ and cls sets.", DATA)] = False,
    stream: Annotated[bool, flag("--stream", "Measure wds/ sets without storing.", DATA)] = False,
    limit: Annotated[
        int | None, option("N", "Only the first N samples (marked).", DATA, min=1)
    ] = None,
    allow_partial: Annotated[bool, flag("--partial", "Allow missing files; marked.", DATA)] = False,
    against: Annotated[
        Text, option("FILE|DIR|NAME", "The stored result to compare with.", UNTIL)
    ] = None,
    until: Annotated[
        Literal["decided"] | None,
        option("decided", "Stop when it is known which model is better.", UNTIL),
    ] = None,
    margin: Annotated[
        float | None, option("M", "Points within which models are the same.", UNTIL)
    ] = None,
    precision: options.Precision = RunOptions.precision,
    device: options.Device = RunOptions.device,
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
    from cosmos_eval.runner.execute import existing_results
    from cosmos_eval.runner.options import make_run_options
    from cosmos_eval.runner.plan import make_plan

    as_json = format == "json"
    with process_group() as distributed:
        if executor != "local" and distributed.world_size > 1:
            raise UsageError("torchrun needs --executor local")

        run_options = make_run_options(
            DataOptions(
                data_root=data_root,
                download=download,
                stream=stream,
                limit=limit,
                allow_partial=allow_partial,
            ),
            ModelOptions(
                attention=attention, auxiliary=auxiliary, device=device, precision=precision
            ),
            batch_size=batch_size,
            workers=workers,
            use_cache=not no_cache,
            output=output,
            save_predictions=save_predictions,
            overlays=overlays,
            distributed=distributed,
        )
        plan = distributed.synchronized(
            make_plan,
            suite=suite,
            task=task,
            datasets=dataset or (),
            protocol_names=protocol or (),
            models=model or (),
            names=name or (),
            arch=arch,
            weights=weights,
            trainings=trainings,
            tuned=tuned,
            transfer=transfer,
            wordings=wordings,
            options=run_options,
        )
        if until is not None or against is not None or margin is not None:
            from cosmos_eval.runner.deciding import make_deciding_run, require_deciding_options

            require_deciding_options(run_options, against=against, until=until, margin=margin)
            _require_no_option_beside_until(
                {
                    "--suite": suite is not None,
                    "--executor": executor != "local",
                    "--keep-going": keep_going,
                }
            )
            if not dry_run:
                deciding_run = make_deciding_run(
                    plan, output, against=against, until=until, margin=margin
                )
                _run_until_decided(deciding_run, as_json=as_json, no_cache=no_cache)
                return

        existing: Existing = {}
        if suite is not None or dry_run:
            # The results that the main process finds count for all processes.
            existing = distributed.gather(existing_results(plan, output))[0]
        if dry_run:
            _print_dry_run(plan, existing, output, as_json=as_json)
            return
        if existing:
            checked = distributed.main_process_only(_mark_changed_data, existing, plan)
            existing = distributed.gather(checked)[0]
        with _context_of_interrupts(no_cache=no_cache):
            results = _execute(plan, output, existing, executor, keep_going=keep_going)

    if is_main_process():
        print_results(
            results,
            as_json=as_json,
            suite=suite,
            names_protocols=protocol is not None,
            output=output,
        )
        if wordings is not None and not as_json:
            _print_wordings(results)
        _end_run(results, existing, suite, keep_going=keep_going)


def _mark_changed_data(existing: Existing, plan: Plan) -> Existing:
    """Return existing results, with an error for each whose data have changed since."""
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.runner.changed_data import mark_changed_data

    with Progress() as progress:
        return mark_changed_data(existing, plan, progress.step)


def _require_no_option_beside_until(is_given_by_option: Mapping[str, bool]) -> None:
    """Raise UsageError if an option is given that does not go together with `--until decided`."""
    for option_name, is_given in is_given_by_option.items():
        if is_given:
            raise UsageError(f"--until decided does not go together with {option_name}")


def _context_of_interrupts(*, no_cache: bool) -> AbstractContextManager[None]:
    """Return the context in which an interrupt says that the same command resumes the run.

    Without a cache it is an empty context: the command would measure most tasks from the beginning.
    """
    return nullcontext() if no_cache else interrupts_are_resumable()


def _run_until_decided(run: DecidingRun, *, as_json: bool, no_cache: bool) -> None:
    """Measure until the answers are known, and print the results, and the answers last.

    Args:
        run: The models, the data sets and the baseline.
        as_json: True if results are printed as JSON, and the answers on standard error.
        no_cache: True if an interrupted run begins again.
    """
    from cosmos_eval.cli.progress import Progress

    results = []
    with _context_of_interrupts(no_cache=no_cache), Progress() as progress:
        for result in run.run(progress.step):
            _report([result], progress)
            results.append(result)
    print_results(results, as_json=as_json, output=run.output or RESULTS)
    if not as_json:
        print_line("")
    for model in dict.fromkeys(answer.a for answer in run.answers):
        answers = [answer for answer in run.answers if answer.a == model]
        print_line(f"A: {model}, B: {answers[0].b}", error=as_json)
        for answer in answers:
            print_line(str(answer), error=as_json)


def _execute(
    plan: Plan, output: Path, existing: Existing, executor: Executor, *, keep_going: bool
) -> list[Result]:
    """Measure the pairs of a plan that have no valid result yet, and report each on standard error.

    Args:
        plan: The models and data sets.
        output: The folder of the results.
        existing: The results that are already there. One with an error is measured again.
        executor: Where the jobs run: `local`, `ray` or `slurm`.
        keep_going: True if failures become results with an error, instead of ending the run.

    Returns:
        All results, the existing ones too, in the order of the plan.
    """
    from cosmos_eval.cli.progress import Progress
    from cosmos_eval.runner.execute import engine_of, execute

    results = {pair: result for pair, result in existing.items() if result.error is None}
    with Progress(silent=not is_main_process()) as progress:
        for result in existing.values():
            if result.error is None:
                progress.print(f"there already: {result.path}")
            else:
                progress.print(f"{result.error}: measured again")
        for job_results in execute(
            plan,
            output,
            engine_of(executor),
            skip=frozenset(results),
            keep_going=keep_going,
            show_progress=progress.step,
        ):
            _report(job_results, progress)
            for result in job_results:
                results[result.pair] = result
    return [results[pair] for pair in plan.pairs if pair in results]


def _report(results: Sequence[Result], progress: Progress) -> None:
    """Print the files of measured results, or one line for results that failed.

    Args:
        results: Results of one job, either all measured, or all failed for the same reason.
        progress: Prints the lines above its bars.

    Example:
        `failed: 2 models on coco (cosmos), voc20 (cosmos): no folder data`
    """
    from cosmos_eval.runner.execute import reason_of

    error = results[0].error
    if error is None:
        progress.hide_bars()
        for result in results:
            progress.print(f"wrote {result.path}")
            if result.former_result is not None:
                progress.print(
                    "the former result, of another model of this name, is kept as "
                    f"{result.former_result}"
                )
        return

    model_names = sorted({result.pair.model for result in results})
    models = model_names[0] if len(model_names) == 1 else f"{len(model_names)} models"
    datasets = sorted({f"{result.pair.dataset} ({result.pair.protocol})" for result in results})
    progress.print(f"failed: {models} on {', '.join(datasets)}: {reason_of(error)}")


def print_results(
    results: Sequence[Result],
    *,
    as_json: bool,
    suite: str | None = None,
    names_protocols: bool = False,
    output: Path = RESULTS,
) -> None:
    """Print results as a table or as JSON; failed results are left out.

    The most frequent mistakes of classifications, and notes, go to standard error.

    Args:
        results: The results of a run.
        as_json: True if JSON is printed in place of a table.
        suite: The name or file of the suite that was measured, whose score the table shows.
        names_protocols: True if a user named the protocols, so that no variant is left out.
        output: The folder of the results, which a note names.
    """
    from cosmos_eval.results.labels import StoredResult, distinct_results, label_results
    from cosmos_eval.results.leaderboard.writers import make_leaderboard, to_texts
    from cosmos_eval.results.store import current_path, to_record
    from cosmos_eval.results.table import TableOptions

    stored_results = []
    for result in results:
        if result.row is not None:
            # The samples beside the file decide ties. Another model of this run may have the same
            # name, so that its result has taken the place of this one.
            path = Path() if result.path is None else current_path(result.path, result.row)
            stored_results.append(StoredResult(path, result.row))
    rows = [result.row for result in stored_results]
    if as_json:
        print_json([to_record(row) for row in rows])
        return

    labelled_results = distinct_results(label_results(stored_results))
    # Other settings are only measured if options of the run ask for them.
    leaderboard = make_leaderboard(
        labelled_results,
        TableOptions(members=True),
        suite=None if suite is None else _scored_suite(suite, labelled_results),
        variants=names_protocols,
    )
    print_tables(to_texts(leaderboard, table_width(), marks_best=not shows_styles()))
    _print_mistakes(labelled_results)
    print_notes(dict.fromkeys(note for row in rows for note in row.provenance["notes"]))
    print_left_out(leaderboard.n_left_out, f"cosmos-eval leaderboard {output} --all")


def _print_wordings(results: Sequence[Result]) -> None:
    """Print each model's mean over wordings, whose interval includes the choice of wordings.

    Args:
        results: The results of a run, with files. Failed ones are left out.
    """
    from cosmos_eval.results.labels import StoredResult, label_results
    from cosmos_eval.results.store import read_samples
    from cosmos_eval.results.wordings import compare_over_wordings, summary_cells

    stored_results = []
    for result in results:
        if result.row is not None and result.path is not None:
            stored_results.append(StoredResult(result.path, result.row))
    labelled_results = label_results(stored_results)
    rows: list[dict[str, str | None]] = []
    notes: list[str] = []
    for model in dict.fromkeys(result.model for result in labelled_results):
        model_results = [result for result in labelled_results if result.model == model]
        try:
            comparison = compare_over_wordings([model_results], read_samples)
        except UsageError as error:
            notes.append(f"{model}: {error}")
            continue
        notes += comparison.notes
        for cells in summary_cells(comparison):
            section = {name: cells.pop(name) for name in ("data set", "protocol", "metric")}
            rows.append(section | {"model": model} | cells)
    if rows:
        print_line("")
        print_line("Over wordings, with intervals that include wording")
        rows.sort(key=lambda row: (str(row["data set"]), str(row["metric"])))
        print_records(rows, section=("data set", "protocol", "metric"))
    print_notes(dict.fromkeys(notes))


def _scored_suite(suite_name: str, results: Sequence[StoredResult]) -> Suite | None:
    """Return a suite; None if it has no score, or none of the results counts in its score.

    Args:
        suite_name: The name or file of the suite.
        results: The results of a run. Some of them may be unranked, such as results of an
            incomplete data set; these do not count.
    """
    from cosmos_eval.results.leaderboard.entries import entries_of
    from cosmos_eval.runner.suites import read_suite

    suite = read_suite(suite_name, with_models=False)
    members = {(member.task, member.dataset, member.protocol) for member in suite.members}
    for entry in entries_of(results):
        is_member = (entry.task, entry.dataset_name, entry.protocol) in members
        if entry.is_ranked and is_member:
            return suite
    return None


def _print_mistakes(results: Sequence[StoredResult]) -> None:
    """Print the most frequent mistakes of each classification on standard error.

    Results with other wordings are left out.

    Example:
        `most confused by scenes-clip on scenes-cls (scenes): cat as dog (12), cup as bowl (9)`
    """
    for result in results:
        row = result.row
        if wording_name(row.protocol):
            continue
        mistakes = []
        for pair in row.confusion_pairs[:_MISTAKES_SHOWN]:
            mistakes.append(f"{pair['true']} as {pair['predicted']} ({pair['images']})")
        if mistakes:
            measured = f"{result.model} on {row.dataset} ({row.protocol})"
            print_line(f"most confused by {measured}: {', '.join(mistakes)}", error=True)


def _end_run(
    results: Sequence[Result], existing: Existing, suite: str | None, *, keep_going: bool
) -> None:
    """Print how many results a run measured, and end the command with status 1 if some failed.

    Args:
        results: The results of the run.
        existing: The results that were there before the run.
        suite: The name or file of the suite that was measured; None without one.
        keep_going: True if failures did not end the run.

    Raises:
        Exit: If results failed.
    """
    n_failed = sum(result.error is not None for result in results)
    if suite is not None or keep_going:
        n_reused = sum(existing.get(result.pair) is result for result in results)
        n_measured = len(results) - n_reused - n_failed
        counts = f"measured {n_measured}, there already {n_reused}, failed {n_failed}"
        print_line(counts, error=True)
    if n_failed:
        raise Exit(1)


def _print_dry_run(plan: Plan, existing: Existing, output: Path, *, as_json: bool) -> None:
    """Print, in the main process, what a run would measure and how long it would take.

    Args:
        plan: The models and data sets of the run.
        existing: The results that are already in the folder `output`.
        output: The folder that the run would write its results to.
        as_json: True if JSON is printed in place of a table.
    """
    from cosmos_eval.runner.preview import preview as preview_run

    if not is_main_process():
        return
    previews = preview_run(plan, existing, output)
    if as_json:
        print_json([preview._asdict() for preview in previews])
        return
    print_records([_preview_record(preview) for preview in previews])

    state_of_dataset = {preview.dataset: preview.data_state for preview in previews}
    for dataset, state in state_of_dataset.items():
        if state not in ("there", "made by the run"):
            print_line(f"data of {dataset}: {state}")
    missing = [preview for preview in previews if preview.result is None or preview.result_fault]
    print_line(f"there already: {len(previews) - len(missing)} of {len(previews)}")
    _print_estimate(missing)


def _print_estimate(missing: Sequence[Preview]) -> None:
    """Print how long measuring the missing results would take, and what the estimate is based on.

    Args:
        missing: The results that a run would measure. The time of some of them may be unknown.
    """
    estimates = [
        preview.estimated_seconds for preview in missing if preview.estimated_seconds is not None
    ]
    if estimates:
        print_line(
            f"estimate for {len(estimates)} of the other {len(missing)}: about "
            f"{_duration(sum(estimates))} h, one after the other, without cached embeddings"
        )
    bases = dict.fromkeys(preview.estimated_from for preview in missing)
    for basis in bases:
        if basis:
            print_line(f"estimated from {basis}")


def _preview_record(preview: Preview) -> dict[str, Any]:
    """Return the row of the table that `--dry-run` prints, by the headings of the columns.

    Example:
        `{"model": "scenes-clip", "data set": "scenes-cls (scenes)", "data": "there", "samples":
        500, "result": None, "cached": "500 images", "h:mm:ss": "0:00:25"}`
    """
    cached = "unknown"
    if preview.embeddings_kept is not None:
        counts = [f"{count} {role}" for role, count in preview.embeddings_kept.items()]
        cached = ", ".join(counts) or "none"
    result = preview.result
    if result:
        result = "damaged" if preview.result_fault else "there"
    seconds = preview.estimated_seconds
    return {
        "model": preview.model,
        "data set": f"{preview.dataset} ({preview.protocol})",
        "data": preview.data_state,
        "samples": preview.samples,
        "result": result,
        "cached": cached,
        "h:mm:ss": "unknown" if seconds is None else _duration(seconds),
    }


def _duration(seconds: float) -> str:
    """Return a time as hours, minutes and seconds: 3661.2 becomes `1:01:01`."""
    return str(timedelta(seconds=round(seconds)))
