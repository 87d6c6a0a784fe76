"""Attention among sequences that lie one after another, without padding between them.

Letters in shapes: T tokens of all sequences, M sequences, W width, n sequences of a run, l tokens
of each, h heads, d width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Run(NamedTuple):
    """`sequences` of `length` tokens each."""

    sequences: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens of all its sequences."""
        return self.sequences * self.length


def project(
    attention: nn.MultiheadAttention, queries: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """Queries (..., W), and keys and values (..., 2W) of other tokens (..., W)."""
    width = queries.shape[-1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    q = F.linear(queries, weight[:width], bias[:width])
    return q, F.linear(tokens, weight[width:], bias[width:])


def self_attention(qkv: Tensor, heads: int, runs: Sequence[Run], causal: bool) -> Tensor:
    """Projected queries, keys and values (T, 3W) -> (T, W)."""
    outputs = []
    for run, piece in zip(runs, qkv.split([run.tokens for run in runs]), strict=True):
        split = piece.view(*run, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = split.contiguous() if _needs_plain(qkv) else split
        output = attend(q, k, v, causal=causal)
        outputs.append(output.transpose(1, 2).reshape(run.tokens, -1))
    return torch.cat(outputs)


def attention_at(
    q: Tensor, kv: Tensor, heads: int, runs: Sequence[Run], ends: Tensor | None
) -> Tensor:
    """One query a sequence: queries (M, W), keys and values (T, 2W) -> (M, W).

    `ends` (M,) is the last token of each sequence that its query sees; None means all of them.
    """
    counts = [run.sequences for run in runs]
    places = [None] * len(runs) if ends is None else ends.split(counts)
    tokens = kv.split([run.tokens for run in runs])
    outputs = []
    for run, query, piece, last in zip(runs, q.split(counts), tokens, places, strict=True):
        k, v = piece.view(*run, 2, heads, -1).permute(2, 0, 3, 1, 4)
        seen = None
        if last is not None:
            seen = torch.arange(run.length, device=q.device) <= last[:, None, None, None]
        outputs.append(attend(query.view(run.sequences, heads, 1, -1), k, v, mask=seen).flatten(1))
    return torch.cat(outputs)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """softmax(q k' / sqrt(d)) v: queries (n, h, m, d), keys and values (n, h, l, d) -> as queries.

    `mask` is true where a query sees a key, and broadcasts to (n, h, m, l).
    """
    if not _needs_plain(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1) @ v


def _needs_plain(tensor: Tensor) -> bool:
    """PyTorch's fused attention on a CPU is slow in bfloat16: backward takes three to eight times
    as long as plain products and a softmax, forward up to twice (docs/log.md)."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.bfloat16
