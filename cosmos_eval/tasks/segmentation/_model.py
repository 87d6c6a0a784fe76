"""What a protocol takes from the model that it is measured on."""

from __future__ import annotations

from dataclasses import replace

import torch

from cosmos_eval.encoder import DenseEncoder
from cosmos_eval.types import Attention, Rgb, SegmentationProtocol


def fit_to_model(
    protocol: SegmentationProtocol, encoder: DenseEncoder, attention: Attention
) -> SegmentationProtocol:
    """The protocol with the model's mean and std where it states none.

    Raises UsageError where the model has no patch embeddings or not in this form of attention:
    it encodes an image of one patch, so that this shows before the prompts are encoded.
    """
    side = max(encoder.patch_size, 1)  # 0: a tower that has no patches
    encoder.encode_patches(torch.zeros(1, 3, side, side, device=encoder.info.device), attention)
    return replace(
        protocol,
        mean=protocol.mean or _of_255(encoder.image_mean),
        std=protocol.std or _of_255(encoder.image_std),
    )


def _of_255(values: Rgb) -> Rgb:
    red, green, blue = (255 * value for value in values)
    return red, green, blue
