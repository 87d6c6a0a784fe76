"""The pictures of a run in its output folder: what it trains on, and how it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from cosmos_core.config import TrainConfig
from cosmos_core.engine.log import LOG, read_log
from cosmos_core.engine.watch import Watch
from cosmos_core.plots.curves import draw_curves
from cosmos_core.plots.views import Inverse, draw_views, read_samples
from cosmos_core.types import Views
from cosmos_core.utils.files import write_atomically

VIEWS = "views.png"
RESUMED_VIEWS = "views-resumed.png"  # the start's stay
CURVES = "losses.png"
SAMPLES = 4
SHARE = 0.01  # of the time, at most, goes into drawing curves while a run goes on
GUESS = 1.0  # seconds that the first of these drawings takes


class RunPictures:
    """Draws the first batch, and the log's curves as the run goes on; a context manager.

    Every process makes one, the first draws. No random generator is touched, and a picture that
    cannot be drawn or written is told in a line: neither changes the training nor ends it.
    """

    def __init__(
        self,
        config: TrainConfig,
        output: Path,
        watch: Watch,
        inverse: Inverse,
        *,
        rank: int,
        first_step: int,
    ) -> None:
        self._config, self._output, self._watch, self._inverse = config, output, watch, inverse
        self._draws = config.watch.pictures and rank == 0
        self._first_step, self._seen = first_step, False
        self._drawn, self._took = time.monotonic(), GUESS
        self._title = f"{config.recipe} ({config.method.name})"

    def __enter__(self) -> RunPictures:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Draw the curves to the end, also of a run that fails, but not where a user interrupts."""
        if kind is None or issubclass(kind, Exception):
            self._draw_curves()

    def batch(self, views: Views) -> None:
        """Draw a batch as the model gets it, if it is the first."""
        if self._seen or not self._draws:
            return
        self._seen = True
        name = RESUMED_VIEWS if self._first_step else VIEWS
        with self._drawing(name):
            self._draw_views(views, self._output / name)
            if name == VIEWS:  # what another run may have left
                (self._output / RESUMED_VIEWS).unlink(missing_ok=True)

    def curves(self) -> None:
        """Draw the log so far, unless that was done too lately to be worth its time."""
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
        with self._drawing(CURVES):
            if records := read_log(self._output / LOG):
                first, last = records[0]["step"], records[-1]["step"]
                of = self._config.optim.steps
                title = f"{self._title}: steps {first:,} to {last:,} of {of:,}"
                write_atomically(self._output / CURVES, draw_curves(records, title))
        self._drawn = time.monotonic()
        self._took = self._drawn - start

    @contextmanager
    def _drawing(self, name: str) -> Iterator[None]:
        """What goes wrong in here is told; the time counts in no step's pace."""
        with self._watch.aside():
            try:
                yield
            except Exception as error:  # a picture is not worth a training, whatever the matter
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                self._watch.say(f"{name} could not be drawn, the training goes on ({reason})")
