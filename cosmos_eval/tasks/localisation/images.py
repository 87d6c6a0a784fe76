"""Images as a model sees them whole, with what is on their label maps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import ImageOps
from torch import Tensor

from cosmos_eval.data.sources import ImageFile
from cosmos_eval.models.encoder import DenseEncoder
from cosmos_eval.models.maps import whole_image
from cosmos_eval.stats.localisation import Cover, cover
from cosmos_eval.tasks.label_maps import (
    Label,
    Sample,
    has_background,
    read_label,
    require_same_size,
)
from cosmos_eval.types import LocalisationProtocol


class Things(NamedTuple):
    """The things of an image that can be told from something else in it.

    `classes` and `pixels` have an entry a thing, the first ascending; `under` is None where there
    is no thing. `alone` is true where one class fills all labelled pixels: then nothing is left to
    tell it from.
    """

    classes: list[int]
    pixels: list[int]
    image_pixels: int
    labelled_pixels: int
    under: Cover | None
    alone: bool


class LoadedImage(NamedTuple):
    """`pixels` (3, H, W) float32, resized and normalised, and the things in the image."""

    name: str
    pixels: Tensor
    things: Things


def load_image(
    sample: Sample, encoder: DenseEncoder, protocol: LocalisationProtocol
) -> LoadedImage:
    """Read an image and its label map. Raises UsageError that names a file it cannot use."""
    source = ImageFile(sample.image)
    # As label maps are made of what is displayed.
    image = ImageOps.exif_transpose(source.decode(source.read()))
    label = read_label(sample, protocol)
    require_same_size(sample, (image.height, image.width), label)
    pixels = whole_image(encoder, image)
    height, width = (side // encoder.patch_size for side in pixels.shape[1:])
    return LoadedImage(sample.name, pixels, things_of(label, (height, width), protocol))


def things_of(label: Label, grid: tuple[int, int], protocol: LocalisationProtocol) -> Things:
    """The things of a label map (H, W) below h x w patches.

    A model whose input is not made of whole patches drops a narrow border; its patches are taken to
    cover the image all the same.
    """
    counts = np.bincount(label.ravel(), minlength=256)
    ignored = protocol.ignore_index
    labelled = int(counts.sum() - counts[ignored])
    first = int(has_background(protocol))
    present = [n for n in range(first, len(protocol.class_names)) if counts[n]]
    alone = any(counts[n] == labelled for n in present)
    classes = [] if alone else present
    return Things(
        classes,
        [int(counts[n]) for n in classes],
        label.size,
        labelled,
        cover(label, classes, grid, ignored) if classes else None,
        alone,
    )
