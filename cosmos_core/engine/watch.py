"""What a run shows: a bar in a terminal or plain lines on standard error, the log, and pictures."""

from __future__ import annotations

import importlib.util
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import partialmethod
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from cosmos_core.config import TrainConfig
from cosmos_core.engine.distributed import World
from cosmos_core.plots.curves import draw_curves
from cosmos_core.plots.views import Inverse, draw_views, read_samples
from cosmos_core.types import Views
from cosmos_core.utils import environment
from cosmos_core.utils.files import errors_of, write_atomically
from cosmos_core.utils.text import one_line

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"
NO_TENSORBOARD = (
    "no TensorBoard log: the package tensorboard is not installed "
    "(pip install 'cosmos-eval[train]'); everything is in log.jsonl"
)
LINE_SECONDS = 30  # between the plain lines of a run that is not in a terminal
VIEWS = "views.png"
RESUMED_VIEWS = "views-resumed.png"  # the picture of the start stays
CURVES = "losses.png"
SAMPLES = 4
SHARE = 0.01  # of the time, at most, goes into drawing curves while a run goes on
GUESS = 1.0  # seconds that the first of these drawings takes


class Watch:
    """Shows and logs the steps of a run, in the first process; all processes call it alike. In
    OUTPUT/log.jsonl, `timing` holds the values in which equal runs may differ."""

    def __init__(self, config: TrainConfig, output: Path, world: World, *, first_step: int) -> None:
        self.config, self.output, self.world, self.first_step = config, output, world, first_step
        self._log: RunLog | None = None
        self._since_start, self._since_line = _Meter(), _Meter()
        self._stack, self._next_line = ExitStack(), -math.inf
        plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
        self._console = Console(stderr=True, soft_wrap=True, quiet=world.rank != 0, **plain)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            # The one column that takes more lines where a terminal is narrow.
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=False)),
            console=self._console,
        )
        steps = config.optim.steps
        self._task = self._bar.add_task(config.recipe, True, steps, first_step, figures="")

    def __enter__(self) -> Watch:
        if self.world.rank == 0:
            self._log = RunLog(self.output, self.first_step)
            self._stack.callback(self._log.close)
            if self._console.is_terminal:  # elsewhere the bar would leave an empty line
                self._stack.enter_context(self._bar)
            if self._log.events is None:
                self.say(NO_TENSORBOARD)
        self._since_start, self._since_line = _Meter(), _Meter()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def _adding(self, attribute: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            for meter in (self._since_start, self._since_line):
                setattr(meter, attribute, getattr(meter, attribute) + seconds)

    waiting = partialmethod(_adding, "waited")  # counts the time of a block as waiting for data
    paused = partialmethod(_adding, "start")  # leaves the time of a block out of the pace

    def step(self, step: int, record: Mapping[str, float]) -> None:
        """Show and log a finished step, counted from 0; `record` holds its values by name."""
        for meter in (self._since_start, self._since_line):
            meter.steps += 1
        self._show(step + 1, record)
        if step % self.config.watch.log_every == 0 or step == self.config.optim.steps - 1:
            self._write(step, record)

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show and log metrics named `dataset/weights/metric`; measure the pace anew."""
        if self._log is not None:
            self._log.write(step, {"evaluation": metrics})
        for group, names in groupby(metrics, key=lambda name: name.rpartition("/")[0]):
            values = (f"{name.rpartition('/')[2]} {metrics[name]:.4g}" for name in names)
            self.say(f"step {step}: {group}: {', '.join(values)}")
        self._since_start, self._since_line = _Meter(), _Meter()

    def say(self, text: str) -> None:
        """Print a line on standard error, in a terminal above the bar."""
        self._console.print(one_line(text))

    def _show(self, done: int, record: Mapping[str, float]) -> None:
        """Show the loss terms of the last of `done` steps, the pace and the time left."""
        optim = self.config.optim
        speed, wait = self._since_start.pace(optim.batch_size).values()
        terms = [
            f"{name} {record[name]:.3f}" for name in self.config.method.terms if name in record
        ]
        figures = "  ".join([*terms, f"{speed:.0f} images/s", f"data wait {wait:.0%}"])
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, figures=figures)
        elif done == optim.steps or time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            left = timedelta(seconds=round((optim.steps - done) * optim.batch_size / speed))
            self.say(f"{self.config.recipe} {done}/{optim.steps}  {figures}  {left} left")

    def _write(self, step: int, record: Mapping[str, float]) -> None:
        """Log a step, with the longest wait, the largest memory and the bad samples of all."""
        pace = self._since_line.pace(self.config.optim.batch_size)
        on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
        memory = torch.cuda.max_memory_allocated() if on_gpu else environment.peak_memory_bytes()
        own = (pace["data_wait"], memory, record.get("bad_samples", 0))
        waits, peaks, bad = zip(*self.world.gather(own), strict=True)
        if self._log is not None:
            timing = {**pace, "data_wait": max(waits), "memory_bytes": max(peaks)}
            self._log.write(step, {**record, "bad_samples": sum(bad), "timing": timing})
        self._since_line = _Meter()


class _Meter:
    """Steps, and seconds spent waiting for batches, since a start."""

    def __init__(self) -> None:
        self.start, self.steps, self.waited = time.monotonic(), 0, 0.0

    def pace(self, batch_size: int) -> dict[str, float]:
        """Return samples of all processes per second, and the fraction of time spent waiting."""
        seconds = max(time.monotonic() - self.start, 1e-9)
        speed = self.steps * batch_size / seconds
        return {"samples_per_second": speed, "data_wait": self.waited / seconds}


class RunPictures(AbstractContextManager["RunPictures"]):
    """Draws the first batch, and the log's curves as the run goes on, in the first process. It uses
    no random generator, and reports errors in a line: the training stays the same."""

    def __init__(self, watch: Watch, inverse: Inverse) -> None:
        self._watch, self._inverse, self._config = watch, inverse, watch.config
        self._draws = self._config.watch.pictures and watch.world.rank == 0
        self._output, self._first_step, self._is_first = watch.output, watch.first_step, True
        self._drawn, self._took = time.monotonic(), GUESS
        self._title = f"{self._config.recipe} ({self._config.method.name})"

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Draw the final curves, also of a run that fails, but not where a user interrupts."""
        if kind is None or issubclass(kind, Exception):
            self._draw_curves()

    def batch(self, views: Views) -> None:
        """Draw a batch as the model gets it, if it is the first."""
        if not (self._is_first and self._draws):
            return
        self._is_first = False
        name, size = RESUMED_VIEWS if self._first_step else VIEWS, self._config.optim.batch_size
        with self._reporting(name):
            samples = read_samples(views, self._config.method.counts, self._inverse, most=SAMPLES)
            steps = f"first {len(samples)} of {size} samples of step {self._first_step}"
            path = self._output / name
            write_atomically(path, draw_views(samples, f"{self._title}: {steps}"))
            shown = f"{path} shows the first batch; {CURVES} beside it will follow"
            self._watch.say(f"pictures: {shown}")
            if name == VIEWS:  # of another run
                (self._output / RESUMED_VIEWS).unlink(missing_ok=True)

    def curves(self) -> None:
        """Draw the log so far, unless the last drawing is too recent to be worth the time."""
        if time.monotonic() - self._drawn >= self._took / SHARE:
            self._draw_curves()

    def _draw_curves(self) -> None:
        if not self._draws:
            return
        start = time.monotonic()
        with self._reporting(CURVES):
            if records := read_log(self._output / LOG):
                first, last = records[0]["step"], records[-1]["step"]
                steps = f"steps {first:,} to {last:,} of {self._config.optim.steps:,}"
                content = draw_curves(records, f"{self._title}: {steps}", self._config.method.terms)
                write_atomically(self._output / CURVES, content)
        self._drawn = time.monotonic()
        self._took = self._drawn - start

    @contextmanager
    def _reporting(self, name: str) -> Iterator[None]:
        """Report errors of the block in a line; its time does not count in the pace."""
        with self._watch.paused():
            try:
                yield
            except Exception as error:  # no error of a picture is worth a training
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                self._watch.say(f"{name} could not be drawn, the training goes on ({reason})")


class RunLog:
    """The log files of a run from `first_step` on; records of later steps are dropped."""

    def __init__(self, output: Path, first_step: int) -> None:
        self._path, self._folder = output / LOG, output / TENSORBOARD
        kept = (json.dumps(record) + "\n" for record in read_log(self._path, first_step))
        write_atomically(self._path, "".join(kept).encode())
        self._lines = self._path.open("a", encoding="utf-8")
        self._hook = threading.excepthook
        self.events: Any = None  # TensorBoard's writer, where the package is installed
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            threading.excepthook = self._report
            with errors_of(self._folder):
                self.events = SummaryWriter(str(self._folder), purge_step=first_step)

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Append a record of numbers, or mappings to them; null in JSON for NaN and infinities."""
        with errors_of(self._path):
            self._lines.write(json.dumps(_plain({"step": step, **record}), allow_nan=False) + "\n")
            self._lines.flush()
        if self.events is None:
            return
        with errors_of(self._folder):
            for name, value in record.items():
                is_group = isinstance(value, Mapping)
                group, values = (name, value) if is_group else ("train", {name: value})
                for inner, number in values.items():
                    self.events.add_scalar(f"{group}/{inner}", number, step)

    def close(self) -> None:
        """Write what is left and close the files."""
        with ExitStack() as closing:  # all of it, also where one fails
            closing.callback(setattr, threading, "excepthook", self._hook)
            closing.callback(self._close_events)
            with errors_of(self._path):
                self._lines.close()

    def _close_events(self) -> None:
        if self.events is not None:
            with errors_of(self._folder):
                self.events.close()

    def _report(self, error: threading.ExceptHookArgs) -> None:
        """Print the errors of threads but for TensorBoard's, whose next call raises them again."""
        if type(error.thread).__name__ != "_AsyncWriterThread":
            self._hook(error)


def read_log(path: Path, before: float = math.inf) -> list[dict[str, Any]]:
    """Return the complete records of a log, of steps below `before`, in order; none without file. A
    line cut by a killed process is left out."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [found for line in lines if (found := _parse(line)) and found["step"] < before]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return value if math.isfinite(value) else None
