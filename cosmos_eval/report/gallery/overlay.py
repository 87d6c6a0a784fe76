"""An image of a segmentation set, drawn with its label maps in the set's colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from cosmos_eval.report.gallery.maps import Truth
from cosmos_eval.report.gallery.pictures import Canvas
from cosmos_eval.report.gallery.records import SegmentationExample
from cosmos_eval.tasks.label_maps import Label
from cosmos_eval.tasks.segmentation import colours, read_image
from cosmos_eval.types import SegmentationProtocol


def draw(
    protocol: SegmentationProtocol, truth: Truth, maps: Mapping[str, Label], canvas: Canvas
) -> SegmentationExample:
    """Image, truth and the label map of every model. Raises UsageError for a damaged image."""
    image = read_image(truth.sample)
    size, palette = canvas.size_of(image.size), colours(protocol)
    present = _present([truth.label, *maps.values()], len(protocol.class_names))
    return SegmentationExample(
        dataset=protocol.dataset,
        protocol=protocol.family,
        name=truth.sample.name,
        image=canvas.large(image),
        truth=canvas.label_map(truth.label, palette, size),
        predictions={label: canvas.label_map(one, palette, size) for label, one in maps.items()},
        legend={
            protocol.class_names[number]: "#{:02x}{:02x}{:02x}".format(*palette[number])
            for number in present
        },
    )


def _present(maps: Iterable[Label], n_classes: int) -> list[int]:
    """Numbers of the classes that occur in any of the maps."""
    counts = np.sum([np.bincount(classes.ravel(), minlength=256) for classes in maps], axis=0)
    return np.flatnonzero(counts[:n_classes]).tolist()
