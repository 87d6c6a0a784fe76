"""Run jobs on a Ray cluster: the one that RAY_ADDRESS names, else a new one on this machine.

Ray gives jobs to idle worker processes, and those of a worker that died to another one. Each job
has one processor and, unless the device is the CPU, one GPU where the cluster has some.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from cosmos_eval.runner.execute import Outcomes, run_remote
from cosmos_eval.runner.plan import Job, Result, Watch
from cosmos_eval.types import CosmosEvalError, Progress

RETRIES = 3
"""How often a job is given to another worker after its own has died."""


def execute(jobs: Sequence[Job], watch: Watch) -> Outcomes:
    """Results as jobs end, each with the job's index."""
    with connected():
        remote = ray.remote(run_remote).options(
            num_cpus=1, num_gpus=_gpus(jobs), max_retries=RETRIES
        )
        waiting = {remote.remote(job): index for index, job in enumerate(jobs)}
        try:
            while waiting:
                watch("ray", Progress("jobs", len(jobs) - len(waiting), len(jobs)))
                (ended, *_), _ = ray.wait(list(waiting))
                index = waiting.pop(ended)
                yield index, _results(ended, jobs[index])
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


def _results(reference: ray.ObjectRef[list[Result]], job: Job) -> list[Result]:
    try:
        return ray.get(reference)
    except RayError as error:
        reason = str(error).splitlines()[0]
        failure = CosmosEvalError(f"Ray gave it up after {RETRIES} retries: {reason}")
        return job.failed(failure)


def _gpus(jobs: Sequence[Job]) -> int:
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    return int(has_gpus and any(job.options.device != "cpu" for job in jobs))


@contextmanager
def connected(processors: int | None = None) -> Iterator[None]:
    """Connect to a cluster for the length of a block; use the connection of this process, if any.

    A new cluster uses `processors` processors, by default all.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Output of workers would end up among the results; Ray keeps it in files.
    ray.init(
        num_cpus=processors,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()
