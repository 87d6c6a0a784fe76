"""Show a run: a progress bar or plain lines on standard error, the log, and pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
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
RESUMED_VIEWS = "views-resumed.png"  # a resumed run does not replace the picture of the start
CURVES = "losses.png"
SAMPLES = 4  # samples in the picture of the first batch
MAX_DRAWING_SHARE = 0.01  # the largest fraction of a run's time that goes into drawing curves
FIRST_DRAWING_SECONDS = 1.0  # the expected duration of the first drawing


class Watch:
    """Shows and logs the steps of a run, in the first process; all processes call it.

    In OUTPUT/log.jsonl, `timing` holds the values in which equal runs may differ. If `flops`, the
    operations of a sample, and the peak of the device are known, it has the model FLOPs utilisation
    (MFU).
    """

    def __init__(self, config: TrainConfig, output: Path, world: World, *, first_step: int) -> None:
        self.config = config
        self.output = output
        self.world = world
        self.first_step = first_step
        self.flops: float | None = None
        self._peak_flops = _peak_flops(config, world.device)
        self._log: RunLog | None = None
        self._stack = ExitStack()
        self._since_start, self._since_line = _Meter(), _Meter()
        # Names the process that waited longest for data, once it is known.
        self._slowest_process = ""
        # When the next plain line may be printed.
        self._next_line_at = -math.inf
        self._console = Console(
            stderr=True,
            soft_wrap=True,
            quiet=world.rank > 0,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            # The one column that is wrapped in a narrow terminal.
            TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=False)),
            console=self._console,
        )
        self._task = self._bar.add_task(
            config.recipe, total=config.optim.steps, completed=first_step, figures=""
        )

    def __enter__(self) -> Watch:
        self._log = self.world.main_process_only(self._open_log)
        # In a file the bar would leave an empty line.
        if self._log is not None and self._console.is_terminal:
            self._stack.enter_context(self._bar)
        for line in missing_packages(self.config.watch):
            self.say(line)
        self._since_start, self._since_line = _Meter(), _Meter()
        return self

    def _open_log(self) -> RunLog:
        return open_log(self.config, self.output, self.first_step)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._stack.close()
        finally:
            if self._log is not None:
                self._log.close(failed=kind is not None)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for data."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self._since_start.waiting_seconds += seconds
            self._since_line.waiting_seconds += seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out of the pace."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self._since_start.start += seconds
            self._since_line.start += seconds

    def step(self, step: int, record: Mapping[str, float]) -> None:
        """Show and log a finished step, counted from 0; `record` holds its values by name."""
        self._since_start.steps += 1
        self._since_line.steps += 1
        if step % self.config.watch.log_every == 0 or step == self.config.optim.steps - 1:
            self._log_step(step, record)
        self._show(step + 1, record)

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show and log metrics named `dataset/weights/metric`, and start to measure the pace again.

        Metrics of the same data set and weights, which follow each other, are shown in one line.
        """
        if self._log is not None:
            self._log.write(step, {"evaluation": metrics})
        for prefix, names in groupby(metrics, key=lambda name: name.rpartition("/")[0]):
            values = [f"{name.rpartition('/')[2]} {metrics[name]:.4g}" for name in names]
            self.say(f"step {step}: {prefix}: {', '.join(values)}")
        self._since_start, self._since_line = _Meter(), _Meter()

    def say(self, text: str) -> None:
        """Print a line on standard error, in a terminal above the bar."""
        self._console.print(one_line(text))

    def _show(self, steps_done: int, record: Mapping[str, float]) -> None:
        """Show the loss terms of the last step, the pace and the remaining time."""
        optim, recipe = self.config.optim, self.config.recipe
        pace = self._pace(self._since_start)
        speed = pace["samples_per_second"]
        columns = [
            f"{name} {record[name]:.3f}" for name in self.config.method.terms if name in record
        ]
        columns.append(f"{speed:.0f} images/s")
        if "mfu" in pace:
            columns.append(f"MFU {pace['mfu']:.1%}")
        columns.append(f"data wait {pace['data_wait']:.0%}{self._slowest_process}")
        figures = "  ".join(columns)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=steps_done, figures=figures)
        elif steps_done == optim.steps or time.monotonic() >= self._next_line_at:
            self._next_line_at = time.monotonic() + LINE_SECONDS
            remaining_samples = (optim.steps - steps_done) * optim.batch_size
            remaining = timedelta(seconds=round(remaining_samples / speed))
            self.say(f"{recipe} {steps_done}/{optim.steps}  {figures}  {remaining} left")

    def _log_step(self, step: int, record: Mapping[str, float]) -> None:
        """Log a step, with the waits, the peak memory and the bad samples of all processes."""
        timing = self._pace(self._since_line)
        process_values = (timing["data_wait"], _peak_memory(), record.get("bad_samples", 0))
        waits, memory, bad_samples = zip(*self.world.gather(process_values), strict=True)
        for name in memory[0]:
            timing[name] = max(process_memory[name] for process_memory in memory)
        if len(waits) > 1:
            slowest_rank = waits.index(max(waits))
            timing["data_wait"] = waits[slowest_rank]
            timing["slowest_rank"] = slowest_rank
            timing["data_wait_of_rank"] = dict(enumerate(waits))
            self._slowest_process = f" (slowest: rank {slowest_rank}, {waits[slowest_rank]:.0%})"
        if self._log is not None:
            self._log.write(step, {**record, "bad_samples": sum(bad_samples), "timing": timing})
        self._since_line = _Meter()

    def _pace(self, meter: _Meter) -> dict[str, Any]:
        """Return the pace of a meter, with the MFU if FLOPs and peak are known."""
        pace: dict[str, Any] = dict(meter.pace(self.config.optim.batch_size))
        if self.flops and self._peak_flops:
            flops_per_second = pace["samples_per_second"] * self.flops
            pace["mfu"] = flops_per_second / (self._peak_flops * self.world.world_size)
        return pace


