"""A trace of some training steps, which shows how they spend their time on the CPU and the GPU."""

from contextlib import AbstractContextManager

from torch.profiler import profile

from cosmos_core.engine.watch import Watch


class Trace(AbstractContextManager["Trace"]):
    """A context in which torch.profiler traces some training steps of this process.

    The option `watch.profile` states the first and the last step. The trace is written to a file
    such as OUTPUT/profile/steps-100-110-rank-0.json, for chrome://tracing and Perfetto. If it
    cannot be written, a line says so, and the training goes on.
    """

    def __init__(self, watch: Watch) -> None:
        """Prepare a trace of the training that `watch` shows."""
        self._watch = watch
        self._profiler = profile()
        # Without the option the last step is before the first one, so that no step is traced.
        self._first_step, self._last_step = watch.config.watch.profile or (0, -1)
        self._is_running = False

    def __exit__(self, *_: object) -> None:
        """Write the trace if the training ends before the last step to trace."""
        self._write_if_running()

    def before(self, step: int) -> None:
        """Start the trace before its first step, and write it after its last step.

        Args:
            step: The training step that will start now, counted from 0.
        """
        if step > self._last_step:
            self._write_if_running()
        elif step >= self._first_step and not self._is_running:
            self._profiler.start()
            self._is_running = True

    def _write_if_running(self) -> None:
        """Stop the trace and write it to its file, if it is running."""
        if not self._is_running:
            return
        self._is_running = False
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
