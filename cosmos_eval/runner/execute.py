"""Run a plan by an executor: here, on a Ray cluster, or as SLURM jobs. Imports no torch."""

import os
import sys
import traceback
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from cosmos_eval import types
from cosmos_eval.data.sources import image_sources
from cosmos_eval.models import specs
from cosmos_eval.results.checked import contradiction_of_metrics
from cosmos_eval.results.filenames import make_file_stem
from cosmos_eval.results.identity import model_identity, overrides_of
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import (
    read_files,
    record_is_unchanged,
    require_free_name,
    samples_of,
)
from cosmos_eval.runner import plan as plans
from cosmos_eval.runner.overall import OverallProgress, Stage
from cosmos_eval.runner.provenance import protocol_sha256, settings_of
from cosmos_eval.runner.run import Worker
from cosmos_eval.tasks import task_for

Outcomes = Generator[tuple[int, list[plans.Result]], None, None]
"""Yields each job's index and results when the job ends. Closing it cancels the other jobs."""

Engine = Callable[[Sequence[plans.Job], plans.ShowProgress], Outcomes]
"""Runs one job or more. It decides where and when; `Worker` measures and writes."""


def engine_of(executor: types.Executor) -> Engine:
    """Return an engine by its name. Raises UsageError if its package is not installed."""
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


def run_here(jobs: Sequence[plans.Job], show_progress: plans.ShowProgress) -> Outcomes:
    """Run jobs one after the other in this process, and yield the index and results of each.

    Under torchrun, every process calls this, and the processes share the work of each job.
    """
    stages = [_stage_of(job) for job in jobs]
    overall = OverallProgress(show_progress, "all results", stages)
    worker = Worker(overall.show)
    for index, job in enumerate(jobs):
        results = worker.run(job)
        overall.end_stage()
        yield index, results


def _stage_of(job: plans.Job) -> Stage:
    """Return a job as a stage of a run. It is expected to take as long as its images usually do."""
    protocol, data, _ = job.datasets[0]
    task = task_for(protocol)
    # Streamed data are not open yet.
    n_images = len(image_sources(data)) or task.n_samples(protocol) or 1
    return Stage("images", n_images * task.seconds)


@cache
def _worker_of_process() -> Worker:
    """Return the worker of this process, which keeps the last model."""
    return Worker()


def run_remote(job: plans.Job) -> list[plans.Result]:
    """Run a job in a process that an engine has started, and return its results.

    An error that the caller's process may not be able to unpickle is replaced by a CosmosEvalError;
    its traceback is printed in the log of this process.
    """
    os.chdir(job.folder)
    results = _worker_of_process().run(job)
    error = results[-1].error  # all failed results of a job have the same error
    can_be_unpickled = type(error) in (types.UsageError, types.CosmosEvalError)
    if error is None or can_be_unpickled:
        return results

    traceback.print_exception(error, file=sys.stderr)
    picklable_error = types.CosmosEvalError(f"{type(error).__name__}: {error}")
    portable_results = []
    for result in results:
        if result.error is not None:
            result = result._replace(error=picklable_error)
        portable_results.append(result)
    return portable_results


