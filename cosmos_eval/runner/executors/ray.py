"""Tasks on a Ray cluster: the one that RAY_ADDRESS names or runs here, else one of this machine.

Ray deals tasks to idle worker processes, and those of a worker that died to another one. Tasks
have a processor each and, unless the device is the CPU, a GPU where the cluster has some.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from cosmos_eval.runner.executors.worker import (
    Numbered,
    Outcome,
    Outcomes,
    Task,
    execute_remote,
)
from cosmos_eval.runner.run import Watch
from cosmos_eval.types import CosmosEvalError, Progress

RETRIES = 3
"""How often a task is given to another worker after its own has died."""


def execute(tasks: Sequence[Task], watch: Watch) -> Outcomes:
    """Outcomes as they come, each under the number of its task."""
    with connected():
        remote = ray.remote(execute_remote).options(
            num_cpus=1, num_gpus=_gpus(tasks), max_retries=RETRIES
        )
        waiting = {remote.remote(task): number for number, task in enumerate(tasks)}
        try:
            while waiting:
                watch("ray", Progress("tasks", len(tasks) - len(waiting), len(tasks)))
                (ended, *_), _ = ray.wait(list(waiting))
                yield Numbered(waiting.pop(ended), _outcome(ended))
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


def _outcome(reference: ray.ObjectRef[Outcome]) -> Outcome:
    try:
        return ray.get(reference)
    except RayError as error:
        reason = str(error).splitlines()[0]
        return Outcome((), CosmosEvalError(f"Ray gave it up after {RETRIES} retries: {reason}"))


def _gpus(tasks: Sequence[Task]) -> int:
    there = ray.cluster_resources().get("GPU", 0) > 0
    return int(there and any(task.machine.device != "cpu" for task in tasks))


@contextmanager
def connected(processors: int | None = None) -> Iterator[None]:
    """A connection to a cluster, for its length; one that this process has already is used.

    `processors` are those that a cluster which is started here may use; None: all.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What workers print would end up among the results; Ray keeps it in files.
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
