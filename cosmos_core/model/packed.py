"""Sequences of several lengths in one pass through OpenCLIP's transformer blocks. Sequences are
concatenated, without padding, to one tensor (T, W), and only attention treats them run by run,
where a run is equally long sequences. In the last block, sequences of which one token is read
compute that token only. Both are exact. Letters in shapes: T tokens of all sequences, M sequences,
W width, n sequences of a run, l tokens of each, h heads, d width of a head."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Run(NamedTuple):
    """`sequences` of `length` tokens each."""

    sequences: int
    length: int

    @property
    def tokens(self) -> int:
        """Number of tokens of all its sequences."""
        return self.sequences * self.length


@dataclass(frozen=True)
class Packing:
    """How sequences are concatenated in (T, W); `ends` (M,) are positions of the only queries."""

    runs: tuple[Run, ...]
    causal: bool
    ends: Tensor | None = None


class PackedBlock(ResidualAttentionBlock):
    """OpenCLIP's block, which can also be called with a packing; see `pack_blocks`."""

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Map tokens (T, W) -> (T, W) with a packing; without one, do as OpenCLIP's block. Where
        `k_x` (T, W) are the tokens, `q_x` (M, W) are those at the packing's ends -> (M, W)."""
        if packing is None:
            return super().forward(q_x, k_x, v_x, attn_mask)
        # In mixed precision, a CPU adds tensors of two types several times slower than it converts.
        heads, queries = self.attn.num_heads, self.ln_1(q_x)
        if k_x is None:
            qkv = F.linear(queries, self.attn.in_proj_weight, self.attn.in_proj_bias)
            mixed = _self_attention(qkv, heads, packing)
        else:
            q, kv = project_queries(self.attn, queries), project_keys(self.attn, self.ln_1(k_x))
            mixed = _attention_at_ends(q, kv, heads, packing)
        x = q_x + self.ls_1(self.attn.out_proj(mixed)).to(q_x.dtype)
        return x + self.ls_2(self.mlp(self.ln_2(x))).to(x.dtype)


def pack_blocks(transformer: Transformer) -> None:
    """Convert OpenCLIP's blocks in place, with their hooks. Raises ValueError for other kinds."""
    for block in transformer.resblocks:
        if type(block) is not ResidualAttentionBlock:
            raise ValueError(f"COSMOS cannot be built on blocks of kind {type(block).__name__}")
        block.__class__ = PackedBlock


def through_blocks(
    transformer: Transformer, x: Tensor, packing: Packing, whole: int, ends: Tensor
) -> tuple[Tensor, Tensor]:
    """Map embedded tokens (T, W) through all blocks. Return all tokens (T', W) of the first `whole`
    runs, and those at `ends` (M,) of the other M sequences (M, W)."""
    first = Packing(packing.runs[:whole], packing.causal)
    rest = Packing(packing.runs[whole:], packing.causal, ends)
    *early, last = transformer.resblocks
    for block in early:
        x = _call(transformer, block, x, None, packing)
    sizes = [sum(run.tokens for run in part.runs) for part in (first, rest)]
    complete, others = x.split(sizes)
    if first.runs:
        complete = _call(transformer, last, complete, None, first)
    if not rest.runs:
        return complete, others
    lengths = [run.length for run in rest.runs for _ in range(run.sequences)]
    starts = torch.tensor([0, *lengths[:-1]]).cumsum(0).to(x.device, non_blocking=True)
    return complete, _call(transformer, last, others[starts + ends], others, rest)


def _call(
    transformer: Transformer, block: PackedBlock, x: Tensor, tokens: Tensor | None, packing: Packing
) -> Tensor:
    if transformer.grad_checkpointing and torch.is_grad_enabled():
        return checkpoint(block, x, tokens, packing=packing, use_reentrant=False)
    return block(x, tokens, packing=packing)


def project_queries(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Project (..., W) to queries (..., W)."""
    return F.linear(x, attn.in_proj_weight[: x.shape[-1]], attn.in_proj_bias[: x.shape[-1]])


def project_keys(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Project (..., W) to keys and values (..., 2W)."""
    return F.linear(x, attn.in_proj_weight[x.shape[-1] :], attn.in_proj_bias[x.shape[-1] :])


# A packing changes from step to step: compiled code must not depend on it.
@torch.compiler.disable
def _self_attention(qkv: Tensor, heads: int, packing: Packing) -> Tensor:
    """Projected queries, keys and values (T, 3W) -> (T, W)."""
    outputs = []
    pieces = qkv.split([run.tokens for run in packing.runs])
    for run, piece in zip(packing.runs, pieces, strict=True):
        split = piece.view(*run, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = split.contiguous() if _needs_plain(qkv) else split
        output = attend(q, k, v, causal=packing.causal)
        outputs.append(output.transpose(1, 2).reshape(run.tokens, -1))
    return torch.cat(outputs)


@torch.compiler.disable
def _attention_at_ends(q: Tensor, kv: Tensor, heads: int, packing: Packing) -> Tensor:
    """One query per sequence: queries (M, W), keys and values (T, 2W) -> (M, W)."""
    runs, ends = packing.runs, packing.ends if packing.causal else None
    counts = [run.sequences for run in runs]
    limits = [None] * len(runs) if ends is None else ends.split(counts)
    pieces = kv.split([run.tokens for run in runs])
    outputs = []
    for run, query, piece, last in zip(runs, q.split(counts), pieces, limits, strict=True):
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
    `mask` is true where a query sees a key, and broadcasts to (n, h, m, l)."""
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
