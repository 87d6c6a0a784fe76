"""Predicted label maps as files, and pictures for people: label maps over images, with a legend."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cosmos_core.utils.files import write_atomically
from cosmos_eval.data.label_maps import VALUES, Label, palette
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
_SWATCH = 16  # side of the square of a class in the legend
_MARGIN = 10
_GRID_STEP = 17  # between the values of a channel of the colours to choose from
_LIGHTNESS = (30, 88)  # range of colours that can be seen on white, on black and on images
_ALIKE = 8  # the distance in CIELAB below which neighbours in a picture look alike

Panel = tuple[str, Pixels, Label | None]
"""A title, an image (H, W, 3) RGB, and classes (H, W) to draw over it, if any."""


@cache
def distinct_colours(count: int) -> tuple[Colour, ...]:
    """Return `count` RGB colours that are easy to tell apart.

    They are chosen greedily from a grid of colours of medium lightness. Each is as far as possible,
    in CIELAB, from black, white and all colours before it.
    """
    channel_values = np.arange(0, 256, _GRID_STEP)
    axes = np.meshgrid(channel_values, channel_values, channel_values)
    candidates = np.stack(axes, axis=-1).reshape(-1, 3)
    lab = _lab(candidates)
    is_medium = (lab[:, 0] > _LIGHTNESS[0]) & (lab[:, 0] < _LIGHTNESS[1])
    candidates, lab = candidates[is_medium], lab[is_medium]
    black_and_white = _lab([(0, 0, 0), (255, 255, 255)])
    # The distance of each candidate to the nearest colour so far.
    distances = np.linalg.norm(lab[:, None] - black_and_white, axis=-1).min(axis=1)
    chosen_indices: list[int] = []
    for _ in range(count):
        farthest = int(distances.argmax())
        chosen_indices.append(farthest)
        distances = np.minimum(distances, np.linalg.norm(lab - lab[farthest], axis=1))
    return tuple((red, green, blue) for red, green, blue in candidates[chosen_indices].tolist())


def _lab(colours: Any) -> NDArray[np.float32]:
    """Convert RGB (N, 3), 0-255, to CIELAB."""
    scaled = np.asarray(colours, np.float32)[None] / 255
    return cv2.cvtColor(scaled, cv2.COLOR_RGB2Lab)[0].astype(np.float32, copy=False)


def _are_alike(colours: Sequence[Colour]) -> bool:
    """Return whether any two colours are hard to tell apart."""
    lab = _lab(colours)
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return bool(distances[np.triu_indices(len(lab), 1)].min(initial=np.inf) < _ALIKE)


def shares(classes: Label, n_classes: int) -> dict[int, float]:
    """Return the fraction of the pixels of every class that occurs, the largest first."""
    counts = np.bincount(classes.ravel(), minlength=n_classes)[:n_classes]
    ordered = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].tolist()
    return {index: counts[index] / classes.size for index in ordered}


def picture(
    panels: Sequence[Panel],
    names: Sequence[str],
    colours: Sequence[Colour],
    shares: Mapping[int, float],
) -> Image.Image:
    """Draw panels side by side, and a legend of the classes with `shares`, in their order."""
    images = [_with_classes(image, classes, colours) for _, image, classes in panels]
    legend = [f"{names[index]}  {100 * share:.1f}%" for index, share in shares.items()]
    font = ImageFont.load_default(size=15)
    legend_width = max([font.getlength(line) for line in legend], default=0) + 2 * _LINE
    width = sum(image.width + _MARGIN for image in images) + _MARGIN + int(legend_width)
    content_height = max([*(image.height for image in images), _LINE * len(legend)])
    height = content_height + _LINE + 2 * _MARGIN
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    left, top = _MARGIN, _MARGIN + _LINE
    for (title, *_), image in zip(panels, images, strict=True):
        draw.text((left, _MARGIN // 2), title, "black", font)
        page.paste(image, (left, top))
        left += image.width + _MARGIN
    for index, line in zip(shares, legend, strict=True):
        draw.rectangle((left, top, left + _SWATCH, top + _SWATCH), colours[index], "black")
        draw.text((left + _LINE, top - 1), line, "black", font)
        top += _LINE
    return page


def _with_classes(image: Pixels, classes: Label | None, colours: Sequence[Colour]) -> Image.Image:
    """Return an image at the size of a panel, with classes drawn over it."""
    if classes is not None:
        colour_of_value = np.zeros((VALUES, 3), np.float32)
        colour_of_value[: len(colours)] = colours
        mixed = (1 - _OPACITY) * image + _OPACITY * colour_of_value[classes]
        has_class = classes[..., None] < len(colours)
        image = np.where(has_class, mixed, image).round().astype(np.uint8)
    scale = _PANEL / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return Image.fromarray(image).resize((width, height))


def predictions_folder(
    folder: Path, protocol: SegmentationProtocol, attention: str | None = None
) -> Path:
    """Return the folder of the predictions for a data set, below the folder of the model.

    Another form of attention than the protocol's has a folder of its own.
    """
    suffix = "" if attention in (None, protocol.attention) else f"__{attention}"
    return folder / f"{protocol.dataset}__{protocol.protocol_name}{suffix}"


def prediction_file(folder: Path, name: str) -> Path:
    """Return the file of a predicted label map in the folder of its data set."""
    return folder / f"{name}.png"


def colours(protocol: SegmentationProtocol) -> tuple[Colour, ...]:
    """Return an RGB colour (0-255) per class: MMSegmentation's unless two of them look alike."""
    mmseg_palette = palette(protocol)
    if mmseg_palette and not _are_alike(mmseg_palette):
        return mmseg_palette
    return distinct_colours(len(protocol.class_names))


