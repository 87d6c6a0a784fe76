"""Run jobs on a Ray cluster: the one that RAY_ADDRESS names, else a new one on this machine.

Ray gives jobs to idle worker processes, and those of a worker that died to another one. Each job
has one processor and, unless the device is the CPU, one GPU where the cluster has some.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from cosmos_eval.runner.execute import Outcomes, run_remote
from cosmos_eval.runner.plan import Job, Watch
from cosmos_eval.types import CosmosEvalError, Progress

RETRIES = 3
"""How often a job is given to another worker after its own has died."""


def execute(jobs: Sequence[Job], watch: Watch) -> Outcomes:
    """Yield the results of jobs as they end."""
    with connected():
        on_gpu = any(job.options.device != "cpu" for job in jobs)
        gpus = int(on_gpu and ray.cluster_resources().get("GPU", 0) > 0)
        remote = ray.remote(run_remote).options(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)
        waiting = {remote.remote(job): index for index, job in enumerate(jobs)}
        try:
            while waiting:
                watch("ray", Progress("jobs", len(jobs) - len(waiting), len(jobs)))
                (ended, *_), _ = ray.wait(list(waiting))
                index = waiting.pop(ended)
                try:
                    results = ray.get(ended)
                except RayError as error:
                    reason = f"Ray gave it up after {RETRIES} retries: {str(error).splitlines()[0]}"
                    results = jobs[index].failed(CosmosEvalError(reason))
                yield index, results
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


@contextmanager
def connected(processors: int | None = None) -> Iterator[None]:
    """Connect this process to a cluster; a new one uses `processors` processors, by default all."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Output of workers would end up among the results; Ray keeps it in files.
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(num_cpus=processors, include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()
