"""Watching a run: what is shown while it goes on, and what is written down of it."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from types import TracebackType

import torch

from cosmos_core.config import TrainConfig
from cosmos_core.engine.distributed import gather_objects
from cosmos_core.engine.log import NO_TENSORBOARD, RunLog, has_tensorboard
from cosmos_core.engine.progress import Pace, TrainProgress


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
