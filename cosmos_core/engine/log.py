"""The log of a run: one line of JSON per record, and TensorBoard's events."""

from __future__ import annotations

import importlib.util
import json
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cosmos_core.utils.files import errors_of, write_atomically

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"
NO_TENSORBOARD = (
    "no TensorBoard log: the package tensorboard is not installed "
    "(pip install 'cosmos-eval[train]'); everything is in log.jsonl"
)


class RunLog:
    """The log files of a run in its output folder, from `first_step` on.

    Records of later steps, from another run or the one that is resumed, are dropped.
    """

    def __init__(self, output: Path, first_step: int) -> None:
        self._path, self._folder = output / LOG, output / TENSORBOARD
        _keep_before(self._path, first_step)
        self._lines = self._path.open("a", encoding="utf-8")
        self._events: Any = None
        self._hook = threading.excepthook
        if has_tensorboard():
            from torch.utils.tensorboard import SummaryWriter

            threading.excepthook = self._report
            with errors_of(self._folder):
                self._events = SummaryWriter(str(self._folder), purge_step=first_step)

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Append a record of numbers, or mappings to them; null in JSON for NaN and infinities."""
        line = {"step": step, **{name: _plain(value) for name, value in record.items()}}
        with errors_of(self._path):
            self._lines.write(json.dumps(line, allow_nan=False) + "\n")
            self._lines.flush()
        if self._events is not None:
            with errors_of(self._folder):
                for tag, value in _scalars(record):
                    self._events.add_scalar(tag, value, step)

    def close(self) -> None:
        """Write what is left and close the files."""
        with ExitStack() as closing:  # all of it, also where one fails
            closing.callback(setattr, threading, "excepthook", self._hook)
            closing.callback(self._close_events)
            with errors_of(self._path):
                self._lines.close()

    def _close_events(self) -> None:
        if self._events is not None:
            with errors_of(self._folder):
                self._events.close()

    def _report(self, error: threading.ExceptHookArgs) -> None:
        """Print the errors of threads but for TensorBoard's, whose next call raises them again."""
        if type(error.thread).__name__ != "_AsyncWriterThread":
            self._hook(error)


def has_tensorboard() -> bool:
    """Return whether the package is installed, without importing it."""
    return importlib.util.find_spec("tensorboard") is not None


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the complete records of a log, in order; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [record for record in map(_parse, lines) if record is not None]


def _keep_before(path: Path, first_step: int) -> None:
    """Drop the records of a log from `first_step` on, and a line cut by a killed process."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    records = zip(lines, map(_parse, lines), strict=True)
    kept = [line for line, record in records if record and record["step"] < first_step]
    write_atomically(path, "".join(kept).encode())


def _parse(line: str) -> dict[str, Any] | None:
    """Return the record of a line; None where the line is not a complete one."""
    try:
        record = json.loads(line) if line.endswith("\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return value if math.isfinite(value) else None


def _scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield tags and values: `train/lr`, and in a group its name, such as `timing/data_wait`."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", number) for inner, number in value.items())
        else:
            yield f"train/{name}", value
