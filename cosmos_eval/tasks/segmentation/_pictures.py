"""Predicted label maps as palette PNG files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cosmos_eval.tasks.segmentation._data import Label
from cosmos_eval.types import UsageError


def save_label_map(path: Path, classes: Label, palette: Sequence[tuple[int, int, int]]) -> None:
    """Write class indices (H, W) with a colour each; the file is complete or not there.

    Raises UsageError where the folder cannot be written.
    """
    picture = Image.fromarray(classes).convert("P")
    picture.putpalette([value for colour in palette for value in colour])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
            unfinished = Path(folder) / path.name
            picture.save(unfinished, format="PNG")
            os.replace(unfinished, path)
    except OSError as error:
        raise UsageError(f"cannot write prediction {path}: {error.strerror}") from error
