"""What every task does with folders of images before a model is loaded. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from cosmos_eval.types import Protocol, RunOptions, UsageError


def data_path(protocol: Protocol, options: RunOptions, parts: tuple[str, ...] | str) -> Path:
    """A file or folder of a data set, below its own root or the user's data root.

    Of several places the first that is there. Raises UsageError that says what was expected.
    """
    places = (parts,) if isinstance(parts, str) else parts
    root = protocol.root or options.data_root
    if root is None:
        holds = " or ".join(places)
        raise UsageError(f"{protocol.dataset}: give --data-root DIR, the folder that holds {holds}")
    paths = [Path(root) / place for place in places]
    for path in paths:
        if path.exists():
            return path
    expected = " or ".join(map(str, paths))
    raise UsageError(f"{protocol.dataset}: expected {expected}, which is not there")


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
