"""The symmetric contrastive loss (arXiv 2103.00020), over many pairs of views at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(first: Tensor, second: Tensor, logit_scale: Tensor) -> Tensor:
    """The mean, over all pairs of views, of the symmetric cross-entropy of their samples.

    `first` (V, B, D) and `second` (U, B, D), L2-normalised; `logit_scale` 0-d, exponentiated.
    In loops::

        for v in range(V):
            for u in range(U):
                logits = logit_scale * first[v] @ second[u].T
                loss += (cross_entropy(logits, diagonal) + cross_entropy(logits.T, diagonal)) / 2
        loss / (V * U)
    """
    samples = first.shape[1]
    logits = logit_scale * torch.einsum("vbd,ucd->vubc", first, second).float()
    logits = logits.flatten(0, 1)
    target = torch.arange(samples, device=logits.device).expand(logits.shape[0], samples)
    rows = F.cross_entropy(logits.flatten(0, 1), target.flatten())
    columns = F.cross_entropy(logits.transpose(1, 2).flatten(0, 1), target.flatten())
    return (rows + columns) / 2
