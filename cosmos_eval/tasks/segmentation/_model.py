"""What segmentation needs of the model that a protocol is measured on."""

from __future__ import annotations

from dataclasses import replace

import torch

from cosmos_eval.encoder import DenseEncoder, Encoder
from cosmos_eval.types import Attention, Rgb, SegmentationProtocol, UsageError


def with_patches(encoder: Encoder, attention: Attention) -> DenseEncoder:
    """The model itself, where it has patch embeddings in this form of attention, else a UsageError.

    It encodes an image of one patch, so that a refusal comes before the prompts are encoded.
    """
    if not isinstance(encoder, DenseEncoder):
        raise UsageError(f"{encoder.info.spec} has no patch embeddings to segment images with")
    side = max(encoder.patch_size, 1)  # 0: a tower that has no patches
    encoder.encode_patches(torch.zeros(1, 3, side, side, device=encoder.info.device), attention)
    return encoder


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
