"""What segmentation needs of the model that a protocol is measured on."""

from __future__ import annotations

from dataclasses import replace

from cosmos_eval.models.encoder import DenseEncoder
from cosmos_eval.types import Rgb, SegmentationProtocol


def fit_to_model(protocol: SegmentationProtocol, encoder: DenseEncoder) -> SegmentationProtocol:
    """The protocol with the model's mean and std where it states none."""
    return replace(
        protocol,
        mean=protocol.mean or _of_255(encoder.image_mean),
        std=protocol.std or _of_255(encoder.image_std),
    )


def _of_255(values: Rgb) -> Rgb:
    red, green, blue = (255 * value for value in values)
    return red, green, blue
