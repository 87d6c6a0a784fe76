"""Run a plan by an executor: here, on a Ray cluster, or as SLURM jobs. Imports no torch."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path

from cosmos_core.utils.files import file_sha256, require_writable
from cosmos_eval.models.specs import TWO_SETS, code_file, local_file
from cosmos_eval.results.labels import overrides_of, stem_of
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import read_files, samples_of
from cosmos_eval.runner.plan import (
    Job,
    Pair,
    Plan,
    Result,
    Watch,
    jobs_of,
    open_datasets,
    pair_of,
    unwatched,
)
from cosmos_eval.runner.run import Worker, settings_of
from cosmos_eval.tasks import task_for
from cosmos_eval.types import (
    CosmosEvalError,
    Executor,
    ModelSpec,
    Part,
    Protocol,
    RunOptions,
    UsageError,
)

Outcomes = Generator[tuple[int, list[Result]], None, None]
"""The results of jobs as they end, each with the job's index; closed, it cancels the others."""

Engine = Callable[[Sequence[Job], Watch], Outcomes]
"""Runs one job or more: it decides where and when, `Worker` measures and writes."""


def engine_of(executor: Executor) -> Engine:
    """Return an engine by its name. Raises UsageError where its package is not installed."""
    try:
        match executor:
            case "local":
                return run_here
            case "ray":
                from cosmos_eval.runner.ray import execute
            case "slurm":
                from cosmos_eval.runner.slurm import execute
    except ImportError as error:
        raise UsageError(
            f"--executor {executor} needs a package that is not installed ({error}): "
            f"pip install 'cosmos-eval[{executor}]'"
        ) from error
    return execute


def run_here(jobs: Sequence[Job], watch: Watch) -> Outcomes:
    """Run jobs one after the other in this process, or in those of a torchrun, which share each."""
    worker = Worker(watch)
    for index, job in enumerate(jobs):
        yield index, worker.run(job)


_worker = cache(Worker)


def run_remote(job: Job) -> list[Result]:
    """`Worker.run` in a process that an engine has started, which keeps its worker.

    An error that is none of ours might not survive the way back: its traceback goes to this
    process's log.
    """
    os.chdir(job.folder)
    results = _worker().run(job)
    error = results[-1].error
    if error is None or type(error) in (UsageError, CosmosEvalError):
        return results
    traceback.print_exception(error, file=sys.stderr)
    portable = CosmosEvalError(f"{type(error).__name__}: {error}")
    return [one if one.error is None else one._replace(error=portable) for one in results]


def execute(
    plan: Plan,
    output: Path,
    engine: Engine,
    *,
    skip: Container[Pair] = (),
    keep_going: bool = False,
    watch: Watch = unwatched,
) -> Iterator[list[Result]]:
    """Measure and store the pairs of a plan that are not to be skipped, job by job in its order.

    The folders that are written, then the data of every data set, are checked first. With
    `keep_going`, failures are yielded as results with an error, those of one cause together.
    Otherwise the first one is raised; several data sets that cannot be measured on are yielded
    before UsageError is raised.
    """
    plan = _without(plan, skip)
    distributed = plan.options.distributed
    if plan.specs:
        distributed.main_process_first(partial(_require_outputs, plan.options, output))
    datasets = open_datasets(plan, watch, raising=False)
    failed = [dataset for dataset in datasets if dataset.error is not None]
    for dataset in failed:
        if dataset.error is not None and len(failed) == 1 and not keep_going:
            raise dataset.error
        pairs = (pair_of(spec, dataset.protocol) for spec in plan.specs)
        yield [Result(pair, error=dataset.error) for pair in pairs if pair not in skip]
    if failed and not keep_going:
        raise UsageError(
            f"{len(failed)} of {len(datasets)} data sets cannot be measured on; nothing was "
            "measured (--keep-going measures on the others)"
        )
    opened = [dataset for dataset in datasets if dataset.error is None]
    jobs = jobs_of(plan, opened, skip, output)
    if jobs:
        with closing(engine(jobs, watch)) as outcomes:
            yield from _in_order(outcomes, raising=not keep_going)


