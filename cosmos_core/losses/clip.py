"""The CLIP loss (arXiv 2103.00020), over many pairs of views at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_core.losses.common import full_precision, gather_locally
from cosmos_core.types import Gather, Gathered, LossTerms


def clip_loss(
    image: Tensor, text: Tensor, logit_scale: Tensor, gather: Gather = gather_locally
) -> LossTerms:
    """Contrast every view of `image` (V, B, D) with every one of `text` (T, B, D), normalised."""
    images, texts = gather([image, text])
    return LossTerms(clip=contrastive_loss(images, texts, logit_scale))


def contrastive_loss(
    first: Tensor | Gathered, second: Tensor | Gathered, logit_scale: Tensor
) -> Tensor:
    """Return the mean, over all pairs of views, of the symmetric cross-entropy of their samples.

    `first` (V, B, D) and `second` (U, B, D), L2-normalised; `logit_scale` 0-d, exponentiated.
    In loops::

        for v in range(V):
            for u in range(U):
                logits = logit_scale * first[v] @ second[u].T
                loss += (cross_entropy(logits, diagonal) + cross_entropy(logits.T, diagonal)) / 2
        loss / (V * U)

    Gathered over processes, each computes its own rows and columns of the logits alone, (B, N)
    each, so memory grows with B * N; the mean of the processes' values is the loss above.
    """
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        logits = _logits(first, second, logit_scale)
        return (_cross_entropy(logits, 0) + _cross_entropy(logits.transpose(1, 2), 0)) / 2
    if isinstance(first, Tensor) or isinstance(second, Tensor):
        raise TypeError("gather both sides of the contrastive loss, or neither")
    if first.local is first.everywhere and second.local is second.everywhere:
        return contrastive_loss(first.local, second.local, logit_scale)
    rows = _logits(first.local, second.everywhere, logit_scale)
    columns = _logits(second.local, first.everywhere, logit_scale)
    return (_cross_entropy(rows, first.offset) + _cross_entropy(columns, second.offset)) / 2


def _logits(first: Tensor, second: Tensor, logit_scale: Tensor) -> Tensor:
    """Every view of `first` (V, B, D) with every one of `second` (U, C, D) -> (V*U, B, C)."""
    cosines = torch.einsum("vbd,ucd->vubc", full_precision(first), full_precision(second))
    return (logit_scale * cosines).flatten(0, 1)


def _cross_entropy(logits: Tensor, offset: int) -> Tensor:
    """Mean over (P, B, C) logits where the target of row b is column `offset + b`."""
    pairs, samples, _ = logits.shape
    target = torch.arange(offset, offset + samples, device=logits.device).expand(pairs, samples)
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())