def execute(
    plan: plans.Plan,
    output: Path,
    engine: Engine,
    *,
    skip: Container[plans.Pair] = (),
    keep_going: bool = False,
    show_progress: plans.ShowProgress = plans.show_no_progress,
) -> Iterator[list[plans.Result]]:
    """Measure and store the pairs of a plan, and yield lists of results in the order of the jobs.

    The folders to write and the device are checked first, and then all data sets are opened. Only
    then are models measured. A list holds the results that one job has measured, or the results
    that failed for one reason: their `error` says why.

    Nothing runs before the first list is asked for. If the caller closes this generator before its
    end, the jobs that have not ended are cancelled.

    If a data set cannot be opened, or a job fails:
    - With `keep_going`, the failed results are yielded, and all other pairs are measured.
    - Otherwise, the run ends. If exactly one data set cannot be opened, its error is raised, and if
      no data set can be opened, a UsageError. If several cannot, but others can, their failed
      results are yielded so that the caller can list them, and then a UsageError is raised. The
      error of the first job that fails is raised when the job ends.

    Args:
        plan: The models and data sets.
        output: The folder of the results.
        engine: Runs the jobs: in this process, on a Ray cluster, or by SLURM.
        skip: Pairs of a model and a data set that are not measured.
        keep_going: True if the run goes on after failures.
        show_progress: Shows how far the run is.

    Raises:
        UsageError: If a folder cannot be written, if a file holds a result of other names, if the
            device cannot be used, if the folder of a data set does not exist, or if the run ends as
            described above.
        Exception: Without `keep_going`, the error of a data set or a job.
    """
    protocols = _protocols_to_measure(plan, skip)
    if not protocols:
        return
    plan.options.distributed.main_process_first(_require_outputs, plan, output)
    if engine is run_here:  # other engines compute on other machines
        plans.require_usable_device(plan.options)

    plan_to_measure = replace(plan, protocols=protocols)
    datasets = plans.open_datasets(plan_to_measure, show_progress, raising=False)
    readable_datasets = [dataset for dataset in datasets if dataset.error is None]
    errors = [dataset.error for dataset in datasets if dataset.error is not None]
    must_end = len(errors) > 0 and not keep_going
    if must_end:
        _raise_single_reason(errors, len(datasets))
    for dataset in datasets:
        if dataset.error is not None:
            yield _failures_of_dataset(plan, dataset, skip)
    if must_end:
        raise types.UsageError(
            f"{len(errors)} of {len(datasets)} data sets cannot be measured on; nothing was "
            "measured (--keep-going measures on the others)"
        )

    jobs = plans.jobs_of(plan, readable_datasets, skip, output)
    if not jobs:
        return
    # `closing` cancels the jobs that have not ended, also if this generator is closed or raises.
    with closing(engine(jobs, show_progress)) as outcomes:
        yield from _in_order_of_jobs(outcomes, jobs, keep_going=keep_going)


def _require_outputs(plan: plans.Plan, output: Path) -> None:
    """Raise UsageError if a result of a plan could not be stored in a folder."""
    plans.require_outputs(plan.options, output)
    list(_existing_files(plan, output))  # raises UsageError for files of other results


def _protocols_to_measure(plan: plans.Plan, skip: Container[plans.Pair]) -> list[types.Protocol]:
    """Return the protocols of the data sets that at least one model is to be measured on.

    Args:
        plan: The models and data sets.
        skip: Pairs of a model and a data set that are not measured.
    """
    protocols = []
    for protocol in plan.protocols:
        pairs = [plans.pair_of(spec, protocol) for spec in plan.specs]
        if any(pair not in skip for pair in pairs):
            protocols.append(protocol)
    return protocols


def _raise_single_reason(errors: Sequence[Exception], n_datasets: int) -> None:
    """Raise the error of opening data sets if there is only one, or if no data set can be opened.

    Args:
        errors: At least one error, each of another data set.
        n_datasets: The number of all data sets.

    Raises:
        Exception: The only error.
        UsageError: If there are as many errors as data sets. The message has the first error.
    """
    if len(errors) == 1:
        raise errors[0]
    if len(errors) == n_datasets:
        raise types.UsageError(
            f"none of {len(errors)} data sets can be measured on (--dry-run lists them); the first "
            f"error: {reason_of(errors[0])}"
        )


def _failures_of_dataset(
    plan: plans.Plan, dataset: plans.Dataset, skip: Container[plans.Pair]
) -> list[plans.Result]:
    """Return a failed result for each model that was to be measured on a data set.

    Args:
        plan: It has the models.
        dataset: A data set that could not be opened, with the error.
        skip: Pairs of a model and a data set that are not measured.
    """
    failures = []
    for spec in plan.specs:
        pair = plans.pair_of(spec, dataset.protocol)
        if pair not in skip:
            failures.append(plans.Result(pair, error=dataset.error))
    return failures


