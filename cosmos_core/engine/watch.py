"""What a training run shows: a bar in a terminal, plain lines elsewhere, on standard error."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from cosmos_core.config import TrainConfig
from cosmos_core.engine.distributed import gather_objects
from cosmos_core.engine.log import NO_TENSORBOARD, RunLog, has_tensorboard
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


class Watch:
    """Shows and logs the steps of a run; a context manager.

    Every process makes one and calls it alike; the first shows and writes. In OUTPUT/log.jsonl the
    figures that two equal runs need not share are apart, under `timing`. Raises ValueError for
    `watch.log_every` below 1.
    """

    def __init__(self, config: TrainConfig, output: Path, *, rank: int, first_step: int) -> None:
        if config.watch.log_every < 1:
            raise ValueError(f"watch.log_every is {config.watch.log_every}; it must be at least 1")
        self._config, self._output = config, output
        self._first, self._first_step = rank == 0, first_step
        self._since_start, self._since_line = _Meter(), _Meter()
        self._progress: TrainProgress | None = None
        self._log: RunLog | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Watch:
        if self._first:
            self._log = RunLog(self._output, self._first_step)
            self._stack.callback(self._log.close)
            progress = TrainProgress(
                self._config.recipe,
                steps=self._config.optim.steps,
                first_step=self._first_step,
                batch_size=self._config.optim.batch_size,
            )
            self._progress = self._stack.enter_context(progress)
            if not has_tensorboard():
                self.say(NO_TENSORBOARD)
        self._restart()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent in here counts as waiting for data."""
        start = time.monotonic()
        try:
            yield
        finally:
            for meter in (self._since_start, self._since_line):
                meter.waited += time.monotonic() - start

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time spent in here counts in no step's pace."""
        start = time.monotonic()
        try:
            yield
        finally:
            for meter in (self._since_start, self._since_line):
                meter.leave_out(time.monotonic() - start)

    def step(self, step: int, record: Mapping[str, float]) -> None:
        """Take note of a finished step, counted from 0; `record` holds its figures by name."""
        optim = self._config.optim
        for meter in (self._since_start, self._since_line):
            meter.steps += 1
        if self._progress is not None:
            self._progress.update(step + 1, record, self._since_start.pace(optim.batch_size))
        if step % self._config.watch.log_every == 0 or step == optim.steps - 1:
            self._write(step, record)

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take note of an evaluation after a step; names are `dataset/weights/metric`.

        The time it took counts in no step's pace.
        """
        if self._log is not None:
            self._log.write(step, {"evaluation": metrics})
        for group, names in groupby(metrics, key=lambda name: name.rpartition("/")[0]):
            values = (f"{name.rpartition('/')[2]} {metrics[name]:.4g}" for name in names)
            self.say(f"step {step}: {group}: {', '.join(values)}")
        self._restart()

    def say(self, text: str) -> None:
        """Print a line on standard error, in a terminal above the bar."""
        if self._progress is not None:
            self._progress.say(text)

    def _write(self, step: int, record: Mapping[str, float]) -> None:
        """A log line; the slowest loader and the fullest memory of all processes."""
        pace = self._since_line.pace(self._config.optim.batch_size)
        waits, memory = zip(*gather_objects((pace.data_wait, peak_memory_bytes())), strict=True)
        if self._log is not None:
            timing = {**pace._asdict(), "data_wait": max(waits), "memory_bytes": max(memory)}
            self._log.write(step, {**record, "timing": timing})
        self._since_line = _Meter()

    def _restart(self) -> None:
        self._since_start, self._since_line = _Meter(), _Meter()


class _Meter:
    """Steps, and seconds spent waiting for batches, since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.steps, self.waited = 0, 0.0

    def leave_out(self, seconds: float) -> None:
        """Count as if these seconds had not passed."""
        self._start += seconds

    def pace(self, batch_size: int) -> Pace:
        """Of all steps so far, `batch_size` samples each."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        return Pace(self.steps * batch_size / seconds, self.waited / seconds)


def peak_memory_bytes() -> float:
    """The most memory that tensors took on the GPU, or without one this process on the machine.

    NaN where the system does not tell.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # getrusage(2): kilobytes on Linux, bytes on macOS.
    return peak if sys.platform == "darwin" else peak * 1024
