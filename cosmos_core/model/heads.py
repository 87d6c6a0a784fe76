"""Heads on the image features of a CLIP, for losses between views of an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = "head"
"""Name of a head in its model. Only the training uses it: checkpoints leave it out."""


class ProjectionHead(nn.Sequential):
    """Three linear layers, (..., embed_dim) -> (..., out).

    Unlike SLIP's, it has no batch normalisation: projections do not depend on how a batch is split.
    """

    def __init__(self, embed_dim: int, hidden: int, out: int) -> None:
        super().__init__(
            nn.Linear(embed_dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, out),
        )


class PrototypeHead(nn.Module):
    """DINO's head (arXiv 2104.14294): an MLP to a bottleneck of unit length, then K prototypes of
    unit length; `center` is the running mean of the logits."""

    center: Tensor

    def __init__(self, embed_dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = ProjectionHead(embed_dim, hidden, bottleneck)
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))
        self.register_buffer("center", torch.zeros(prototypes))

    def forward(self, features: Tensor) -> Tensor:
        """(..., D) -> cosines with the prototypes (..., K)."""
        return F.normalize(self.mlp(features), dim=-1) @ F.normalize(self.prototypes, dim=-1).T
