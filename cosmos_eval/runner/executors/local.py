"""Tasks one after the other in this process, or in those of a torchrun, which share each."""

from __future__ import annotations

from collections.abc import Sequence

from cosmos_eval.runner.executors.worker import Numbered, Outcomes, Task, Worker
from cosmos_eval.runner.run import Watch


def execute(tasks: Sequence[Task], watch: Watch) -> Outcomes:
    """Outcomes in the order of the tasks, each under its number."""
    worker = Worker(watch)
    for number, task in enumerate(tasks):
        yield Numbered(number, worker.execute(task))
