"""A trace of some training steps, which shows their time on the CPU and on a GPU."""

from contextlib import AbstractContextManager

from torch.profiler import profile

from cosmos_core.engine.watch import Watch


class Trace(AbstractContextManager["Trace"]):
    """Traces the steps of `watch.profile` in this process, by torch.profiler.

    The trace is written to OUTPUT/profile/steps-100-110-rank-0.json, for chrome://tracing and
    Perfetto. If it cannot be written, a line says so and the training goes on.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch, self._profiler = watch, profile()
        self._first_step, self._last_step = watch.config.watch.profile or (0, -1)
        self._running = False

    def __exit__(self, *_: object) -> None:
        self._end()

    def before(self, step: int) -> None:
        """Start or end the trace, as the next step asks for."""
        if step > self._last_step:
            self._end()
        elif step >= self._first_step and not self._running:
            self._profiler.start()
            self._running = True

    def _end(self) -> None:
        """End the trace, if it is running, and write it."""
        if not self._running:
            return
        self._running = False
        rank = self._watch.world.rank
        name = f"steps-{self._first_step}-{self._last_step}-rank-{rank}.json"
        path = self._watch.output / "profile" / name
        temporary_path = path.with_suffix(".tmp")
        with self._watch.paused():
            try:
                self._profiler.stop()
                path.parent.mkdir(exist_ok=True)
                self._profiler.export_chrome_trace(str(temporary_path))
                temporary_path.replace(path)
                self._watch.say(f"trace: {path}, for chrome://tracing or ui.perfetto.dev")
            except (OSError, RuntimeError) as error:
                reason = f"{type(error).__name__}: {error}"
                self._watch.say(f"{path} could not be written, the training goes on ({reason})")
