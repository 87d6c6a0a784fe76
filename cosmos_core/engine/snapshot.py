"""Snapshot files of a run.

OUTPUT/snapshots/step-00000400.pt holds the state after 400 steps. It is written beside its place,
synchronised and renamed, and read with `weights_only=True`.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cosmos_core.utils.files import errors_of, replacing, write_atomically

FOLDER = "snapshots"
CHECKPOINT = "checkpoint.safetensors"  # beside the folder: the weights of the newest snapshot
BEST = "best.json"
FORMAT = 1
_NAME = re.compile(r"step-(\d{8})\.pt")


class SnapshotError(ValueError):
    """A folder that cannot be resumed, with the reason in one line."""


class Best(NamedTuple):
    """The best evaluation so far: its step and its value."""

    step: int
    value: float


class Snapshots:
    """The snapshots of one run, in OUTPUT/snapshots."""

    def __init__(self, output: Path, keep: int) -> None:
        self._folder, self._keep = output / FOLDER, keep

    def steps(self) -> list[int]:
        """Steps of the snapshots that are there, ascending."""
        names = [_NAME.fullmatch(path.name) for path in self._folder.glob("step-*.pt")]
        return sorted(int(name[1]) for name in names if name)

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write the state after `step` steps; older ones beyond the last few and the best go.

        Raises OSError, with the path, where it cannot be written; older ones then stay as they are.
        """
        path = self._path(step)
        with errors_of(path), replacing(path) as file:
            torch.save({**state, "format": FORMAT, "step": step}, file)
        _synchronise(self._folder)
        self._thin()
        return path

    def newest(self, parts: Sequence[str] = ()) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest whole snapshot, on the CPU, and a warning for each damaged one passed over.

        One that lacks any of `parts` is damaged. Raises SnapshotError for another format.
        """
        warnings = []
        for step in reversed(self.steps()):
            path = self._path(step)
            try:
                state = _read(path)
            except Exception as error:  # a cut file raises whatever its remains spell
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                warnings.append(f"{path}: damaged, passed over ({reason})")
                continue
            if not isinstance(state, dict) or state.get("format") != FORMAT:
                raise SnapshotError(f"{path}: not a snapshot of this version of cosmos-train")
            if missing := [name for name in parts if name not in state]:
                warnings.append(f"{path}: damaged, passed over (lacks {', '.join(missing)})")
                continue
            return state, warnings
        return None, warnings

    def best(self) -> Best | None:
        """The step with the best evaluation, as `note_best` left it. SnapshotError if damaged."""
        path = self._folder / BEST
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return Best(int(content["step"]), float(content["value"]))
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
            raise SnapshotError(
                f"{path}: damaged; remove it, and the best evaluation from then on is noted"
            ) from error

    def note_best(self, best: Best) -> None:
        """Keep this step's snapshot whatever follows, in place of the former best's."""
        write_atomically(self._folder / BEST, json.dumps(best._asdict()).encode())
        self._thin()

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}.pt"

    def _thin(self) -> None:
        best = self.best()
        for step in self.steps()[: -self._keep]:
            if best is None or step != best.step:
                self._path(step).unlink()


def _read(path: Path) -> Any:
    """A snapshot whose checksums hold: torch itself does not compare them."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise SnapshotError(f"{damaged} is not as it was written")
    return torch.load(path, map_location="cpu", weights_only=True)


def _synchronise(folder: Path) -> None:
    """Make a rename in the folder last through a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
