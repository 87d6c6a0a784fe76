"""Sequences of several lengths in one pass through OpenCLIP's transformer blocks.

Everything in a block but attention acts on single tokens. So sequences lie one after another in
one tensor (T, W), and only attention looks at the runs of equally long ones. In the last block,
sequences of which one token is read compute that token only. Both are exact.

Letters in shapes as in `cosmos_core.model.attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cosmos_core.model.attention import Run, attention_at, project, self_attention


@dataclass(frozen=True)
class Packing:
    """How sequences lie in (T, W); `causal` where tokens see only what precedes them.

    `ends` (M,), where given, are the places in their sequences of the only queries.
    """

    runs: tuple[Run, ...]
    causal: bool
    ends: Tensor | None = None


class Encoded(NamedTuple):
    """`whole` (T', W), all tokens of the first runs; `ends` (M, W), one of each other sequence."""

    whole: Tensor
    ends: Tensor


class PackedBlock(ResidualAttentionBlock):
    """OpenCLIP's block, which can also be called with a packing.

    `pack_blocks` makes OpenCLIP's blocks of it: parameters, their names and hooks stay.
    """

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """With a packing: tokens (T, W) -> (T, W); or, where `k_x` (T, W) are the tokens, those of
        them at the packing's ends (M, W) -> (M, W). Without one: as OpenCLIP's."""
        if packing is None:
            return super().forward(q_x, k_x, v_x, attn_mask)
        # In mixed precision, a CPU adds tensors of two types several times slower than it converts.
        tokens = None if k_x is None else self.ln_1(k_x)
        x = q_x + self.ls_1(self._mix(self.ln_1(q_x), tokens, packing)).to(q_x.dtype)
        return x + self.ls_2(self.mlp(self.ln_2(x))).to(x.dtype)

    def _mix(self, queries: Tensor, tokens: Tensor | None, packing: Packing) -> Tensor:
        """The attention of this block, projections included."""
        heads = self.attn.num_heads
        if tokens is None:
            qkv = F.linear(queries, self.attn.in_proj_weight, self.attn.in_proj_bias)
            mixed = _self_attention(qkv, heads, packing)
        else:
            mixed = _attention_at(*project(self.attn, queries, tokens), heads, packing)
        return self.attn.out_proj(mixed)


# What a block is packed with changes from step to step: compiled code must not depend on it.
@torch.compiler.disable
def _self_attention(qkv: Tensor, heads: int, packing: Packing) -> Tensor:
    return self_attention(qkv, heads, packing.runs, packing.causal)


@torch.compiler.disable
def _attention_at(q: Tensor, kv: Tensor, heads: int, packing: Packing) -> Tensor:
    return attention_at(q, kv, heads, packing.runs, packing.ends if packing.causal else None)


def pack_blocks(transformer: Transformer) -> None:
    """Let the blocks be called with a packing; ValueError where they are not the default ones."""
    for block in transformer.resblocks:
        if type(block) is not ResidualAttentionBlock:
            raise ValueError(f"COSMOS cannot be built on blocks of kind {type(block).__name__}")
        block.__class__ = PackedBlock


def through_blocks(
    transformer: Transformer, x: Tensor, packing: Packing, whole: int, ends: Tensor
) -> Encoded:
    """Embedded tokens (T, W) through all blocks, the last one for what is wanted of it alone.

    The first `whole` runs are wanted whole; of the other M sequences, the tokens at `ends` (M,).
    """
    first = Packing(packing.runs[:whole], packing.causal)
    rest = Packing(packing.runs[whole:], packing.causal, ends)
    *early, last = transformer.resblocks
    for block in early:
        x = _call(transformer, block, x, None, packing)
    wanted, others = x.split([_tokens(first), _tokens(rest)])
    if first.runs:
        wanted = _call(transformer, last, wanted, None, first)
    if not rest.runs:
        return Encoded(wanted, others)
    queries = others[_starts(rest.runs, x.device) + ends]
    return Encoded(wanted, _call(transformer, last, queries, others, rest))


def _call(
    transformer: Transformer, block: PackedBlock, x: Tensor, tokens: Tensor | None, packing: Packing
) -> Tensor:
    """A block, computed again in backward where the transformer is set so."""
    if transformer.grad_checkpointing and torch.is_grad_enabled():
        return checkpoint(block, x, tokens, packing=packing, use_reentrant=False)
    return block(x, tokens, packing=packing)


def _tokens(packing: Packing) -> int:
    return sum(run.tokens for run in packing.runs)


def _starts(runs: Sequence[Run], device: torch.device) -> Tensor:
    """Where each sequence starts in (T, W)."""
    lengths = [run.length for run in runs for _ in range(run.sequences)]
    return torch.tensor([0, *lengths[:-1]], device=device).cumsum(0)
