"""Results that are named on the command line, as files or as folders."""

from __future__ import annotations

from pathlib import Path

from cosmos_eval.types import UsageError


def result_files(path: Path) -> list[Path]:
    """The result files that a path means: itself, or every *.json of a folder, by name.

    Raises UsageError where there are none.
    """
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.json"))
    if not files:
        raise UsageError(f"no results (*.json) in {path}: run `cosmos-eval run` first")
    return files
