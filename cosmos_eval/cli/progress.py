"""Progress of long commands on standard error: bars on a terminal, elsewhere lines now and then."""

from __future__ import annotations

import time
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from cosmos_eval.results.text import one_line
from cosmos_eval.types import OnProgress
from cosmos_eval.types import Progress as Step

_INTERVAL = 10.0  # seconds between two lines about the same phase, without a terminal


class Progress:
    """Shows how far the phases of a command are.

    Without a terminal, no line is printed for phases that end quickly. So an error in the data or
    in the name of a model is the only line that a user sees.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self._console = Console(
            stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=silent
        )
        description = TextColumn("{task.description}", markup=False)
        columns = (description, BarColumn(), MofNCompleteColumn())
        self._bars = Bars(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        # The bar of each phase, by the phase's title.
        self._tasks: dict[str, TaskID] = {}
        # When the last line about each phase was printed, or its first step was shown, in seconds
        # of `time.monotonic`.
        self._time_of_last_line: dict[str, float] = {}

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:  # in a file, the bars would leave an empty line
            self._bars.stop()

    def print(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(one_line(line))

    def hide_bars(self) -> None:
        """Remove the bars of phases that are over."""
        for task in self._tasks.values():
            self._bars.update(task, visible=False)

    def steps_of(self, subject: str) -> OnProgress:
        """Return a callback that shows how far the phases of one subject are, as `step` does."""
        return partial(self.step, subject)

    def step(self, subject: str, step: Step) -> None:
        """Show how far a phase is, and its note; the first call of a phase starts it.

        On a terminal, every phase has a bar. Elsewhere, a line is printed every ten seconds.

        Args:
            subject: The subject of the phase, such as `scenes-clip on voc20`.
            step: The name of the phase, and how far it is.
        """
        title = f"{subject}: {step.phase}"
        if step.note:
            self.print(f"{subject}: {step.note}")
        if self._console.is_terminal:
            if title not in self._tasks:
                self._tasks[title] = self._bars.add_task(one_line(title))
            self._bars.update(self._tasks[title], completed=step.done, total=step.total)
            return

        now = time.monotonic()
        last_time = self._time_of_last_line.setdefault(title, now)
        if now - last_time >= _INTERVAL:
            self._time_of_last_line[title] = now
            self.print(f"{title} {step.done}/{step.total}")
