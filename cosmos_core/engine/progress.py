"""What a training run shows: a bar in a terminal, plain lines elsewhere, on standard error."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 30  # between the plain lines of a run that is not in a terminal


class TrainProgress:
    """Losses, images a second and time left."""

    def __init__(self, title: str, steps: int, batch_size: int) -> None:
        self._steps, self._batch_size, self._title = steps, batch_size, title
        self._console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console)
        self._task = self._bar.add_task(title, total=steps, figures="")
        self._start = self._last_line = time.monotonic()

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
        self._bar.stop()

    def update(self, done: int, record: Mapping[str, float]) -> None:
        """Show that `done` steps are over, and the figures of the last."""
        now = time.monotonic()
        rate = done * self._batch_size / max(now - self._start, 1e-9)
        losses = f"clip {record['clip']:.3f}  distill {record['distill']:.3f}"
        figures = f"{losses}  {rate:.0f} images/s"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, figures=figures)
        elif done == self._steps or done == 1 or now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            left = timedelta(seconds=round((now - self._start) / done * (self._steps - done)))
            self._console.print(
                f"{self._title} {done}/{self._steps}  {figures}  {left} left", highlight=False
            )
