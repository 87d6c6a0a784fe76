"""Blocks of OpenCLIP 3, around `nn.MultiheadAttention`, and of OpenCLIP 4, around its own module.

By the facts of github.com/mlfoundations/open_clip, branch main, commit 89fb801 (4.2.0.dev0),
src/open_clip/transformer.py, `Attention` and `ResidualAttentionBlock`: the names of parameters are
those of `nn.MultiheadAttention`, options that are off are None or `nn.Identity`, the block has no
`ln_attn`, and it gives its attention the same tensor as input, keys and values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OwnAttention(nn.Module):
    """The attention of OpenCLIP 4 without options: one projection for an input, else three."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.scale = self.head_dim**-0.5
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.q_proj_weight = self.k_proj_weight = self.v_proj_weight = None
        self.logit_scale = self.head_scale = None
        self.ln_q, self.ln_k, self.ln_inner = (nn.Identity() for _ in range(3))
        self.out_proj = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        if k_x is None and v_x is None:
            projected = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            inputs = (x, x if k_x is None else k_x, x if v_x is None else v_x)
            weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
            projected = tuple(map(F.linear, inputs, weights, biases))
        q, k, v = (
            t.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2) for t in projected
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, scale=self.scale)
        return self.out_proj(self.ln_inner(mixed.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """A block with the norms, scales and the MLP of another one, and a copy of its attention.

    `version` is 3 for `nn.MultiheadAttention`, and 4 for OpenCLIP's own module.
    """

    def __init__(self, block: Any, version: int) -> None:
        super().__init__()
        self.ln_1, self.ls_1, self.ln_2 = block.ln_1, block.ls_1, block.ln_2
        self.mlp, self.ls_2, self.version = block.mlp, block.ls_2, version
        width, heads = block.attn.out_proj.in_features, block.attn.num_heads
        self.attn: nn.Module = OwnAttention(width, heads)
        if version == 3:
            self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.attn.load_state_dict(block.attn.state_dict())
        self.eval()

    def forward(self, q_x: Tensor, *_: None, attn_mask: Tensor | None = None) -> Tensor:
        x = self.ln_1(q_x)
        if self.version == 3:
            mixed = self.attn(x, x, x, need_weights=False, attn_mask=attn_mask)[0]
        else:
            mixed = self.attn(x, k_x=x, v_x=x, attn_mask=attn_mask)
        x = q_x + self.ls_1(mixed)
        return x + self.ls_2(self.mlp(self.ln_2(x)))
