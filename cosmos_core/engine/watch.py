"""Show a training: a progress bar or plain lines on standard error, the log, and pictures."""

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

# The seconds between two plain lines, which are printed if standard error is not a terminal.
LINE_SECONDS = 30
# The picture of the first batch, and the one that a resumed training draws instead.
VIEWS = "views.png"
RESUMED_VIEWS = "views-resumed.png"
# The picture of the curves of the losses.
CURVES = "losses.png"
# The number of samples in the picture of the first batch.
SAMPLES = 4
# The largest fraction of the time of a training that drawing curves may take.
MAX_DRAWING_SHARE = 0.01
# The expected duration of the first drawing of curves, in seconds.
FIRST_DRAWING_SECONDS = 1.0


class Watch:
    """A context that shows and logs the steps of a training.

    All processes call its methods, but only the first one prints and writes. OUTPUT/log.jsonl has a
    record for each logged step. Its entry "timing" holds the values in which equal trainings may
    differ. If the FLOPs of a step and the peak performance of the device are known, it has the
    model FLOPs utilisation (MFU).
    """

    def __init__(self, config: TrainConfig, output: Path, world: World, *, first_step: int) -> None:
        """Prepare the progress bar of a training.

        Args:
            config: The configuration of the training.
            output: The output folder.
            world: The processes of the training.
            first_step: The step at which the training starts or resumes, counted from 0.
        """
        self.config = config
        self.output = output
        self.world = world
        self.first_step = first_step
        # The FLOPs of a training step per sample, once they are known.
        self._flops: float | None = None
        # The peak FLOPs per second of the device, or None if it is unknown.
        self._peak_flops = _device_peak_flops(config, world.device)
        # The log, which only the first process has.
        self._log: RunLog | None = None
        self._stack = ExitStack()
        # The pace since the start, the last evaluation or the last change of FLOPs, and since the
        # last logged step.
        self._since_start = _Meter()
        self._since_line = _Meter()
        # Text that names the process that waited longest for data, once it is known.
        self._slowest_process = ""
        # The time from which on the next plain line may be printed.
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
            # Only this column is wrapped in a narrow terminal.
            TextColumn("{task.fields[values]}", table_column=Column(no_wrap=False)),
            console=self._console,
        )
        self._task = self._bar.add_task(
            config.recipe, total=config.optim.steps, completed=first_step, values=""
        )

    def __enter__(self) -> Watch:
        """Open the log, and start the progress bar in a terminal."""
        self._log = self.world.main_process_only(
            open_log, self.config, self.output, self.first_step
        )
        # If standard error is a file, the bar would leave an empty line in it.
        if self._log is not None and self._console.is_terminal:
            self._stack.enter_context(self._bar)
        for line in missing_packages(self.config.watch):
            self.say(line)
        self._since_start = _Meter()
        self._since_line = _Meter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the progress bar, and close the log."""
        try:
            self._stack.close()
        finally:
            if self._log is not None:
                self._log.close(failed=kind is not None)

    def set_flops(self, flops: float | None) -> None:
        """State the FLOPs of the next step per sample, or None if they are unknown.

        If they change, as with the resolution, the measurement of the pace starts again.
        """
        is_changed = self._flops is not None and flops != self._flops
        self._flops = flops
        if is_changed:
            self._since_start = _Meter()
            self._since_line = _Meter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Return a context whose time counts as waiting for data."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self._since_start.waiting_seconds += seconds
            self._since_line.waiting_seconds += seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Return a context whose time does not count for the pace of the training."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self._since_start.start += seconds
            self._since_line.start += seconds

    def show_step(self, step: int, record: Mapping[str, float]) -> None:
        """Show a finished training step, and log it if `watch.log_every` asks for it.

        The last step is always logged.

        Args:
            step: The number of the step, counted from 0.
            record: The values of the step by name, such as {"lr": 0.001, "clip": 2.31}.
        """
        self._since_start.steps += 1
        self._since_line.steps += 1
        is_last_step = step == self.config.optim.steps - 1
        if step % self.config.watch.log_every == 0 or is_last_step:
            self._log_step(step, record)
        self._show_progress(step + 1, record)

    def show_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show and log the metrics of an evaluation.

        There is a line for each data set and model, such as "step 99: flickr30k/teacher: R@1 51,
        R@5 77". The measurement of the training's pace starts again.

        Args:
            step: The training step after which the evaluation was made, counted from 0.
            metrics: The values of metrics by names such as "flickr30k/teacher/R@1". Metrics of the
                same data set and model follow each other.
        """
        if self._log is not None:
            self._log.write(step, {"evaluation": metrics})
        # "flickr30k/teacher/R@1" -> "flickr30k/teacher" and "R@1"
        for prefix, names in groupby(metrics, key=lambda name: name.rpartition("/")[0]):
            values = [f"{name.rpartition('/')[2]} {metrics[name]:.4g}" for name in names]
            self.say(f"step {step}: {prefix}: {', '.join(values)}")
        self._since_start = _Meter()
        self._since_line = _Meter()

    def say(self, text: str) -> None:
        """Print a line on standard error, above the progress bar if there is one."""
        self._console.print(one_line(text))

    def _show_progress(self, steps_done: int, record: Mapping[str, float]) -> None:
        """Show the loss terms of the last step, the pace and the remaining time.

        In a terminal the progress bar is updated. Otherwise a line is printed, at most once in
        LINE_SECONDS seconds and after the last step.

        Args:
            steps_done: The number of training steps so far.
            record: The values of the last step by name.

        Example:
            "clip 2.310  812 images/s  MFU 41.0%  data wait 2%"
        """
        optim, recipe = self.config.optim, self.config.recipe
        pace = self._pace(self._since_start)
        speed = pace["samples_per_second"]
        columns = []
        for name in self.config.method.terms:
            if name in record:
                columns.append(f"{name} {record[name]:.3f}")
        columns.append(f"{speed:.0f} images/s")
        if "mfu" in pace:
            columns.append(f"MFU {pace['mfu']:.1%}")
        columns.append(f"data wait {pace['data_wait']:.0%}{self._slowest_process}")
        values = "  ".join(columns)

        is_last_step = steps_done == optim.steps
        if self._console.is_terminal:
            self._bar.update(self._task, completed=steps_done, values=values)
        elif is_last_step or time.monotonic() >= self._next_line_at:
            self._next_line_at = time.monotonic() + LINE_SECONDS
            remaining_samples = (optim.steps - steps_done) * optim.batch_size
            remaining_time = timedelta(seconds=round(remaining_samples / speed))
            self.say(f"{recipe} {steps_done}/{optim.steps}  {values}  {remaining_time} left")

    def _log_step(self, step: int, record: Mapping[str, float]) -> None:
        """Log a step, with the time that processes waited, their memory and their bad samples.

        The longest wait for data and the largest memory of all processes are logged, and the sum of
        their bad samples. All processes must call this method.

        Args:
            step: The number of the step, counted from 0.
            record: The values of the step in this process by name.
        """
        timing = self._pace(self._since_line)
        process_values = (timing["data_wait"], _peak_memory(), record.get("bad_samples", 0))
        # Gather these three values of all processes: three tuples with a value for each process.
        waits, memories, bad_samples = zip(*self.world.gather(process_values), strict=True)
        for name in memories[0]:
            timing[name] = max(memory[name] for memory in memories)
        if len(waits) > 1:
            # Name the process that waited longest.
            slowest_rank = waits.index(max(waits))
            timing["data_wait"] = waits[slowest_rank]
            timing["slowest_rank"] = slowest_rank
            timing["data_wait_of_rank"] = dict(enumerate(waits))
            self._slowest_process = f" (slowest: rank {slowest_rank}, {waits[slowest_rank]:.0%})"
        if self._log is not None:
            self._log.write(step, {**record, "bad_samples": sum(bad_samples), "timing": timing})
        self._since_line = _Meter()

    def _pace(self, meter: _Meter) -> dict[str, Any]:
        """Return how fast the training has been since a meter was created.

        Returns:
            "samples_per_second", "data_wait", which is the fraction of time spent waiting for data,
            and "mfu", which is the model FLOPs utilisation from 0 to 1, if it can be computed.
        """
        pace: dict[str, Any] = dict(meter.pace(self.config.optim.batch_size))
        if self._flops and self._peak_flops:
            flops_per_second = pace["samples_per_second"] * self._flops
            pace["mfu"] = flops_per_second / (self._peak_flops * self.world.world_size)
        return pace


