"""Engines that carry out the tasks of a run: here, on a Ray cluster, as SLURM jobs.

An engine is a function in a module of its own, which takes one task or more. Whichever it is, tasks
are carried out by `Worker`: an engine decides where and when, not what is measured or written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cosmos_eval.runner.executors.worker import Outcomes, Task
from cosmos_eval.runner.run import Watch
from cosmos_eval.types import Executor, UsageError

Engine = Callable[[Sequence[Task], Watch], Outcomes]


def engine_of(executor: Executor) -> Engine:
    """The engine of a name. Raises UsageError where the package it needs is not installed."""
    try:
        match executor:
            case "local":
                from cosmos_eval.runner.executors.local import execute
            case "ray":
                from cosmos_eval.runner.executors.ray import execute
            case "slurm":
                from cosmos_eval.runner.executors.slurm import execute
    except ImportError as error:
        raise UsageError(
            f"--executor {executor} needs a package that is not installed ({error}): "
            f"pip install 'cosmos-eval[{executor}]'"
        ) from error
    return execute
