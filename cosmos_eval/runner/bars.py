"""Progress bars of the Python API, in terminals and notebooks."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cosmos_eval.runner.plan import ShowProgress, show_no_progress
from cosmos_eval.types import Progress


@contextmanager
def bars(*, shown: bool) -> Iterator[ShowProgress]:
    """Yield a function that draws a bar for the current phase, or nothing unless `shown`."""
    if not shown:
        yield show_no_progress
        return
    bar = _Bar()
    try:
        yield bar.show
    finally:
        bar.close()


class _Bar:
    """A progress bar, which is replaced when the next phase begins."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            # Without ipywidgets, tqdm warns that IProgress is missing, and draws bars as text.
            warnings.filterwarnings("ignore", message="IProgress")
            from tqdm.auto import tqdm
        self._tqdm: Any = tqdm
        self._bar: Any = None
        self._title = ""

    def show(self, subject: str, step: Progress) -> None:
        """Show how far a phase is, and its note; `subject` is a model and its data sets."""
        title = f"{subject}: {step.phase}"
        if step.note:
            self._tqdm.write(f"{subject}: {step.note}", file=sys.stderr)
        if self._bar is None or title != self._title:
            self.close()
            self._title = title
            self._bar = self._tqdm(total=step.total, desc=title, leave=False)
        self._bar.set_postfix_str(step.state, refresh=False)
        self._bar.update(step.done - self._bar.n)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