def _device_peak_flops(config: TrainConfig, device: torch.device) -> float | None:
    """Return the peak floating-point operations per second of a device, or None if unknown.

    The option `watch.peak_tflops` states them. If it does not, they are looked up by the GPU's
    name.
    """
    if config.watch.peak_tflops:
        return config.watch.peak_tflops * 1e12
    if device.type != "cuda":
        return None
    return peak_flops(torch.cuda.get_device_name(device), config.compute)


def _peak_memory() -> dict[str, int]:
    """Return the peak memory of this process in bytes, by the names that the log uses.

    Without a GPU this is the memory of the process. With a GPU it is the memory of tensors, and the
    memory that PyTorch has reserved for them.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return {
            "memory_bytes": torch.cuda.max_memory_allocated(),
            "gpu_reserved_bytes": torch.cuda.max_memory_reserved(),
        }
    return {"memory_bytes": environment.peak_memory_bytes()}


class _Meter:
    """Counts training steps, and the seconds of waiting for data, since its creation."""

    def __init__(self) -> None:
        """Start to measure now."""
        # The time of the creation, which is moved on by pauses.
        self.start = time.monotonic()
        # The number of steps.
        self.steps = 0
        # The seconds that this process has waited for data.
        self.waiting_seconds = 0.0

    def pace(self, batch_size: int) -> dict[str, float]:
        """Return the number of samples per second, and the fraction of time spent waiting for data.

        `batch_size` is the number of samples of all processes in a step.
        """
        seconds = max(time.monotonic() - self.start, 1e-9)
        return {
            "samples_per_second": self.steps * batch_size / seconds,
            "data_wait": self.waiting_seconds / seconds,
        }


class RunPictures(AbstractContextManager["RunPictures"]):
    """A context that draws pictures of a training: its first batch, and the curves of its log.

    Only the first process draws. Pictures do not change the training: they use no random generator,
    and an error is reported in a line.
    """

    def __init__(self, watch: Watch, inverse: Inverse) -> None:
        """Prepare the pictures of a training.

        Args:
            watch: Shows the training, and knows its configuration and its output folder.
            inverse: Turns normalised images and token ids back into pictures and captions.
        """
        self._watch = watch
        self._inverse = inverse
        self._config = watch.config
        self._enabled = watch.config.watch.pictures and watch.world.rank == 0
        self._is_first_batch = True
        # The time at which curves were drawn last, and how many seconds this took.
        self._drawn_at = time.monotonic()
        self._drawing_seconds = FIRST_DRAWING_SECONDS
        self._title = f"{self._config.recipe} ({self._config.method.name})"

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Draw the final curves, unless a user interrupted the training.

        They are also drawn if the training failed.
        """
        if kind is None or issubclass(kind, Exception):
            self._draw_curves()

    def draw_first_batch(self, views: Views) -> None:
        """Draw the views of some samples as the model sees them, if this is the first batch."""
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
                # Remove the picture of an earlier training that was resumed in this folder.
                (self._watch.output / RESUMED_VIEWS).unlink(missing_ok=True)

    def draw_curves_if_due(self) -> None:
        """Draw the curves of the log so far, unless this would take too much of the time.

        If the last drawing took 1 second, the next one is made after 100 seconds.
        """
        seconds_since_drawing = time.monotonic() - self._drawn_at
        if seconds_since_drawing >= self._drawing_seconds / MAX_DRAWING_SHARE:
            self._draw_curves()

    def _draw_curves(self) -> None:
        """Draw the curves of the log so far, and note how long this takes."""
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
        """Return a context for drawing a picture, which turns any error into a printed line.

        The time of the block does not count for the pace of the training.

        Args:
            name: The name of the picture's file, such as "losses.png".
        """
        with self._watch.paused():
            try:
                yield
            except Exception as error:  # an error in a picture must not end the training
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                self._watch.say(f"{name} could not be drawn, the training goes on ({reason})")
