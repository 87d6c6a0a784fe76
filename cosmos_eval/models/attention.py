"""Multi-head self-attention of OpenCLIP's blocks in reduced precision on a CPU.

`nn.MultiheadAttention` projects a transposed view. Without gradients PyTorch then multiplies
sample by sample and, in bf16 on a CPU, first copies the weights for each of them: most of the time
of a ViT-B/16. Projecting what the block hands over, which lies in one piece, copies nothing.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


def project_in_one_piece(model: nn.Module) -> None:
    """Have the self-attentions of a model compute the same by `_SelfAttention`, in place.

    Parameters, their names and hooks stay.
    """
    for module in model.modules():
        plain = type(module) is nn.MultiheadAttention and module.in_proj_bias is not None
        if plain and module.batch_first and module.bias_k is None and not module.add_zero_attn:
            module.__class__ = _SelfAttention


class _SelfAttention(nn.MultiheadAttention):
    """As its base without dropout, weights or padding mask; anything else goes to the base."""

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, N, C) -> mixed tokens (B, N, C); `attn_mask` (N, N) is added to the logits."""
        mask = options.pop("attn_mask", None)
        usual = {"need_weights": False, "is_causal": False}
        # A mask of its own for every sample and head (CoCa's texts) is the base's.
        shared_mask = mask is None or (mask.ndim == 2 and mask.is_floating_point())
        own = query is key is value and query.ndim == 3 and shared_mask
        if self.training or not own or {**usual, **options} != usual:
            return super().forward(query, key, value, attn_mask=mask, **options)
        projected = F.linear(query, self.in_proj_weight, self.in_proj_bias)
        q, k, v = projected.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if mask is None else mask.to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None
