"""Run a plan by an executor: here, on a Ray cluster, or as SLURM jobs. Imports no torch."""

import os
import sys
import traceback
from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from itertools import groupby, product
from pathlib import Path
from typing import Any

from cosmos_eval import types
from cosmos_eval.models import specs
from cosmos_eval.results.checked import contradiction_of_metrics
from cosmos_eval.results.filenames import stem_of
from cosmos_eval.results.identity import overrides_of
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import read_files, record_is_unchanged, samples_of
from cosmos_eval.runner import plan as plans
from cosmos_eval.runner.provenance import settings_of
from cosmos_eval.runner.run import Worker
from cosmos_eval.tasks import task_for

Outcomes = Generator[tuple[int, list[plans.Result]], None, None]
"""The results of jobs as they end, each with the job's index; closed, it cancels the others."""

Engine = Callable[[Sequence[plans.Job], plans.Watch], Outcomes]
"""Runs one job or more: it decides where and when, `Worker` measures and writes."""


def engine_of(executor: types.Executor) -> Engine:
    """Return an engine by its name. Raises UsageError where its package is not installed."""
    if executor == "local":
        return run_here
    try:
        engine: Engine = import_module(f"cosmos_eval.runner.{executor}").execute
    except ImportError as error:
        raise types.UsageError(
            f"--executor {executor} needs a package that is not installed ({error}): "
            f"pip install 'cosmos-eval[{executor}]'"
        ) from error
    return engine


def run_here(jobs: Sequence[plans.Job], watch: plans.Watch) -> Outcomes:
    """Run jobs one after the other in this process, or in those of a torchrun, which share each."""
    yield from enumerate(map(Worker(watch).run, jobs))


_worker = cache(Worker)


def run_remote(job: plans.Job) -> list[plans.Result]:
    """`Worker.run` in a process that an engine has started, which keeps its worker."""
    os.chdir(job.folder)
    results = _worker().run(job)
    error = results[-1].error
    if error is None or type(error) in (types.UsageError, types.CosmosEvalError):
        return results
    # It might not survive the way back: its traceback goes to this process's log.
    traceback.print_exception(error, file=sys.stderr)
    portable = types.CosmosEvalError(f"{type(error).__name__}: {error}")
    return [one if one.error is None else one._replace(error=portable) for one in results]


def execute(
    plan: plans.Plan,
    output: Path,
    engine: Engine,
    *,
    skip: Container[plans.Pair] = (),
    keep_going: bool = False,
    watch: plans.Watch = plans.unwatched,
) -> Iterator[list[plans.Result]]:
    """Measure and store the pairs of a plan that are not to be skipped, job by job in its order.

    The folders that are written, then all data, are checked first. With `keep_going`, failures are
    yielded as results with an error, those of one cause together. Otherwise the first one is
    raised; several data sets that cannot be measured on are yielded before UsageError is raised.
    """
    needed = [p for p in plan.protocols if any(plans.pair_of(m, p) not in skip for m in plan.specs)]
    if needed:
        plan.options.distributed.main_process_first(
            partial(plans.require_outputs, plan.options, output)
        )
    datasets = plans.open_datasets(replace(plan, protocols=needed), watch, raising=False)
    errors = [dataset.error for dataset in datasets if dataset.error is not None]
    if len(errors) == 1 and not keep_going:
        raise errors[0]
    for protocol, _, error in datasets:
        if error is not None:
            pairs = (plans.pair_of(spec, protocol) for spec in plan.specs)
            yield [plans.Result(pair, error=error) for pair in pairs if pair not in skip]
    if errors and not keep_going:
        raise types.UsageError(
            f"{len(errors)} of {len(datasets)} data sets cannot be measured on; nothing was "
            "measured (--keep-going measures on the others)"
        )
    jobs = plans.jobs_of(plan, [one for one in datasets if one.error is None], skip, output)
    if jobs:
        with closing(engine(jobs, watch)) as outcomes:
            yield from _in_order(outcomes, raising=not keep_going)


def _in_order(outcomes: Outcomes, *, raising: bool) -> Iterator[list[plans.Result]]:
    """Yield results in the order of the jobs, then those that failed; or raise the first error."""
    waiting: dict[int, list[plans.Result]] = {}
    following = 0
    for index, results in outcomes:
        for result in results:
            if raising and result.error is not None:
                raise result.error
        waiting[index] = results
        while following in waiting:
            for _, batch in groupby(waiting.pop(following), lambda result: result.error is None):
                yield list(batch)
            following += 1


def reason_of(error: Exception) -> str:
    """Return an error in one line, with its type where it is none of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, types.CosmosEvalError) else f"{type(error).__name__}: {text}"


def existing_results(plan: plans.Plan, output: Path) -> dict[plans.Pair, plans.Result]:
    """Return the existing results of a plan; an error says why one is to be measured again."""
    existing = {}
    for spec, protocol in product(plan.specs, plan.protocols):
        pair = plans.pair_of(spec, protocol)
        part = found_part(protocol, plan.options)
        settings = settings_of(protocol, plan.options, part)
        student = spec.kind in specs.TWO_SETS and spec.weights == "student"
        stem = stem_of(*pair, overrides_of(settings, student=student))
        path = output / f"{stem}.json"
        if path.exists():
            try:
                row = _read_valid(spec, path, plan.options.auxiliary)
                existing[pair] = plans.Result(pair, row, path=path)
            except types.UsageError as error:
                existing[pair] = plans.Result(pair, path=path, error=error)
    return existing


def _read_valid(spec: types.ModelSpec, path: Path, auxiliary: str | None) -> ResultRow:
    """Read a result. Raises UsageError where samples, weights or code are not its own any more."""
    stored = read_files(path)
    samples_of(path, stored)
    if record_is_unchanged(stored.record) is False or contradiction_of_metrics(path):
        raise types.UsageError(f"{path} was edited after it was written")
    owners: list[tuple[types.ModelSpec, Mapping[str, Any]]] = [(spec, stored.row.model)]
    if auxiliary is not None:
        owners.append((specs.parse_auxiliary(auxiliary), stored.row.provenance["auxiliary"]))
    for own, recorded in owners:
        files = specs.local_weights(own)
        weights, code = specs.weights_sha256(files) if files else None, specs.code_sha256(own)
        for what, found in {"weights": weights, "code": code}.items():
            if found is not None and found != recorded.get(f"{what}_sha256"):
                raise types.UsageError(f"{path} is of other {what} than {own.name} now holds")
        if weights is code is None and recorded["spec"] != own.text:
            raise types.UsageError(f"{path} is of {recorded['spec']}, not of {own.text}")
    return stored.row


def found_part(protocol: types.Protocol, options: types.RunOptions) -> types.Part | None:
    """Return how much of a known data set is there, where less than all of it is allowed.

    None for a complete set, and for one that cannot be read, which only a run reports.
    """
    if not options.allow_partial:
        return None
    try:
        return getattr(task_for(protocol).open_data(protocol, options), "part", None)
    except types.UsageError:
        return None
