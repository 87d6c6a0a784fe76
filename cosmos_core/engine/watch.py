"""What a run shows: a bar in a terminal or plain lines on standard error, the log, and pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from functools import partial, partialmethod
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from cosmos_core.config import TrainConfig
from cosmos_core.engine.distributed import World
from cosmos_core.engine.flops import peak_flops
from cosmos_core.engine.loggers import LOG, RunLog, missing_packages, open_log, read_log
from cosmos_core.plots.curves import draw_curves
from cosmos_core.plots.views import Inverse, draw_views, read_samples
from cosmos_core.types import Views
from cosmos_core.utils import environment
from cosmos_core.utils.files import write_atomically
from cosmos_core.utils.text import one_line

LINE_SECONDS = 30  # between the plain lines of a run that is not in a terminal
VIEWS = "views.png"
RESUMED_VIEWS = "views-resumed.png"  # the picture of the start stays
CURVES = "losses.png"
SAMPLES = 4
SHARE = 0.01  # of the time, at most, goes into drawing curves while a run goes on
GUESS = 1.0  # seconds that the first of these drawings takes


class Watch:
    """Shows and logs the steps of a run, in the first process; all processes call it alike. In
    OUTPUT/log.jsonl, `timing` holds the values in which equal runs may differ. `flops` of a sample,
    where they are known, give the MFU."""

    def __init__(self, config: TrainConfig, output: Path, world: World, *, first_step: int) -> None:
        self.config, self.output, self.world, self.first_step = config, output, world, first_step
        self._log: RunLog | None = None
        self.flops: float | None = None
        self._peak, self._slowest = _peak_flops(config, world.device), ""
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
        opening = partial(open_log, self.config, self.output, self.first_step)
        self._log = self.world.main_process_only(opening)
        if self._log is not None and self._console.is_terminal:  # else it would leave an empty line
            self._stack.enter_context(self._bar)
        for line in missing_packages(self.config.watch):
            self.say(line)
        self._since_start, self._since_line = _Meter(), _Meter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._stack.close()
        finally:
            if self._log is not None:
                self._log.close(failed=kind is not None)

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
        if step % self.config.watch.log_every == 0 or step == self.config.optim.steps - 1:
            self._write(step, record)
        self._show(step + 1, record)

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
        pace = self._pace(self._since_start)
        speed = pace["samples_per_second"]
        terms = [
            f"{name} {record[name]:.3f}" for name in self.config.method.terms if name in record
        ]
        usage = [f"MFU {pace['mfu']:.1%}"] if "mfu" in pace else []
        wait = f"data wait {pace['data_wait']:.0%}{self._slowest}"
        figures = "  ".join([*terms, f"{speed:.0f} images/s", *usage, wait])
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, figures=figures)
        elif done == optim.steps or time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            left = timedelta(seconds=round((optim.steps - done) * optim.batch_size / speed))
            self.say(f"{self.config.recipe} {done}/{optim.steps}  {figures}  {left} left")

    def _write(self, step: int, record: Mapping[str, float]) -> None:
        """Log a step, with the waits, the largest memory and the bad samples of all processes."""
        pace = self._pace(self._since_line)
        own = (pace["data_wait"], _memory(), record.get("bad_samples", 0))
        waits, memory, bad = zip(*self.world.gather(own), strict=True)
        timing = {**pace, **{name: max(one[name] for one in memory) for name in memory[0]}}
        if len(waits) > 1:
            rank, timing["data_wait"] = max(enumerate(waits), key=lambda pair: pair[1])
            timing |= {"slowest_rank": rank, "data_wait_of_rank": dict(enumerate(waits))}
            self._slowest = f" (slowest: rank {rank}, {waits[rank]:.0%})"
        if self._log is not None:
            self._log.write(step, {**record, "bad_samples": sum(bad), "timing": timing})
        self._since_line = _Meter()

    def _pace(self, meter: _Meter) -> dict[str, Any]:
        """Return the pace of a meter, with the MFU where FLOPs and peak are known."""
        pace = meter.pace(self.config.optim.batch_size)
        if self.flops and self._peak:
            done = pace["samples_per_second"] * self.flops
            pace["mfu"] = done / (self._peak * self.world.world_size)
        return pace


def _peak_flops(config: TrainConfig, device: torch.device) -> float | None:
    if config.watch.peak_tflops or device.type != "cuda":
        return config.watch.peak_tflops * 1e12 or None
    return peak_flops(torch.cuda.get_device_name(device), config.compute)


def _memory() -> dict[str, int]:
    """Return the peaks of this process in bytes: of tensors, and of what PyTorch reserves for them,
    on a GPU; else of the process."""
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return {"memory_bytes": environment.peak_memory_bytes()}
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"memory_bytes": allocated, "gpu_reserved_bytes": reserved}


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