def _peak_flops(config: TrainConfig, device: torch.device) -> float | None:
    """Return the peak operations per second of a device, as configured or by its name, if known."""
    if config.watch.peak_tflops:
        return config.watch.peak_tflops * 1e12
    if device.type != "cuda":
        return None
    return peak_flops(torch.cuda.get_device_name(device), config.compute)


def _peak_memory() -> dict[str, int]:
    """Return the peak memory of this process in bytes.

    On a GPU it is the memory of tensors, and the memory that PyTorch reserves for them.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return {
            "memory_bytes": torch.cuda.max_memory_allocated(),
            "gpu_reserved_bytes": torch.cuda.max_memory_reserved(),
        }
    return {"memory_bytes": environment.peak_memory_bytes()}


class _Meter:
    """Counts steps, and the seconds spent waiting for batches, since a start."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.steps = 0
        self.waiting_seconds = 0.0

    def pace(self, batch_size: int) -> dict[str, float]:
        """Return the samples of all processes per second, and the fraction of time spent waiting.

        `batch_size` counts the samples of all processes.
        """
        seconds = max(time.monotonic() - self.start, 1e-9)
        return {
            "samples_per_second": self.steps * batch_size / seconds,
            "data_wait": self.waiting_seconds / seconds,
        }


class RunPictures(AbstractContextManager["RunPictures"]):
    """Draws the first batch of a run, and the curves of its log, in the first process.

    It uses no random generator, and reports errors in a line, so that the training stays the same.
    """

    def __init__(self, watch: Watch, inverse: Inverse) -> None:
        self._watch = watch
        self._inverse = inverse
        self._config = watch.config
        self._enabled = watch.config.watch.pictures and watch.world.rank == 0
        self._is_first_batch = True
        # When curves were drawn last, and the seconds that it took.
        self._drawn_at = time.monotonic()
        self._drawing_seconds = FIRST_DRAWING_SECONDS
        self._title = f"{self._config.recipe} ({self._config.method.name})"

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Draw the final curves, also of a run that failed, but not if a user interrupted it."""
        if kind is None or issubclass(kind, Exception):
            self._draw_curves()

    def batch(self, views: Views) -> None:
        """Draw a batch as the model sees it, if it is the first."""
        if not self._enabled or not self._is_first_batch:
            return
        self._is_first_batch = False
        first_step = self._watch.first_step
        name = RESUMED_VIEWS if first_step else VIEWS
        path = self._watch.output / name
        with self._reporting_errors(name):
            samples = read_samples(views, self._config.method.counts, self._inverse, most=SAMPLES)
            batch_size = self._config.optim.batch_size
            subtitle = f"first {len(samples)} of {batch_size} samples of step {first_step}"
            write_atomically(path, draw_views(samples, f"{self._title}: {subtitle}"))
            self._watch.say(
                f"pictures: {path} shows the first batch; {CURVES} beside it will follow"
            )
            if name == VIEWS:
                # Remove the picture of another run that was resumed in this folder.
                (self._watch.output / RESUMED_VIEWS).unlink(missing_ok=True)

    def curves(self) -> None:
        """Draw the log so far, unless the last drawing is too recent to be worth the time."""
        if time.monotonic() - self._drawn_at >= self._drawing_seconds / MAX_DRAWING_SHARE:
            self._draw_curves()

    def _draw_curves(self) -> None:
        if not self._enabled:
            return
        start = time.monotonic()
        with self._reporting_errors(CURVES):
            records = read_log(self._watch.output / LOG)
            if records:
                first_step, last_step = records[0]["step"], records[-1]["step"]
                all_steps = self._config.optim.steps
                title = f"{self._title}: steps {first_step:,} to {last_step:,} of {all_steps:,}"
                content = draw_curves(records, title, self._config.method.terms)
                write_atomically(self._watch.output / CURVES, content)
        self._drawn_at = time.monotonic()
        self._drawing_seconds = self._drawn_at - start

    @contextmanager
    def _reporting_errors(self, name: str) -> Iterator[None]:
        """Report errors of the block in a line, and leave its time out of the pace."""
        with self._watch.paused():
            try:
                yield
            except Exception as error:  # no error of a picture is worth a training
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                self._watch.say(f"{name} could not be drawn, the training goes on ({reason})")
