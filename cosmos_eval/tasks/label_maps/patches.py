"""Models that have patch embeddings, and how many images they encode at once."""

from __future__ import annotations

import torch

from cosmos_eval.models.encoder import DenseEncoder, Encoder
from cosmos_eval.types import Attention, UsageError

# Patches that a CPU encodes at once: eight windows of 224 pixels in patches of 16. More take more
# memory, and longer, since they leave its caches (docs/log.md).
_CPU_PATCHES = 8 * 14 * 14


def with_patches(encoder: Encoder, attention: Attention) -> DenseEncoder:
    """The model itself, where it has patch embeddings in this form of attention, else a UsageError.

    It encodes an image of one patch, so that a refusal comes before the prompts are encoded.
    """
    if not isinstance(encoder, DenseEncoder):
        raise UsageError(f"{encoder.info.spec} has no patch embeddings to compare texts with")
    side = max(encoder.patch_size, 1)  # 0: a tower that has no patches
    encoder.encode_patches(torch.zeros(1, 3, side, side, device=encoder.info.device), attention)
    return encoder


def images_at_once(encoder: DenseEncoder, image_hw: tuple[int, int], batch_size: int) -> int:
    """How many images of a size; never 0, and a tower without patches is refused by the encoder."""
    if torch.device(encoder.info.device).type != "cpu" or not encoder.patch_size:
        return batch_size
    patches = image_hw[0] * image_hw[1] // encoder.patch_size**2
    return max(1, min(batch_size, _CPU_PATCHES // max(1, patches)))
