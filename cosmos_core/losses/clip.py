"""The CLIP loss (arXiv 2103.00020)."""

from __future__ import annotations

from torch import Tensor

from cosmos_core.losses.contrastive import contrastive_loss
from cosmos_core.losses.gather import gather_locally
from cosmos_core.types import Gather, LossTerms


def clip_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor, gather: Gather = gather_locally
) -> LossTerms:
    """Every view of `image` (V, B, D) against every one of `text` (T, B, D), L2-normalised."""
    images, texts = gather([image, text])
    return LossTerms(clip=contrastive_loss(images, texts, logit_scale))
