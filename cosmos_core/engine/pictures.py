"""The pictures of a run in its output folder: the first batch, and the curves of the log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from cosmos_core.config import TrainConfig
from cosmos_core.engine.distributed import World
from cosmos_core.engine.log import LOG, read_log
from cosmos_core.engine.watch import Watch
from cosmos_core.plots.curves import draw_curves
from cosmos_core.plots.views import Inverse, draw_views, read_samples
from cosmos_core.types import Views
from cosmos_core.utils.files import write_atomically

VIEWS = "views.png"
RESUMED_VIEWS = "views-resumed.png"  # the picture of the start stays
CURVES = "losses.png"
SAMPLES = 4
SHARE = 0.01  # of the time, at most, goes into drawing curves while a run goes on
GUESS = 1.0  # seconds that the first of these drawings takes


class RunPictures:
    """Draw the first batch, and the log's curves as the run goes on; a context manager.

    Every process makes one, the first draws. No random generator is used, and a picture that cannot
    be drawn or written is reported in a line: neither changes the training nor ends it.
    """

    def __init__(
        self,
        config: TrainConfig,
        output: Path,
        watch: Watch,
        inverse: Inverse,
        world: World,
        *,
        first_step: int,
    ) -> None:
        self._config, self._output, self._watch, self._inverse = config, output, watch, inverse
        self._draws = config.watch.pictures and world.rank == 0
        self._first_step, self._is_first = first_step, True
        self._drawn, self._took = time.monotonic(), GUESS
        self._title = f"{config.recipe} ({config.method.name})"

    def __enter__(self) -> RunPictures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        """Draw the final curves, also of a run that fails, but not where a user interrupts."""
        if kind is None or issubclass(kind, Exception):
            self._draw_curves()

    def batch(self, views: Views) -> None:
        """Draw a batch as the model gets it, if it is the first."""
        if not (self._is_first and self._draws):
            return
        self._is_first = False
        name = RESUMED_VIEWS if self._first_step else VIEWS
        with self._reporting(name):
            self._draw_views(views, self._output / name)
            if name == VIEWS:  # of another run
                (self._output / RESUMED_VIEWS).unlink(missing_ok=True)

    def curves(self) -> None:
        """Draw the log so far, unless the last drawing is too recent to be worth the time."""
        if time.monotonic() - self._drawn >= self._took / SHARE:
            self._draw_curves()

    def _draw_views(self, views: Views, path: Path) -> None:
        samples = read_samples(views, self._config.method.counts, self._inverse, most=SAMPLES)
        size = self._config.optim.batch_size
        title = f"{self._title}: first {len(samples)} of {size} samples of step {self._first_step}"
        write_atomically(path, draw_views(samples, title))
        self._watch.say(f"pictures: {path} shows the first batch; {CURVES} beside it will follow")

    def _draw_curves(self) -> None:
        if not self._draws:
            return
        start = time.monotonic()
        with self._reporting(CURVES):
            if records := read_log(self._output / LOG):
                first, last = records[0]["step"], records[-1]["step"]
                steps = f"steps {first:,} to {last:,} of {self._config.optim.steps:,}"
                content = draw_curves(records, f"{self._title}: {steps}")
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
