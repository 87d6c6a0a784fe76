"""Predicted label maps as files, and pictures for people: label maps over images, with a legend."""

from __future__ import annotations

import colorsys
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cosmos_core.utils.files import write_atomically
from cosmos_eval.data.label_maps import Label, palette
from cosmos_eval.data.readers import FileError, read_bytes
from cosmos_eval.types import SegmentationProtocol, UsageError

if TYPE_CHECKING:
    # At run time it would import torch.
    from cosmos_eval.tasks.segmentation.inference import LoadedImage

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

_OPACITY = 0.6
_PANEL = 480  # longest side of an image in the picture, in pixels
_LINE = 22  # height of a line of text
_MARGIN = 10
_GOLDEN = 0.618034  # of a turn: neighbours in the list, and their neighbours, differ in hue


class Panel(NamedTuple):
    """`image` (H, W, 3) RGB; `classes` (H, W), where given, are drawn over it."""

    title: str
    image: Pixels
    classes: Pixels | None = None


class Legend(NamedTuple):
    """Names and colours of all classes; those in `shares` are shown, the largest first.

    `shares` maps a class index to its fraction of the pixels.
    """

    names: Sequence[str]
    colours: Sequence[Colour]
    shares: dict[int, float]


def distinct_colours(count: int) -> tuple[Colour, ...]:
    """Return colours of hues that are far apart, in two brightnesses."""
    hues = ((index * _GOLDEN % 1, 0.7 if index % 2 else 0.95) for index in range(count))
    found = (colorsys.hsv_to_rgb(hue, 0.75, brightness) for hue, brightness in hues)
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in found)


def shares(classes: Pixels, n_classes: int) -> dict[int, float]:
    """Return the fraction of the pixels of every class that occurs."""
    counts = np.bincount(classes.ravel(), minlength=256)[:n_classes]
    return {int(index): counts[index] / classes.size for index in np.flatnonzero(counts)}


class Picture(NamedTuple):
    """A drawing, and the fraction of the pixels of every class in its legend, largest first."""

    image: Image.Image
    shares: dict[str, float]


def picture(panels: Sequence[Panel], legend: Legend) -> Picture:
    """Draw panels side by side, with the legend at their right."""
    drawn = [_fit(_blend(panel, legend.colours)) for panel in panels]
    lines = sorted(legend.shares, key=lambda index: -legend.shares[index])
    text = [f"{legend.names[index]}  {100 * legend.shares[index]:.1f}%" for index in lines]
    font = ImageFont.load_default(size=15)
    legend_width = max([font.getlength(line) for line in text], default=0) + 2 * _LINE
    width = sum(image.width + _MARGIN for image in drawn) + _MARGIN + int(legend_width)
    height = max([image.height for image in drawn] + [_LINE * len(lines)]) + _LINE + 2 * _MARGIN
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    left = _MARGIN
    for panel, image in zip(panels, drawn, strict=True):
        draw.text((left, _MARGIN // 2), panel.title, "black", font)
        page.paste(image, (left, _MARGIN + _LINE))
        left += image.width + _MARGIN
    for number, index in enumerate(lines):
        top = _MARGIN + _LINE * (number + 1)
        draw.rectangle((left, top, left + 16, top + 16), legend.colours[index], "black")
        draw.text((left + _LINE, top - 1), text[number], "black", font)
    return Picture(page, {legend.names[index]: legend.shares[index] for index in lines})


def _blend(panel: Panel, colours: Sequence[Colour]) -> Pixels:
    if panel.classes is None:
        return panel.image
    table = np.zeros((256, 3), np.float32)
    table[: len(colours)] = colours
    known = (panel.classes < len(colours))[..., None]
    mixed = (1 - _OPACITY) * panel.image + _OPACITY * table[panel.classes]
    return np.where(known, mixed, panel.image).round().astype(np.uint8)


def _fit(pixels: Pixels) -> Image.Image:
    image = Image.fromarray(pixels)
    scale = _PANEL / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height))


def predictions_folder(folder: Path, protocol: SegmentationProtocol) -> Path:
    """Return the folder of the predictions for a data set, below that of the model."""
    return folder / f"{protocol.dataset}__{protocol.family}"


def prediction_file(folder: Path, name: str) -> Path:
    """Return the file of a predicted label map in the folder of its data set."""
    return folder / f"{name}.png"


def colours(protocol: SegmentationProtocol) -> tuple[Colour, ...]:
    """Return an RGB colour (0-255) per class: MMSegmentation's, else distinct ones."""
    return palette(protocol) or distinct_colours(len(protocol.class_names))


def save_label_map(path: Path, classes: Label, colours: Sequence[Colour]) -> bytes:
    """Write class indices (H, W) with their colours; return the SHA-256 of the file.

    The file is complete or not there. Raises UsageError where the folder cannot be written.
    """
    drawn = Image.fromarray(classes).convert("P")
    drawn.putpalette([value for colour in colours for value in colour])
    return hashlib.sha256(_write(path, drawn, "PNG")).digest()


def save_overlay(
    path: Path,
    image: LoadedImage,
    classes: Label,
    names: Sequence[str],
    colours: Sequence[Colour],
) -> None:
    """Write a JPEG of image, truth and prediction, with a legend of their classes.

    Raises UsageError where the folder cannot be written.
    """
    rgb = rgb_of(decode(image.sample.image))
    panels = [
        Panel(image.sample.image.name, rgb),
        Panel("truth", rgb, image.label),
        Panel("prediction", rgb, classes),
    ]
    found = shares(classes, len(names))
    for index in shares(image.label, len(names)):
        found.setdefault(index, 0.0)
    _write(path, picture(panels, Legend(names, colours, found)).image, "JPEG")


def is_saved(path: Path, sha256: bytes) -> bool:
    """Return whether a label map is on disk as it was written."""
    try:
        return hashlib.sha256(path.read_bytes()).digest() == sha256
    except OSError:
        return False


def _write(path: Path, image: Image.Image, form: str) -> bytes:
    content = io.BytesIO()
    image.save(content, format=form)
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise UsageError(f"cannot write prediction {path}: {error.strerror}") from error
    return content.getvalue()


def rgb_of(image: Pixels) -> Pixels:
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def decode(path: Path) -> Pixels:
    """Decode an image file to (H, W, 3) BGR by OpenCV, as MMSegmentation does."""
    try:
        data = np.frombuffer(read_bytes(path), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except (FileError, cv2.error) as error:
        raise UsageError(f"cannot read image {path}: {error}") from error
    if image is None:
        raise UsageError(f"cannot decode image {path}: replace it or take it off the list")
    return image.astype(np.uint8, copy=False)


def read_image(path: Path) -> Image.Image:
    """Return an image as it is evaluated: RGB, rotated as its EXIF data state."""
    return Image.fromarray(rgb_of(decode(path)))
