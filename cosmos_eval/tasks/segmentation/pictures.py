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
    """Return `count` RGB colours (0-255) that are easy to tell apart.

    They are chosen one by one from a grid of colours of medium lightness. Each is as far as
    possible, in the colour space CIELAB, from black, white and all colours that were chosen before.
    """
    # The candidates (K, 3) are a grid of RGB colours, without very dark and very light ones.
    channel_values = np.arange(0, 256, _GRID_STEP)
    axes = np.meshgrid(channel_values, channel_values, channel_values)
    candidates = np.stack(axes, axis=-1).reshape(-1, 3)
    lab = _rgb_to_lab(candidates)
    lightness = lab[:, 0]
    is_medium = (lightness > _LIGHTNESS[0]) & (lightness < _LIGHTNESS[1])
    candidates, lab = candidates[is_medium], lab[is_medium]

    # The distance of each candidate to the nearest of the colours so far: black and white.
    black_and_white = _rgb_to_lab([(0, 0, 0), (255, 255, 255)])
    nearest_distances = np.linalg.norm(lab[:, None] - black_and_white, axis=-1).min(axis=1)

    chosen_indices: list[int] = []
    for _ in range(count):
        farthest = int(nearest_distances.argmax())
        chosen_indices.append(farthest)
        distances = np.linalg.norm(lab - lab[farthest], axis=1)
        nearest_distances = np.minimum(nearest_distances, distances)
    return tuple((red, green, blue) for red, green, blue in candidates[chosen_indices].tolist())


def _rgb_to_lab(colours: Any) -> NDArray[np.float32]:
    """Convert N colours from RGB (N, 3), 0-255, to CIELAB (N, 3)."""
    one_row_image = np.asarray(colours, np.float32)[None] / 255
    return cv2.cvtColor(one_row_image, cv2.COLOR_RGB2Lab)[0].astype(np.float32, copy=False)


def class_fractions(classes: Label, n_classes: int) -> dict[int, float]:
    """Return the fraction of the pixels of every class that occurs, the largest fraction first.

    Args:
        classes: The class (H, W) of each pixel. Values of `n_classes` or more stand for no class.
        n_classes: The number of classes.

    Example:
        [[2, 2], [2, 0]] -> {2: 0.75, 0: 0.25}
    """
    counts = np.bincount(classes.ravel(), minlength=n_classes)[:n_classes]
    n_occurring_classes = np.count_nonzero(counts)
    most_frequent_first = np.argsort(-counts, kind="stable")
    occurring_classes = most_frequent_first[:n_occurring_classes].tolist()
    return {index: counts[index] / classes.size for index in occurring_classes}


def draw_picture(
    panels: Sequence[Panel],
    names: Sequence[str],
    colours: Sequence[Colour],
    fractions: Mapping[int, float],
) -> Image.Image:
    """Draw panels side by side, with titles above and a legend of classes on the right.

    Args:
        panels: The title of each panel, its image (H, W, 3), and the classes (H, W) to draw over
            the image, or None.
        names: The names of all classes.
        colours: The RGB colours (0-255) of all classes.
        fractions: The classes in the legend, in order: the fraction of pixels, which the legend
            states, by the index of the class.
    """
    images = [_draw_panel(image, classes, colours) for _, image, classes in panels]
    legend = [f"{names[index]}  {100 * fraction:.1f}%" for index, fraction in fractions.items()]
    font = ImageFont.load_default(size=15)

    # The page holds a row of panels and the legend, below a line with the titles.
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
    for index, line in zip(fractions, legend, strict=True):
        draw.rectangle((left, top, left + _SWATCH, top + _SWATCH), colours[index], "black")
        draw.text((left + _LINE, top - 1), line, "black", font)
        top += _LINE
    return page


def _draw_panel(image: Pixels, classes: Label | None, colours: Sequence[Colour]) -> Image.Image:
    """Return an image at the size of a panel, with the colours of its classes drawn over it.

    Args:
        image: The pixels (H, W, 3), RGB uint8.
        classes: The class (H, W) of each pixel, or None to draw the image only. Values without a
            colour stand for no class: such pixels are not coloured.
        colours: The RGB colour (0-255) of each class.
    """
    if classes is not None:
        # A lookup table with a colour for every value that a label map can hold.
        colour_of_value = np.zeros((VALUES, 3), np.float32)
        colour_of_value[: len(colours)] = colours
        mixed = (1 - _OPACITY) * image + _OPACITY * colour_of_value[classes]
        has_class = classes[..., None] < len(colours)
        image = np.where(has_class, mixed, image).round().astype(np.uint8)
    # Scale the longest side to the size of a panel.
    scale = _PANEL / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return Image.fromarray(image).resize((width, height))


