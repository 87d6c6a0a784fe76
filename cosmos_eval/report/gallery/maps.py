"""Which images of a segmentation set are shown, and whether a label map is the one measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cosmos_eval.report.gallery.results import Shown
from cosmos_eval.stats.segmentation import confusion
from cosmos_eval.tasks.label_maps import Label, Sample
from cosmos_eval.tasks.segmentation.samples import NAME
from cosmos_eval.types import Precision, Samples, SegmentationProtocol, UsageError

# The share of an image's pixels that may be counted otherwise than measured: rounding moves a pixel
# at a border, under autocast more (docs/log.md: 1% of the pixels from fp32 to bf16).
_ROUNDING: dict[Precision, float] = {"fp32": 0.001, "amp": 0.02, "bf16": 0.02, "fp16": 0.02}


IMAGES = 3
"""At most, of a data set."""

# Places in the order of quality: a typical image, a poor one, a good one.
_PARTS = (0.5, 0.1, 0.9)


class Truth(NamedTuple):
    """An image by its number among the samples, and its true classes (H, W)."""

    number: int
    sample: Sample
    label: Label


def choose(results: Sequence[Samples]) -> list[int]:
    """Numbers of up to IMAGES images that all results have, no two the same.

    Where there are several models, the one on which they differ most comes first; then a typical
    one, a poor one and a good one. Images are judged by their share of right pixels.
    """
    n_images = min(len(samples[NAME]) for samples in results)
    shares = np.stack([_right_pixels(samples)[:n_images] for samples in results])
    judged = np.flatnonzero(~np.isnan(shares).any(axis=0))
    if not len(judged):
        return []
    shares = shares[:, judged]
    by_mean = np.argsort(shares.mean(axis=0), kind="stable")
    first = []
    if len(results) > 1:
        first = [int(np.argmax(np.ptp(shares, axis=0)))]
        by_mean = by_mean[by_mean != first[0]]
    parts = _PARTS[: IMAGES - len(first)] if len(by_mean) else ()
    others = (int(by_mean[round(part * (len(by_mean) - 1))]) for part in parts)
    return [int(judged[place]) for place in dict.fromkeys([*first, *others])]


def _right_pixels(samples: Samples) -> NDArray[np.float64]:
    """The share of its labelled pixels that is right, of every image; NaN where none is."""
    image, n_classes, n_images = samples["image"], len(samples["classes"]), len(samples[NAME])
    label, predicted = np.divmod(samples["pair"], n_classes)
    pixels = samples["pixels"]
    counts = np.bincount(image, pixels, n_images)
    right = np.bincount(image, np.where(label == predicted, pixels, 0), n_images)
    return np.divide(right, counts, out=np.full(n_images, np.nan), where=counts > 0)


def is_measured(classes: Label, truth: Truth, shown: Shown, protocol: SegmentationProtocol) -> bool:
    """Whether predicted classes give the image's stored pixel counts, but for rounding."""
    n_classes = len(protocol.class_names)
    if classes.shape != truth.label.shape or classes.max() >= n_classes:
        return False
    own = shown.samples["image"] == truth.number
    stored = np.zeros(n_classes**2, np.int64)
    stored[shown.samples["pair"][own]] = shown.samples["pixels"][own]
    counts = confusion(truth.label, classes, n_classes, protocol.ignore_index).ravel()
    # A pixel of another class is one too few and one too many.
    moved = np.abs(stored - counts).sum() / 2
    return bool(moved <= _ROUNDING[shown.row.provenance["precision"]] * counts.sum())


def saved_map(path: Path) -> Label | None:
    """A saved label map, None where there is none. Raises UsageError where it cannot be read."""
    if not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            mode, classes = image.mode, np.asarray(image)
    except (OSError, SyntaxError) as error:  # SyntaxError: PIL's word for a broken PNG
        raise UsageError(f"cannot read the saved label map {path}: {error}") from error
    if mode not in ("P", "L"):
        raise UsageError(f"{path} is no saved label map: its mode is {mode}")
    return classes
