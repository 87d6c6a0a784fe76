"""Progress of long commands on standard error: bars on a terminal, elsewhere lines now and then."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from cosmos_eval.results.text import one_line
from cosmos_eval.types import Progress as Step

_INTERVAL = 10.0  # seconds between two lines about the same phase where there is no terminal


class Progress:
    """Nothing is printed for phases that end quickly, so that an error in the data or in the
    model's name stays the only line."""

    def __init__(self, *, silent: bool = False) -> None:
        self._console = Console(
            stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=silent
        )
        description = TextColumn("{task.description}", markup=False)
        columns = (description, BarColumn(), MofNCompleteColumn())
        self._bars = Bars(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Elsewhere the bars would leave an empty line.
        if self._console.is_terminal:
            self._bars.stop()

    def print(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(one_line(line))

    def hide_bars(self) -> None:
        """Remove the bars of phases that are over."""
        for task in self._tasks.values():
            self._bars.update(task, visible=False)

    def step(self, what: str, step: Step) -> None:
        """Show how far a phase is, and its note; the first call of a phase starts it."""
        key, now = f"{what}: {step.phase}", time.monotonic()
        if step.note:
            self.print(f"{what}: {step.note}")
        if self._console.is_terminal:
            if key not in self._tasks:
                self._tasks[key] = self._bars.add_task(one_line(key))
            self._bars.update(self._tasks[key], completed=step.done, total=step.total)
        elif now - self._last_line.setdefault(key, now) >= _INTERVAL:
            self._last_line[key] = now
            self.print(f"{key} {step.done}/{step.total}")
