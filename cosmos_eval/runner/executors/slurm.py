"""Tasks as SLURM jobs, one each in a job array, through submitit.

What jobs ask for (partition, GPUs, time) is sbatch's own affair: it reads SBATCH_PARTITION,
SBATCH_GPUS, SBATCH_TIMELIMIT and others from the environment, which go before what stands in a job
(https://slurm.schedmd.com/sbatch.html, input environment variables).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import submitit

from cosmos_eval.runner.executors.worker import (
    Numbered,
    Outcome,
    Outcomes,
    Task,
    execute_remote,
)
from cosmos_eval.runner.run import Watch
from cosmos_eval.types import CosmosEvalError, Progress, UsageError

RETRIES = 3
"""How often a job is submitted again after it has ended without an outcome."""

_FOLDER = ".slurm"  # below the results: what jobs are told, print and answer
_MINUTES = 24 * 60  # submitit asks for five minutes where nothing is said
_PATIENCE = 0.5  # seconds between two looks at jobs; submitit asks SLURM less often


def execute(tasks: Sequence[Task], watch: Watch, cluster: str = "slurm") -> Outcomes:
    """Outcomes as they come, each under the number of its task.

    `cluster` is one of submitit's: `local` starts processes of this machine instead. Raises
    UsageError where there is no SLURM.
    """
    executor = _executor(tasks[0], cluster)
    jobs = dict(enumerate(executor.map_array(execute_remote, tasks)))
    retries = dict.fromkeys(jobs, RETRIES)
    try:
        while jobs:
            watch(cluster, Progress("jobs", len(tasks) - len(jobs), len(tasks)))
            for number in [number for number, job in jobs.items() if job.done()]:
                job = jobs.pop(number)
                error = job.exception()
                if error is None:
                    yield Numbered(number, job.result())
                elif retries[number]:
                    retries[number] -= 1
                    jobs[number] = executor.submit(execute_remote, tasks[number])
                else:
                    yield Numbered(number, Outcome((), _given_up(job, error)))
            time.sleep(_PATIENCE)
    finally:
        for job in jobs.values():
            job.cancel(check=False)


def _executor(task: Task, cluster: str) -> submitit.AutoExecutor:
    try:
        executor = submitit.AutoExecutor(task.output / _FOLDER, cluster=cluster)
    except RuntimeError as error:
        raise UsageError(f"--executor slurm: {error}") from error
    executor.update_parameters(name="cosmos-eval", timeout_min=_MINUTES)
    return executor


def _given_up(job: submitit.Job[Outcome], error: Exception) -> CosmosEvalError:
    reason = str(error).splitlines()[0]
    return CosmosEvalError(f"no outcome after {RETRIES} retries: {reason}; see {job.paths.stderr}")
