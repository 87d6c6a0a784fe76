"""What carries out the tasks of a run, in this process or in one that an engine has started."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Generator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from cosmos_core.utils import environment
from cosmos_eval._version import __version__
from cosmos_eval.results.store import write_result
from cosmos_eval.runner.plan import Machine
from cosmos_eval.runner.run import Job, Loaded, Watch, load, measure, unwatched
from cosmos_eval.types import CosmosEvalError, ModelSpec, RunOptions, UsageError


class Task(NamedTuple):
    """A job and everything else that decides its results, to be sent to another process.

    Results go to `output`. `command` is the command line that results name; paths are relative to
    `folder`, which all processes must have.
    """

    job: Job
    options: RunOptions
    machine: Machine
    output: Path
    command: str
    folder: str


class Outcome(NamedTuple):
    """The result files of a task, in the order of its protocols, and what ended it early."""

    stored: tuple[Path, ...]
    error: Exception | None = None


class Numbered(NamedTuple):
    """What came of the task of this number."""

    number: int
    outcome: Outcome


Outcomes = Generator[Numbered, None, None]
"""Outcomes as they come; closed, it leaves alone what is not done."""


class Worker:
    """Carries out tasks one after the other; keeps the last model, which the next may have too."""

    def __init__(self, watch: Watch = unwatched) -> None:
        self._watch = watch
        self._spec: ModelSpec | None = None
        self._model: Loaded | Exception | None = None

    def execute(self, task: Task) -> Outcome:
        """Measure and store. Errors are returned: they are the task's, not the worker's."""
        stored: list[Path] = []
        try:
            model = self._loaded(task)
            surroundings = {**environment.describe(__version__), "command": task.command}
            protocols, options = task.job.protocols, task.options
            for finished in measure(model, protocols, options, surroundings, self._watch):
                write = partial(write_result, task.output, *finished)
                path = options.distributed.main_process_only(write)
                if path is not None:
                    stored.append(path)
        except Exception as error:
            return Outcome(tuple(stored), error)
        return Outcome(tuple(stored))

    def _loaded(self, task: Task) -> Loaded:
        """The task's model. One that could not be loaded is not tried again by its next task."""
        if task.job.spec != self._spec:
            self._spec, self._model = task.job.spec, None  # its memory is free before the next
            try:
                self._model = load(
                    task.job.spec, task.machine, task.options.distributed, self._watch
                )
            except Exception as error:
                self._model = error
        if isinstance(self._model, Loaded):
            return self._model
        assert self._model is not None  # it was loaded or failed
        raise self._model


_worker = cache(Worker)


def execute_remote(task: Task) -> Outcome:
    """`Worker.execute` in a process that an engine has started, which keeps its worker.

    An error of another kind than ours might not survive the way back: its trace goes to this
    process's log.
    """
    os.chdir(task.folder)
    stored, error = _worker().execute(task)
    if error is None or type(error) in (UsageError, CosmosEvalError):
        return Outcome(stored, error)
    traceback.print_exception(error, file=sys.stderr)
    return Outcome(stored, CosmosEvalError(f"{type(error).__name__}: {error}"))