def save_label_map(path: Path, classes: Label, colours: Sequence[Colour]) -> bytes:
    """Write class indices (H, W) as a PNG file, and return its SHA-256.

    Indices of 8 bits have a palette of the colours.
    """
    image = Image.fromarray(classes)
    if classes.dtype == np.uint8:
        image = image.convert("P")
        image.putpalette([value for colour in colours for value in colour])
    return hashlib.sha256(_write(path, image, "PNG")).digest()


def save_overlay(
    path: Path, image: LoadedImage, classes: Label, names: Sequence[str], colours: Sequence[Colour]
) -> None:
    """Write a JPEG of image, truth and prediction. Raises UsageError if it cannot be written."""
    name, rgb = image.sample.image.name, decode(image.sample.image)
    panels = [(name, rgb, None), ("truth", rgb, image.label), ("prediction", rgb, classes)]
    shares_of_classes = shares(classes, len(names))
    for index in sorted(shares(image.label, len(names))):
        shares_of_classes.setdefault(index, 0.0)  # classes of the truth that were not predicted
    _write(path, picture(panels, names, colours, shares_of_classes), "JPEG")


def is_saved(folder: Path, name: str, sha256: bytes) -> bool:
    """Return whether the label map of an image is on disk as it was written."""
    try:
        return hashlib.sha256(prediction_file(folder, name).read_bytes()).digest() == sha256
    except OSError:
        return False


def _write(path: Path, image: Image.Image, form: str) -> bytes:
    """Write an image file, and return its content. Raises UsageError if it cannot be written."""
    content = io.BytesIO()
    image.save(content, format=form)
    try:
        write_atomically(path, content.getvalue())
    except OSError as error:
        raise UsageError(f"cannot write prediction {path}: {error.strerror}") from error
    return content.getvalue()


def decode(path: Path, content: bytes | None = None) -> Pixels:
    """Decode an image file to (H, W, 3) RGB by OpenCV, as MMSegmentation does.

    `content` is the content of the file, if it was read before. Raises UsageError for a file that
    is not an image.
    """
    try:
        encoded = read_bytes(path) if content is None else content
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except (FileError, cv2.error) as error:
        raise UsageError(f"cannot read image {path}: {error}") from error
    if image is None:
        raise UsageError(f"cannot decode image {path}: replace it or take it off the list")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def read_image(path: Path) -> Image.Image:
    """Return an image as it is evaluated: in RGB, rotated as its EXIF data state."""
    return Image.fromarray(decode(path))