def _in_order_of_jobs(
    outcomes: Outcomes, jobs: Sequence[plans.Job], *, keep_going: bool
) -> Iterator[list[plans.Result]]:
    """Yield the measured results of each job, then its failed results, in the order of the jobs.

    A list without results is not yielded.

    Args:
        outcomes: The index and the results of each job, in the order in which the jobs end.
        jobs: All jobs.
        keep_going: True if failed results are yielded. If not, the error of the first job that
            fails is raised when the job ends, even if earlier jobs have not ended.

    Example:
        If job 1 ends before job 0, its results are kept until the results of job 0 are yielded.
    """
    results_by_job: dict[int, list[plans.Result]] = {}  # of ended jobs, not yielded yet
    next_index = 0  # of the first job whose results are not yielded yet
    unfinished_jobs = dict(enumerate(jobs))
    for index, results in outcomes:
        ended_job = unfinished_jobs.pop(index)
        if not keep_going:
            _require_no_failure(results, ended_job.spec, unfinished_jobs.values())
        results_by_job[index] = results
        while next_index in results_by_job:
            job_results = results_by_job.pop(next_index)
            measured = [result for result in job_results if result.error is None]
            failed = [result for result in job_results if result.error is not None]
            if measured:
                yield measured
            if failed:
                yield failed
            next_index += 1


def _require_no_failure(
    results: Iterable[plans.Result], spec: types.ModelSpec, unfinished_jobs: Iterable[plans.Job]
) -> None:
    """Raise the first error among the results of a job, which ends the run.

    If other jobs can still be measured, a UsageError also says how.

    Args:
        results: The results of the job.
        spec: The model of the job.
        unfinished_jobs: The other jobs that have not ended.
    """
    for result in results:
        if result.error is None:
            continue
        # Without its model, no other job of this model can be measured either.
        can_measure_more = any(
            not result.is_load_error or job.spec != spec for job in unfinished_jobs
        )
        if type(result.error) is types.UsageError and can_measure_more:
            advice = "--keep-going measures the other results"
            raise types.UsageError(f"{result.error} ({advice})") from result.error
        raise result.error


def reason_of(error: Exception) -> str:
    """Return an error as one line, with the name of its type unless it is an error for users.

    `ValueError("no\\nshape")` becomes `ValueError: no shape`, and `UsageError("no file x")` becomes
    `no file x`.
    """
    line = " ".join(str(error).split())
    if isinstance(error, types.CosmosEvalError):
        return line
    return f"{type(error).__name__}: {line}"


def existing_results(plan: plans.Plan, output: Path) -> dict[plans.Pair, plans.Result]:
    """Return the results of a plan that are already in the folder `output`.

    A result with an error has to be measured again, for the reason that the error states.

    Raises:
        UsageError: If a file holds a result of other names, see `require_free_name`.
    """
    results = {}
    for spec, protocol, path in _existing_files(plan, output):
        pair = plans.pair_of(spec, protocol)
        try:
            row = _read_valid(spec, protocol, path, plan.options.auxiliary)
        except types.UsageError as error:
            results[pair] = plans.Result(pair, path=path, error=error)
        else:
            results[pair] = plans.Result(pair, row, path=path)
    return results


def _existing_files(
    plan: plans.Plan, output: Path
) -> Iterator[tuple[types.ModelSpec, types.Protocol, Path]]:
    """Yield each model and data set of a plan that has a result in a folder, and the result's file.

    Raises UsageError if a file holds a result of other names, see `require_free_name`.
    """
    for spec, protocol in product(plan.specs, plan.protocols):
        settings = settings_of(protocol, plan.options, found_samples_of(protocol, plan.options))
        is_student = spec.kind in specs.TWO_SETS and spec.weights == "student"
        variants = overrides_of(settings, student=is_student)
        path = _find_result(spec, plans.pair_of(spec, protocol), variants, output)
        if path is not None:
            yield spec, protocol, path


