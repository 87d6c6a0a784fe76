"""Run jobs as SLURM jobs, one each in a job array, through submitit.

Partition, GPUs and time are those of SBATCH_PARTITION, SBATCH_GPUS, SBATCH_TIMELIMIT, which
override a job's settings (https://slurm.schedmd.com/sbatch.html, input environment variables).
"""

import time
from collections.abc import Sequence

import submitit

from cosmos_eval.runner.execute import Outcomes, run_remote
from cosmos_eval.runner.plan import Job, Watch
from cosmos_eval.types import CosmosEvalError, Progress, UsageError

RETRIES = 3
"""How often a job is submitted again after it has ended without results."""

_FOLDER = ".slurm"  # below the results: what jobs receive, print and return
_MINUTES = 24 * 60  # submitit requests five minutes by default
_INTERVAL = 0.5  # seconds between two looks at jobs; submitit queries SLURM less often


def execute(jobs: Sequence[Job], watch: Watch, cluster: str = "slurm") -> Outcomes:
    """Yield the results of jobs as they end. Raises UsageError where there is no SLURM.

    `cluster` is one of submitit's: `local` starts processes of this machine instead.
    """
    executor = _executor(jobs[0], cluster)
    running = dict(enumerate(executor.map_array(run_remote, jobs)))
    retries = dict.fromkeys(running, RETRIES)
    try:
        while running:
            watch(cluster, Progress("jobs", len(jobs) - len(running), len(jobs)))
            for index in [index for index, submitted in running.items() if submitted.done()]:
                submitted = running.pop(index)
                error = submitted.exception()
                if error is None:
                    yield index, submitted.result()
                elif retries[index]:
                    retries[index] -= 1
                    running[index] = executor.submit(run_remote, jobs[index])
                else:
                    reason = f"{str(error).splitlines()[0]}; see {submitted.paths.stderr}"
                    failure = CosmosEvalError(f"no result after {RETRIES} retries: {reason}")
                    yield index, jobs[index].failed(failure)
            time.sleep(_INTERVAL)
    finally:
        for submitted in running.values():
            submitted.cancel(check=False)


def _executor(job: Job, cluster: str) -> submitit.AutoExecutor:
    try:
        assert job.output is not None
        executor = submitit.AutoExecutor(job.output / _FOLDER, cluster=cluster)
    except RuntimeError as error:
        raise UsageError(f"--executor slurm: {error}") from error
    executor.update_parameters(name="cosmos-eval", timeout_min=_MINUTES)
    return executor
