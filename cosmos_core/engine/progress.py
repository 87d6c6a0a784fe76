"""What a training run shows: a bar in a terminal, plain lines elsewhere, on standard error."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from cosmos_core.types import LossTerms
from cosmos_core.utils.text import one_line

LINE_SECONDS = 30  # between the plain lines of a run that is not in a terminal


class Pace(NamedTuple):
    """Samples of all processes a second, and the share of the time spent waiting for batches."""

    samples_per_second: float
    data_wait: float


class TrainProgress:
    """Loss terms, images a second, the wait for data and the time left.

    `steps` counts from the run's beginning, `first_step` are over already where it is resumed.
    """

    def __init__(self, title: str, *, steps: int, first_step: int, batch_size: int) -> None:
        self._title, self._steps, self._batch_size = title, steps, batch_size
        self._console = Console(
            stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True
        )
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            # The one column that takes more lines where a terminal is narrow.
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=False)),
        )
        self._bar = Progress(*columns, console=self._console)
        self._task = self._bar.add_task(title, total=steps, completed=first_step, figures="")
        self._last_line: float | None = None

    def __enter__(self) -> TrainProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Elsewhere the bar would leave an empty line.
        if self._console.is_terminal:
            self._bar.stop()

    def update(self, done: int, record: Mapping[str, float], pace: Pace) -> None:
        """Show that `done` steps are over, and the figures of the last."""
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, figures=figures(record, pace))
        elif self._line_is_due(done):
            self._last_line = time.monotonic()
            seconds = (self._steps - done) * self._batch_size / pace.samples_per_second
            left = timedelta(seconds=round(seconds))
            self.say(f"{self._title} {done}/{self._steps}  {figures(record, pace)}  {left} left")

    def say(self, text: str) -> None:
        """Print a line; in a terminal above the bar."""
        self._console.print(one_line(text))

    def _line_is_due(self, done: int) -> bool:
        if done == self._steps or self._last_line is None:
            return True
        return time.monotonic() - self._last_line >= LINE_SECONDS


def figures(record: Mapping[str, float], pace: Pace) -> str:
    """The loss terms that a method has, and the pace, in a line."""
    terms = [f"{name} {record[name]:.3f}" for name in LossTerms._fields if record.get(name)]
    wait = f"data wait {pace.data_wait:.0%}"
    return "  ".join([*terms, f"{pace.samples_per_second:.0f} images/s", wait])
