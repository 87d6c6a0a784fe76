"""What every task does with folders of images before a model is loaded. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from cosmos_eval.types import Protocol, RunOptions, UsageError


def data_path(protocol: Protocol, options: RunOptions, part: str) -> Path:
    """A file or folder of a data set, below its own root or the user's data root.

    Raises UsageError that says which path was expected.
    """
    root = protocol.root or options.data_root
    if root is None:
        raise UsageError(f"{protocol.dataset}: give --data-root DIR, the folder that holds {part}")
    path = Path(root) / part
    if not path.exists():
        raise UsageError(f"{protocol.dataset}: expected {path}, which is not there")
    return path


def fingerprint(items: Sequence[object]) -> str:
    """SHA-256 of a list of texts and numbers, in hexadecimal; order counts."""
    return hashlib.sha256(json.dumps(list(items), ensure_ascii=True).encode()).hexdigest()


def limit_notes(options: RunOptions, samples: str = "images") -> tuple[str, ...]:
    """The note of a result that covers the first samples only."""
    return () if options.limit is None else (f"at most {options.limit} {samples} were measured",)


def truncation_notes(truncated: int, captions: int) -> tuple[str, ...]:
    """The note of a result some of whose captions were cut."""
    if not truncated:
        return ()
    return (f"{truncated} of {captions} captions did not fit the model's context and were cut",)
