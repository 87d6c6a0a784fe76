"""Predicted label maps as palette PNG files, and pictures of them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cosmos_core.utils.files import write_atomically
from cosmos_eval.tasks.label_maps import Label
from cosmos_eval.tasks.segmentation.images import decode
from cosmos_eval.tasks.segmentation.inference import Prediction
from cosmos_eval.tasks.segmentation.overlay import Colour, Legend, Panel, picture, shares
from cosmos_eval.types import UsageError


def save_label_map(path: Path, classes: Label, palette: Sequence[Colour]) -> str:
    """Write class indices (H, W) with a colour each; returns the file's SHA-256.

    The file is complete or not there. Raises UsageError where the folder cannot be written.
    """
    drawn = Image.fromarray(classes).convert("P")
    drawn.putpalette([value for colour in palette for value in colour])
    return hashlib.sha256(_write(path, drawn, "PNG")).hexdigest()


def save_overlay(
    path: Path, prediction: Prediction, names: Sequence[str], colours: Sequence[Colour]
) -> None:
    """Write a JPEG of image, truth and prediction with a legend of what truth and prediction hold.

    Raises UsageError where the folder cannot be written.
    """
    image, classes = prediction.image, prediction.classes
    rgb = cv2.cvtColor(decode(image.sample.image), cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    panels = [
        Panel(image.sample.image.name, rgb),
        Panel("truth", rgb, image.label),
        Panel("prediction", rgb, classes),
    ]
    found = shares(classes, len(names))
    for index in shares(image.label, len(names)):
        found.setdefault(index, 0.0)
    _write(path, picture(panels, Legend(names, colours, found)).image, "JPEG")


def is_saved(path: Path, sha256: str) -> bool:
    """Whether a label map is there as it was written."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    except OSError:
        return False


def _write(path: Path, image: Image.Image, form: str) -> bytes:
    """Write a picture in a format of PIL; returns the file's content."""
    content = io.BytesIO()
    image.save(content, format=form)
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise UsageError(f"cannot write prediction {path}: {error.strerror}") from error
    return content.getvalue()
