"""Progress bars of the Python API, in terminals and notebooks."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cosmos_eval.runner.plan import Watch, unwatched
from cosmos_eval.types import Progress


@contextmanager
def bars(*, shown: bool) -> Iterator[Watch]:
    """Give a watch that draws one bar, that of the current phase, or nothing unless `shown`."""
    if not shown:
        yield unwatched
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress")  # without ipywidgets bars are text
        from tqdm.auto import tqdm
    shown_bars: dict[str, Any] = {}  # one at most

    def close() -> None:
        while shown_bars:
            shown_bars.popitem()[1].close()

    def watch(what: str, step: Progress) -> None:
        title = f"{what}: {step.phase}"
        if step.note:
            tqdm.write(f"{what}: {step.note}", file=sys.stderr)
        if title not in shown_bars:
            close()
            shown_bars[title] = tqdm(total=step.total, desc=title, leave=False)
        shown_bars[title].update(step.done - shown_bars[title].n)

    try:
        yield watch
    finally:
        close()
