"""The cross-attention module of COSMOS (arXiv 2412.01814, section 3.2)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from cosmos_core.model.attention import attend, project

CROSS_ATTENTION_HEADS = 8  # github.com/ExplainableML/cosmos, both modalities


class CrossAttentionPooler(nn.Module):
    """Pools the tokens of one modality with the features of the other as queries.

    Parameter names (`attn`, `ln_q`, `ln_k`) are those of the published checkpoints.
    """

    def __init__(self, embed_dim: int, heads: int = CROSS_ATTENTION_HEADS) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(embed_dim, heads, batch_first=True)
        self.ln_q = nn.LayerNorm(embed_dim)
        self.ln_k = nn.LayerNorm(embed_dim)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Queries (B, V, D) over tokens (B, N, D) -> (B, V, D).

        All views of a sample query the same tokens, so the tokens are normalised and projected
        once a sample; equal to repeating them for every view.
        """
        heads = self.attn.num_heads
        q, kv = project(self.attn, self.ln_q(queries), self.ln_k(tokens))
        k, v = kv.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        pooled = attend(q.unflatten(-1, (heads, -1)).transpose(1, 2), k, v)
        return self.attn.out_proj(pooled.transpose(1, 2).flatten(2))

    def weights(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """The weights that `forward` pools by, (B, heads, V, N); each row sums to 1."""
        heads = self.attn.num_heads
        q, kv = project(self.attn, self.ln_q(queries), self.ln_k(tokens))
        q = q.unflatten(-1, (heads, -1)).transpose(1, 2)
        k = kv.unflatten(-1, (2, heads, -1))[:, :, 0].transpose(1, 2)
        return (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