def predictions_folder(
    folder: Path, protocol: SegmentationProtocol, attention: str | None = None
) -> Path:
    """Return the folder for the predictions on a data set, below the folder of the model.

    Args:
        folder: The folder of the model.
        protocol: The protocol of the data set.
        attention: The form of attention that images are encoded with; None for the protocol's.

    Example:
        "voc20__cosmos" below the folder of the model, or "voc20__cosmos__naclip" for another form
        of attention than the protocol's.
    """
    name = f"{protocol.dataset}__{protocol.protocol_name}"
    if attention is not None and attention != protocol.attention:
        name += f"__{attention}"
    return folder / name


def prediction_file(folder: Path, name: str) -> Path:
    """Return the path of the label map that is predicted for the image with a name."""
    return folder / f"{name}.png"


def colours(protocol: SegmentationProtocol) -> tuple[Colour, ...]:
    """Return an RGB colour (0-255) for each class.

    They are MMSegmentation's colours of the data set, or `distinct_colours` if it has none or if
    two of them look alike.
    """
    n_classes = len(protocol.class_names)
    mmseg_palette = palette(protocol)
    if not mmseg_palette:
        return distinct_colours(n_classes)
    lab = _rgb_to_lab(mmseg_palette)
    distances = np.linalg.norm(lab[:, None] - lab, axis=-1)
    # The matrix is symmetric: the entries above the diagonal have each pair of colours once.
    distances_of_pairs = distances[np.triu_indices(len(lab), 1)]
    two_look_alike = distances_of_pairs.min(initial=np.inf) < _ALIKE
    if two_look_alike:
        return distinct_colours(n_classes)
    return mmseg_palette


def save_label_map(path: Path, classes: Label, colours: Sequence[Colour]) -> bytes:
    """Write the class indices of an image as a PNG file, and return the file's SHA-256.

    Indices of 8 bits are written as a palette image, which viewers show in the colours of the
    classes. Indices of 16 bits are written as grey values.

    Args:
        path: The file to write.
        classes: The class index (H, W) of each pixel, uint8 or uint16.
        colours: The RGB colour (0-255) of each class.
    """
    image = Image.fromarray(classes)
    if classes.dtype == np.uint8:
        image = image.convert("P")
        image.putpalette([channel for colour in colours for channel in colour])
    return hashlib.sha256(_write_image(path, image, "PNG")).digest()


def save_overlay(
    path: Path, image: LoadedImage, classes: Label, names: Sequence[str], colours: Sequence[Colour]
) -> None:
    """Write a JPEG file that shows the image, its true classes and the predicted ones.

    The three are drawn side by side, with a legend of the classes that occur.

    Args:
        path: The file to write.
        image: The image with its label map.
        classes: The predicted class (H, W) of each pixel.
        names: The names of all classes.
        colours: The RGB colours (0-255) of all classes.

    Raises UsageError if the file cannot be written.
    """
    rgb_image = decode(image.sample.image)
    panels = [
        (image.sample.image.name, rgb_image, None),
        ("truth", rgb_image, image.label),
        ("prediction", rgb_image, classes),
    ]
    # The predicted classes come first, then the true classes that were not predicted.
    fractions = class_fractions(classes, len(names))
    for true_class in sorted(class_fractions(image.label, len(names))):
        fractions.setdefault(true_class, 0.0)
    _write_image(path, draw_picture(panels, names, colours, fractions), "JPEG")


def is_saved(folder: Path, name: str, sha256: bytes) -> bool:
    """Return whether the predicted label map of an image is on disk as it was saved.

    Args:
        folder: The folder of the predicted label maps.
        name: The name of the image.
        sha256: The SHA-256 of the file that was saved.
    """
    try:
        content = prediction_file(folder, name).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content).digest() == sha256


def _write_image(path: Path, image: Image.Image, file_format: str) -> bytes:
    """Write an image file, and return its content. Raises UsageError if it cannot be written."""
    buffer = io.BytesIO()
    image.save(buffer, format=file_format)
    content = buffer.getvalue()
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"cannot write prediction {path}: {error.strerror}") from error
    return content


def decode(path: Path, content: bytes | None = None) -> Pixels:
    """Decode an image file to pixels (H, W, 3), RGB uint8, by OpenCV, as MMSegmentation does.

    Args:
        path: The image file, which messages name.
        content: The content of the file. If it is None, the file is read here.

    Raises UsageError for a file that cannot be read, or is not an image.
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
    """Return an image as models see it: in RGB, rotated as its EXIF data say."""
    return Image.fromarray(decode(path))
