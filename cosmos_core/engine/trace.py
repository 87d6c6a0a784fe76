"""A trace of some steps: where their time goes, on the CPU and on a GPU."""

from contextlib import AbstractContextManager

from torch.profiler import profile

from cosmos_core.engine.watch import Watch


class Trace(AbstractContextManager["Trace"]):
    """Traces the steps of `watch.profile` in this process, by torch.profiler, and writes them for
    chrome://tracing and Perfetto to OUTPUT/profile/steps-100-110-rank-0.json. No error of it is
    worth a training: it is reported in a line."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._profiler = watch, profile()
        self._first, self._last = watch.config.watch.profile or (0, -1)
        self._runs = False

    def __exit__(self, *_: object) -> None:
        self._end()

    def before(self, step: int) -> None:
        """Start or end where `step` is the next one."""
        if step > self._last:
            self._end()
        elif step >= self._first and not self._runs:
            self._profiler.start()
            self._runs = True

    def _end(self) -> None:
        if not self._runs:
            return
        self._runs, rank = False, self._watch.world.rank
        name = f"profile/steps-{self._first}-{self._last}-rank-{rank}.json"
        path = self._watch.output / name
        with self._watch.paused():
            try:
                self._profiler.stop()
                path.parent.mkdir(exist_ok=True)
                self._profiler.export_chrome_trace(str(path.with_suffix(".tmp")))
                path.with_suffix(".tmp").replace(path)
                self._watch.say(f"trace: {path}, for chrome://tracing or ui.perfetto.dev")
            except (OSError, RuntimeError) as error:
                reason = f"{type(error).__name__}: {error}"
                self._watch.say(f"{path} could not be written, the training goes on ({reason})")
