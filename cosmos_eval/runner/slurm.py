"""Run jobs as SLURM jobs, one each in a job array, through submitit.

Partition, GPUs and time are those of SBATCH_PARTITION, SBATCH_GPUS, SBATCH_TIMELIMIT, which
override a job's settings (https://slurm.schedmd.com/sbatch.html, input environment variables).
"""

import time
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from io import StringIO

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from cosmos_eval.runner.execute import Outcomes, run_remote
from cosmos_eval.runner.plan import Job, Result, Watch
from cosmos_eval.types import CosmosEvalError, Progress, UsageError

RETRIES = 3
"""How often a job is submitted again after it has ended without results."""

_FOLDER = ".slurm"  # below the results: what jobs receive, print and return
_MINUTES = 24 * 60  # submitit requests five minutes by default
_PREEMPTED = "PREEMPTED"
_INTERVAL = 0.5  # seconds between two looks at jobs; submitit queries SLURM less often
_REQUEUE_SECONDS = 120
"""How long a job may be PREEMPTED: SLURM queues it again within a minute, or not at all."""


def execute(jobs: Sequence[Job], watch: Watch, cluster: str = "slurm") -> Outcomes:
    """Yield the results of jobs as they end. Raises UsageError where there is no SLURM.

    `cluster` is one of submitit's: `local` starts processes of this machine instead.
    """
    executor = _executor(jobs[0], cluster)
    running = dict(enumerate(map(_Submitted, _submit(executor, jobs))))
    retries = dict.fromkeys(running, RETRIES)
    try:
        while running:
            watch(cluster, Progress("jobs", len(jobs) - len(running), len(jobs)))
            for index in [index for index, submitted in running.items() if submitted.has_ended()]:
                submitted = running.pop(index)
                fault = submitted.fault()
                if not fault:
                    yield index, submitted.job.result()
                elif retries[index]:
                    retries[index] -= 1
                    running[index] = _Submitted(*_submit(executor, [jobs[index]]))
                else:
                    reason = f"{fault}; see {submitted.job.paths.stderr}"
                    failure = CosmosEvalError(f"no result after {RETRIES} retries: {reason}")
                    yield index, jobs[index].failed(failure)
            time.sleep(_INTERVAL)
    finally:
        for submitted in running.values():
            with suppress(OSError):  # no scancel
                submitted.job.cancel(check=False)


class _Submitted:
    """A job of SLURM's, and since when it has been preempted, which submitit takes for waiting."""

    def __init__(self, job: submitit.Job[list[Result]]) -> None:
        self.job = job
        self._preempted_at: float | None = None

    def has_ended(self) -> bool:
        """Tell whether the job has ended, or is preempted and not queued again. Raises UsageError
        where sacct prints no table."""
        try:
            if self.job.done():
                return True
            state = self.job.state
        except (KeyError, ValueError, IndexError) as error:
            output = (getattr(self.job.watcher, "_output", b"") or b"").decode(errors="replace")
            first = output.partition("\n")[0][:200]
            raise UsageError(f"--executor slurm: sacct prints no table of jobs: {first}") from error
        if state.upper() != _PREEMPTED:
            self._preempted_at = None
        elif self._preempted_at is None:
            self._preempted_at = time.monotonic()
        return self._is_lost()

    def fault(self) -> str:
        """Return why an ended job has no result, in one line; empty if it has one."""
        if self._is_lost():
            return f"job {self.job.job_id} is {_PREEMPTED} and was not queued again"
        error = self.job.exception()
        return "" if error is None else str(error).partition("\n")[0]

    def _is_lost(self) -> bool:
        since = self._preempted_at
        return since is not None and time.monotonic() - since >= _REQUEUE_SECONDS


def _submit(
    executor: submitit.AutoExecutor, jobs: Sequence[Job]
) -> list[submitit.Job[list[Result]]]:
    """Submit jobs as an array. Raises UsageError if sbatch is missing, refuses or prints no id."""
    try:
        with redirect_stderr(StringIO()):  # what sbatch prints there is in the error
            return executor.map_array(run_remote, jobs)
    except (FailedSubmissionError, FailedJobError, OSError) as error:
        reason = str(error).strip().partition("\n")[0] or "it failed without a message"
        raise UsageError(f"--executor slurm: sbatch: {reason}") from error


def _executor(job: Job, cluster: str) -> submitit.AutoExecutor:
    try:
        assert job.output is not None
        executor = submitit.AutoExecutor(job.output / _FOLDER, cluster=cluster)
    except RuntimeError as error:
        raise UsageError(f"--executor slurm: {error}") from error
    executor.update_parameters(name="cosmos-eval", timeout_min=_MINUTES)
    return executor