def _find_result(
    spec: types.ModelSpec, pair: plans.Pair, variants: tuple[str, ...], output: Path
) -> Path | None:
    """Return the file of a stored result; None if there is none.

    The name of the file tells model, data set, protocol, and options that are not the usual ones.
    A user's Python file may name its model, and is not run to find that name out: the result is
    the one that records the specification of the model.

    Args:
        spec: The model.
        pair: The names of the model, the data set and the protocol.
        variants: Words for the settings that differ from the defaults.
        output: The folder of the results.

    Raises:
        UsageError: If the file holds a result of other names, see `require_free_name`.
    """
    path = output / f"{make_file_stem(*pair, variants)}.json"
    if path.exists():
        require_free_name(path, str(pair))
        return path
    if spec.kind != "python" or spec.label is not None:
        return None
    name_without_model = make_file_stem("", pair.dataset, pair.protocol, variants)
    for candidate in sorted(output.glob(f"*{name_without_model}*.json")):
        with suppress(types.UsageError):
            row = read_files(candidate).row
            row_variants = model_identity(row).variants
            row_name = make_file_stem("", row.dataset, row.protocol, row_variants)
            if row.model["spec"] == spec.text and row_name == name_without_model:
                return candidate
    return None


def _read_valid(
    spec: types.ModelSpec, protocol: types.Protocol, path: Path, auxiliary: str | None
) -> ResultRow:
    """Read a result, and check that measuring again would give the same one.

    Args:
        spec: The model that would be measured.
        protocol: How the data set would be measured.
        path: The file of the result.
        auxiliary: The specification of the model's auxiliary encoder, if it has one.

    Raises:
        UsageError: If the result was edited, or if its samples, the settings of its protocol, or
            weights or code of its models, have changed.
    """
    stored = read_files(path)
    samples_of(path, stored)  # raises UsageError if the samples have changed
    is_edited = record_is_unchanged(stored.record) is False
    if is_edited or contradiction_of_metrics(path):
        raise types.UsageError(f"{path} was edited after it was written")
    _require_same_model(spec, stored.row.model, path)
    stored_protocol_hash = stored.row.provenance.get("protocol_sha256")  # older results have none
    if stored_protocol_hash not in (None, protocol_sha256(protocol)):
        raise types.UsageError(
            f"{path} was measured with other settings than {protocol.dataset} has now, such as "
            "templates"
        )
    if auxiliary is not None:
        auxiliary_spec = specs.parse_auxiliary(auxiliary)
        _require_same_model(auxiliary_spec, stored.row.provenance["auxiliary"], path)
    return stored.row


def _require_same_model(spec: types.ModelSpec, record: Mapping[str, Any], path: Path) -> None:
    """Raise UsageError unless a model is still the one that a result records.

    Weights and code are compared if they are files of this machine, and otherwise the
    specifications.

    Args:
        spec: The model as it is now.
        record: The record of the model in the result.
        path: The file of the result, for messages.
    """
    weights_files = specs.local_weights(spec)
    weights_hash = specs.weights_sha256(weights_files) if weights_files else None
    code_hash = specs.code_sha256(spec)
    if weights_hash is not None and weights_hash != record.get("weights_sha256"):
        raise types.UsageError(f"{path} was measured with other weights than {spec.name} has now")
    if code_hash is not None and code_hash != record.get("code_sha256"):
        raise types.UsageError(f"{path} was measured with other code than {spec.name} has now")
    description_hash = specs.description_sha256(spec)
    stored_description_hash = record.get("description_sha256")  # older results have none
    is_described = description_hash is not None and stored_description_hash is not None
    if is_described and description_hash != stored_description_hash:
        raise types.UsageError(
            f"{path} was measured with other configuration files than {spec.name} has now"
        )
    has_local_files = weights_hash is not None or code_hash is not None
    if not has_local_files and record["spec"] != spec.text:
        raise types.UsageError(f"{path} is a result of {record['spec']}, not {spec.text}")


def found_samples_of(
    protocol: types.Protocol, options: types.RunOptions
) -> types.FoundSamples | None:
    """Return how many samples of an incomplete data set are on the disk.

    Return None if incomplete data sets are not allowed, for a complete data set, and for one that
    cannot be read: only a run reports that.
    """
    if not options.allow_partial:
        return None
    try:
        data = task_for(protocol).open_data(protocol, options)
    except types.UsageError:
        return None
    return getattr(data, "found_samples", None)
