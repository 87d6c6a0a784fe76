"""Run jobs on a Ray cluster: the one that RAY_ADDRESS names, else a new one on this machine.

Ray gives jobs to idle worker processes, and those of a worker that died to another one. Each job
has one processor and, unless the device is the CPU, one GPU where the cluster has some.
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
from cosmos_eval.runner.plan import Job, Watch
from cosmos_eval.types import CosmosEvalError, Progress

RETRIES = 3
"""How often a job is given to another worker after its own has died."""
_INTERVAL = 5.0  # seconds between two looks at the head, and for its answer
_ATTEMPTS = 4


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
                while not (ready := ray.wait(list(waiting), timeout=_INTERVAL)[0]):
                    _require_head()
                ended = ready[0]
                index = waiting.pop(ended)
                try:
                    results = ray.get(ended)
                except RayError as error:
                    reason = f"Ray gave it up after {RETRIES} retries: {str(error).splitlines()[0]}"
                    results = jobs[index].failed(CosmosEvalError(reason))
                yield index, results
        except _HeadLostError:
            waiting.clear()  # nobody is left to cancel them
            raise
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


class _HeadLostError(CosmosEvalError):
    """The head of the cluster does not accept connections any more."""


def _require_head() -> None:
    """Raise _HeadLostError if Ray's head is gone: Ray itself ends this process a minute later."""
    address = ray.get_runtime_context().gcs_address
    host, _, port = address.rpartition(":")
    for attempt in range(_ATTEMPTS):
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_INTERVAL).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(attempt)
    raise _HeadLostError(
        f"--executor ray: the head of the cluster at {address} is gone ({reason}); "
        "results so far are complete: start it, and run the same command again"
    )


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
