"""SimCLR's loss between two views of an image (arXiv 2002.05709), as SLIP has it (2112.12750)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_core.losses.gather import gather_locally
from cosmos_core.types import Gather

TEMPERATURE = 0.1  # SLIP, arXiv 2112.12750, section 3.2 (github.com/facebookresearch/SLIP)


def simclr_loss(projections: Tensor, gather: Gather = gather_locally) -> Tensor:
    """NT-Xent of `projections` (2, B, D), L2-normalised.

    In loops::

        for view in (0, 1):
            for b in range(N):
                others = [the other view of every sample] + [this view of every sample but b]
                loss += cross_entropy(projections[view][b] @ others / 0.1, target=b) / (2 * N)
    """
    (gathered,) = gather([projections])
    samples = projections.shape[1]
    own = torch.arange(gathered.offset, gathered.offset + samples, device=projections.device)
    loss = projections.new_zeros(())
    for view in (0, 1):
        across = gathered.local[view] @ gathered.everywhere[1 - view].T
        within = gathered.local[view] @ gathered.everywhere[view].T
        within = within.scatter(1, own[:, None], float("-inf"))
        logits = torch.cat([across, within], dim=1).float() / TEMPERATURE
        loss = loss + F.cross_entropy(logits, own) / 2
    return loss
