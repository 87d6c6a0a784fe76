"""The SLIP loss (arXiv 2112.12750): CLIP plus SimCLR (arXiv 2002.05709) on the image's views."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_core.losses.clip import contrastive_loss
from cosmos_core.losses.common import full_precision, gather_locally
from cosmos_core.types import Gather, Gathered, LossTerms

TEMPERATURE = 0.1  # SLIP, arXiv 2112.12750, section 3.2 (github.com/facebookresearch/SLIP)


def slip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    projections: Tensor,
    gather: Gather = gather_locally,
) -> LossTerms:
    """Return the CLIP loss of `image` (V, B, D) and `text` (T, B, D), and SimCLR's of
    `projections` (2, B, P), all L2-normalised. One gather serves both terms."""
    images, texts, projected = gather([image, text, projections])
    clip = contrastive_loss(images, texts, logit_scale)
    return LossTerms(clip=clip, simclr=simclr_loss(projected))


def simclr_loss(projections: Gathered) -> Tensor:
    """Return NT-Xent of L2-normalised projections (2, B, P). Its mean over processes in loops::

    for view in (0, 1):
        for b in range(N):
            others = [the other view of every sample] + [this view of every sample but b]
            loss += cross_entropy(projections[view][b] @ others / 0.1, target=b) / (2 * N)
    """
    local, everywhere = full_precision(projections.local), full_precision(projections.everywhere)
    samples = local.shape[1]
    own = torch.arange(projections.offset, projections.offset + samples, device=local.device)
    loss = local.new_zeros(())
    for view in (0, 1):
        across = local[view] @ everywhere[1 - view].T
        within = local[view] @ everywhere[view].T
        within = within.scatter(1, own[:, None], float("-inf"))
        logits = torch.cat([across, within], dim=1) / TEMPERATURE
        loss = loss + F.cross_entropy(logits, own) / 2
    return loss
