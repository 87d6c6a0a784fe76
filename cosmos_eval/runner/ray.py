"""Run jobs on the Ray cluster that RAY_ADDRESS names, or else on a new one on this machine.

Ray gives jobs to idle worker processes. If a worker dies, another one gets its job. Each job has
one processor and, unless its device is the CPU, one GPU if the cluster has GPUs.
"""

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError

from cosmos_eval.runner.execute import Outcomes, run_remote
from cosmos_eval.runner.plan import Job, ShowProgress
from cosmos_eval.types import CosmosEvalError, Progress

RETRIES = 3
"""How often a job is given to another worker after its worker has died."""
_INTERVAL = 5.0  # seconds between two checks of the cluster's head, and for its answer
_ATTEMPTS = 4  # connections to the head that fail before it is taken for lost


def execute(jobs: Sequence[Job], show_progress: ShowProgress) -> Outcomes:
    """Yield the index and the results of each job when it ends.

    If the head of the cluster is lost, no job is cancelled, and _HeadLostError is raised.
    """
    with connected():
        on_gpu = any(job.options.device != "cpu" for job in jobs)
        has_gpus = ray.cluster_resources().get("GPU", 0) > 0
        gpus_per_job = 1 if on_gpu and has_gpus else 0
        remote_function = ray.remote(run_remote).options(
            num_cpus=1, num_gpus=gpus_per_job, max_retries=RETRIES
        )
        # The index of each job that has not ended, by Ray's reference to it.
        waiting = {remote_function.remote(job): index for index, job in enumerate(jobs)}
        try:
            while waiting:
                show_progress("ray", Progress("jobs", len(jobs) - len(waiting), len(jobs)))
                ended_job = _wait_for_one(list(waiting))
                index = waiting.pop(ended_job)
                try:
                    results = ray.get(ended_job)
                except RayError as error:
                    reason = f"Ray gave it up after {RETRIES} retries: {str(error).splitlines()[0]}"
                    results = jobs[index].failed(CosmosEvalError(reason))
                yield index, results
        except _HeadLostError:
            waiting.clear()  # jobs of a lost cluster cannot be cancelled
            raise
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


class _HeadLostError(CosmosEvalError):
    """The head of the cluster does not accept connections any more."""


def _wait_for_one(references: list[Any]) -> Any:
    """Return the reference to a job that has ended, once there is one.

    Raises _HeadLostError if the head of the cluster is gone.
    """
    while True:
        ended_jobs, _ = ray.wait(references, timeout=_INTERVAL)
        if ended_jobs:
            return ended_jobs[0]
        _require_head()


def _require_head() -> None:
    """Raise _HeadLostError if the head of the cluster does not accept connections.

    Ray itself would end this process a minute later, without an error that a user understands.
    """
    address = ray.get_runtime_context().gcs_address
    host, _, port = address.rpartition(":")
    for n_failed in range(_ATTEMPTS):
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_INTERVAL).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(n_failed)
    raise _HeadLostError(
        f"--executor ray: the head of the cluster at {address} is gone ({reason}); "
        "results so far are complete: start it, and run the same command again"
    )


@contextmanager
def connected(processors: int | None = None) -> Iterator[None]:
    """Connect this process to a cluster, unless it is connected already.

    A new cluster uses this number of processors, by default all.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        num_cpus=processors,
        include_dashboard=False,
        log_to_driver=False,  # the workers' output would be printed among the results
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()
