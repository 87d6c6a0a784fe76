"""Predicted label maps as palette PNG files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cosmos_eval.tasks.segmentation._data import Label
from cosmos_eval.tasks.segmentation._files import replacing
from cosmos_eval.types import UsageError


def save_label_map(path: Path, classes: Label, palette: Sequence[tuple[int, int, int]]) -> str:
    """Write class indices (H, W) with a colour each; returns the file's SHA-256.

    The file is complete or not there. Raises UsageError where the folder cannot be written.
    """
    picture = Image.fromarray(classes).convert("P")
    picture.putpalette([value for colour in palette for value in colour])
    try:
        with replacing(path) as unfinished:
            picture.save(unfinished, format="PNG")
            return hashlib.sha256(unfinished.read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"cannot write prediction {path}: {error.strerror}") from error


def is_saved(path: Path, sha256: str) -> bool:
    """Whether a label map is there as it was written."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False
