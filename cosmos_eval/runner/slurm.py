"""Run jobs as the elements of a SLURM job array, through submitit.

SBATCH_PARTITION, SBATCH_GPUS and SBATCH_TIMELIMIT set the partition, the GPUs and the time limit.
They override a job's settings (https://slurm.schedmd.com/sbatch.html, input environment variables).
"""

import time
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from io import StringIO

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from cosmos_eval.runner.execute import Outcomes, run_remote
from cosmos_eval.runner.plan import Job, Result, ShowProgress
from cosmos_eval.types import CosmosEvalError, Progress, UsageError

RETRIES = 3
"""How often a job is submitted again after it has ended without results."""

_FOLDER = ".slurm"  # in the folder of the results: the inputs, logs and outputs of jobs
_MINUTES = 24 * 60  # the time limit of a job; submitit requests five minutes by default
_PREEMPTED = "PREEMPTED"  # a state of SLURM
_INTERVAL = 0.5  # seconds between two checks of all jobs; submitit queries SLURM less often
_REQUEUE_SECONDS = 120
"""How long a job may be PREEMPTED: SLURM queues it again within a minute, or not at all."""


def execute(jobs: Sequence[Job], show_progress: ShowProgress, cluster: str = "slurm") -> Outcomes:
    """Yield the index and the results of each job when it ends.

    A job that ends without results is submitted again, three times at most.

    Args:
        jobs: The jobs. Their results are in one folder.
        show_progress: Shows how many jobs have ended.
        cluster: submitit's name of the cluster; `local` starts processes on this machine instead.

    Raises:
        UsageError: If SLURM is missing, or refuses the jobs.
    """
    executor = _make_executor(jobs[0], cluster)
    running = dict(enumerate(_submit(executor, jobs)))
    retries_left = dict.fromkeys(running, RETRIES)
    try:
        while running:
            show_progress(cluster, Progress("jobs", len(jobs) - len(running), len(jobs)))
            ended_indices = [index for index, job in running.items() if job.has_ended()]
            for index in ended_indices:
                submitted = running.pop(index)
                fault = submitted.fault()
                if not fault:
                    yield index, submitted.job.result()
                elif retries_left[index]:
                    retries_left[index] -= 1
                    running[index] = _submit(executor, [jobs[index]])[0]
                else:
                    error = CosmosEvalError(
                        f"no result after {RETRIES} retries: {fault}; "
                        f"see {submitted.job.paths.stderr}"
                    )
                    yield index, jobs[index].failed(error)
            time.sleep(_INTERVAL)
    finally:
        for submitted in running.values():
            with suppress(OSError):  # scancel is not installed
                submitted.job.cancel(check=False)


class _Submitted:
    """A job that was submitted to SLURM.

    submitit takes a preempted job for a waiting one. So the time of the preemption is kept here.
    """

    def __init__(self, job: submitit.Job[list[Result]]) -> None:
        self.job = job
        self._preempted_at: float | None = None  # in seconds of time.monotonic

    def has_ended(self) -> bool:
        """Return whether the job has ended, or is preempted and not queued again.

        Raises UsageError if the output of sacct is not a table of jobs.
        """
        try:
            if self.job.done():
                return True
            state = self.job.state
        except (KeyError, ValueError, IndexError) as error:
            output = (getattr(self.job.watcher, "_output", b"") or b"").decode(errors="replace")
            first_line = output.partition("\n")[0][:200]
            raise UsageError(
                f"--executor slurm: sacct prints no table of jobs: {first_line}"
            ) from error
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
        """Return whether the job was preempted so long ago that SLURM will not queue it again."""
        if self._preempted_at is None:
            return False
        return time.monotonic() - self._preempted_at >= _REQUEUE_SECONDS


def _submit(executor: submitit.AutoExecutor, jobs: Sequence[Job]) -> list[_Submitted]:
    """Submit jobs as one array, and return them in their order.

    Raises UsageError if sbatch is missing, refuses the jobs, or does not print their id.
    """
    try:
        with redirect_stderr(StringIO()):  # the error has the text that sbatch prints there
            submitted_jobs = executor.map_array(run_remote, jobs)
    except (FailedSubmissionError, FailedJobError, OSError) as error:
        reason = str(error).strip().partition("\n")[0] or "it failed without a message"
        raise UsageError(f"--executor slurm: sbatch: {reason}") from error
    return [_Submitted(job) for job in submitted_jobs]


def _make_executor(job: Job, cluster: str) -> submitit.AutoExecutor:
    """Return submitit's executor, whose files are beside the results of the job."""
    assert job.output is not None  # only jobs that store their results run on a cluster
    try:
        executor = submitit.AutoExecutor(job.output / _FOLDER, cluster=cluster)
    except RuntimeError as error:
        raise UsageError(f"--executor slurm: {error}") from error
    executor.update_parameters(name="cosmos-eval", timeout_min=_MINUTES)
    return executor
