"""Progress of long commands on standard error: bars on a terminal, elsewhere lines now and then."""

from __future__ import annotations

import time
from datetime import timedelta
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from cosmos_eval.results.text import one_line
from cosmos_eval.runner.overall import OVERALL
from cosmos_eval.types import OnProgress
from cosmos_eval.types import Progress as Step

_INTERVAL = 10.0  # seconds between two lines about the same phase, without a terminal


class Progress:
    """Shows how far the phases of a command are, and how long they will take.

    Without a terminal, no line is printed for phases that end quickly. So an error in the data or
    in the name of a model is the only line that a user sees.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self._console = Console(
            stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=silent
        )
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.fields[time_left]}", markup=False),
            console=self._console,
            transient=True,
        )
        # The bar of each phase, by the phase's title.
        self._tasks: dict[str, TaskID] = {}
        # The time that each phase needs, by its title.
        self._clocks: dict[str, _Clock] = {}
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
        """Remove the bars of phases that are over. The bar of the whole command stays."""
        for title, task in self._tasks.items():
            if not title.startswith(f"{OVERALL}: "):
                self._bars.update(task, visible=False)

    def steps_of(self, subject: str) -> OnProgress:
        """Return a callback that shows how far the phases of one subject are, as `step` does."""
        return partial(self.step, subject)

    def step(self, subject: str, step: Step) -> None:
        """Show how far a phase is, and its note; the first call of a phase starts it.

        On a terminal, every phase has a bar. Elsewhere, a line is printed every ten seconds.

        Args:
            subject: The subject of the phase, such as `scenes-clip on voc20`, or OVERALL for the
                whole command, which is shown in percent.
            step: The name of the phase, and how far it is.
        """
        title = f"{subject}: {step.phase}"
        if step.note:
            self.print(f"{subject}: {step.note}")
        now = time.monotonic()
        seconds_left = self._clocks.setdefault(title, _Clock()).seconds_left(step, now)
        time_left = "" if seconds_left is None else str(timedelta(seconds=round(seconds_left)))
        count = f"{step.done}/{step.total}"
        if subject == OVERALL:
            count = f"{100 * step.done // step.total}%"
        if step.state:
            count = step.state

        if self._console.is_terminal:
            if title not in self._tasks:
                self._tasks[title] = self._bars.add_task(one_line(title), count="", time_left="")
            self._bars.update(
                self._tasks[title],
                completed=step.done,
                total=step.total,
                count=count,
                time_left=time_left or "-:--:--",
            )
            return

        last_time = self._time_of_last_line.setdefault(title, now)
        if now - last_time >= _INTERVAL:
            self._time_of_last_line[title] = now
            self.print(f"{title} {count}, {time_left} left" if time_left else f"{title} {count}")


class _Clock:
    """Estimates how long a phase still needs, by its mean speed so far."""

    def __init__(self) -> None:
        """Start before the first step."""
        # The time of the step that the speed is measured from, and how far the phase was by then.
        self._start_time = 0.0
        self._start_done = 0
        # How far the phase was at the last step; None before the first step.
        self._last_done: int | None = None

    def seconds_left(self, step: Step, now: float) -> float | None:
        """Return the estimated seconds from a step to the end; None if the speed is not known yet.

        The speed is measured from the first step. It is measured again from a step that begins the
        phase again, and from a step with a note: it may report what an earlier run has done.

        Args:
            step: How far the phase is.
            now: The time of the step, in seconds.

        Example:
            20 of 100 images at 1000 s, and 40 of 100 at 1010 s: 30 s are left.
        """
        begins_again = self._last_done is None or step.done < self._last_done or step.note
        self._last_done = step.done
        if begins_again:
            self._start_time = now
            self._start_done = step.done
        n_steps = step.done - self._start_done
        if n_steps == 0:
            return None
        return (step.total - step.done) * (now - self._start_time) / n_steps