def _without(plan: Plan, skip: Container[Pair]) -> Plan:
    """Return the plan without models and data sets of which every pair is skipped."""
    wanted = [pair for pair in plan.pairs if pair not in skip]
    models = {pair.model for pair in wanted}
    sets = {pair[1:] for pair in wanted}
    return replace(
        plan,
        specs=[spec for spec in plan.specs if spec.text in models],
        protocols=[p for p in plan.protocols if (p.dataset, p.family) in sets],
    )


def _require_outputs(options: RunOptions, output: Path) -> None:
    """Raise UsageError where results, predictions or the cache could not be written."""
    for name, folder in (
        ("--output", str(output)),
        ("--save-predictions", options.save_predictions),
        ("COSMOS_EVAL_CACHE (--no-cache does without)", options.cache),
    ):
        try:
            if folder is not None:
                require_writable(Path(folder))
        except ValueError as error:
            raise UsageError(f"{error}; choose another folder by {name}") from error


def _in_order(outcomes: Outcomes, *, raising: bool) -> Iterator[list[Result]]:
    """Yield results in the order of the jobs, those with an error apart.

    With `raising`, an error is raised as soon as it is known.
    """
    waiting: dict[int, list[Result]] = {}
    following = 0
    for index, results in outcomes:
        for result in results:
            if raising and result.error is not None:
                raise result.error
        waiting[index] = results
        while following in waiting:
            ended = waiting.pop(following)
            following += 1
            done = [result for result in ended if result.error is None]
            failed = [result for result in ended if result.error is not None]
            yield from filter(None, (done, failed))


def reason_of(error: Exception) -> str:
    """Return an error in one line, with its type where it is none of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, CosmosEvalError) else f"{type(error).__name__}: {text}"


def existing_results(plan: Plan, output: Path) -> dict[Pair, Result]:
    """Return the existing results of a plan; an error says why one is to be measured again."""
    existing = {}
    for spec, protocol in product(plan.specs, plan.protocols):
        pair = pair_of(spec, protocol)
        path = output / f"{_stem(spec, protocol, plan.options)}.json"
        if path.exists():
            try:
                existing[pair] = Result(pair, _read_valid(spec, path), path=path)
            except UsageError as error:
                existing[pair] = Result(pair, path=path, error=error)
    return existing


def _read_valid(spec: ModelSpec, path: Path) -> ResultRow:
    """Read a result. Raises UsageError where samples, weights or code are not its own any more."""
    stored = read_files(path)
    samples_of(path, stored)
    model = stored.row.model
    file, code = local_file(spec), code_file(spec)
    if file is not None and file_sha256(file) != model["weights_sha256"]:
        raise UsageError(f"{path} is of other weights than {file} now holds")
    if code is not None and file_sha256(code) != model.get("code_sha256"):
        raise UsageError(f"{path} is of other code than {code} now holds")
    return stored.row


def _stem(spec: ModelSpec, protocol: Protocol, options: RunOptions) -> str:
    """Return the file name that the result will be stored under."""
    settings = settings_of(protocol, options, options.precision, found_part(protocol, options))
    student = spec.kind in TWO_SETS and spec.weights == "student"
    words = overrides_of(settings, student=student)
    return stem_of(spec.text, protocol.dataset, protocol.family, words)


def found_part(protocol: Protocol, options: RunOptions) -> Part | None:
    """Return how much of a known data set is there, where less than all of it is allowed.

    None for a complete set, and for one that cannot be read, which only a run reports.
    """
    if not options.allow_partial:
        return None
    try:
        return getattr(task_for(protocol).open_data(protocol, options), "part", None)
    except UsageError:
        return None
