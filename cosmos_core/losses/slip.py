"""The SLIP loss: CLIP plus SimCLR on the image's views (arXiv 2112.12750)."""

from __future__ import annotations

from torch import Tensor

from cosmos_core.losses.contrastive import contrastive_loss
from cosmos_core.losses.gather import gather_locally
from cosmos_core.losses.simclr import simclr_loss
from cosmos_core.types import Gather, LossTerms


def slip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    projections: Tensor,
    gather: Gather = gather_locally,
) -> LossTerms:
    """The CLIP loss of `image` (V, B, D) and `text` (T, B, D), and SimCLR's of `projections`
    (2, B, P), all L2-normalised. One gather serves both terms."""
    images, texts, projected = gather([image, text, projections])
    clip = contrastive_loss(images, texts, logit_scale)
    return LossTerms(clip=clip, simclr=simclr_loss(projected))
