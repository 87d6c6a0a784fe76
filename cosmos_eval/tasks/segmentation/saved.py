"""Predicted label maps on the disk: where they lie, and their colours."""

from __future__ import annotations

from pathlib import Path

from cosmos_eval.tasks.label_maps import palette
from cosmos_eval.tasks.segmentation.overlay import Colour, distinct_colours
from cosmos_eval.types import SegmentationProtocol


def predictions_folder(folder: Path, protocol: SegmentationProtocol) -> Path:
    """Where the predictions of a data set lie below the folder of a model's."""
    return folder / f"{protocol.dataset}__{protocol.family}"


def prediction_file(folder: Path, name: str) -> Path:
    """The predicted label map of an image in the folder of its data set."""
    return folder / f"{name}.png"


def colours(protocol: SegmentationProtocol) -> tuple[Colour, ...]:
    """An RGB colour (0-255) a class: MMSegmentation's, or distinct ones where it has none."""
    return palette(protocol) or distinct_colours(len(protocol.class_names))
