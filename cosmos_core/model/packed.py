"""Sequences of several lengths in one pass through OpenCLIP's transformer blocks.

Sequences are concatenated, without padding, to one tensor (T, W). Only the attention tells them
apart: in one call of `torch.nn.attention.varlen` if it can be used, otherwise in one call per
length. If only one token of a sequence is read, the last block computes only that token. The
results are exact.

Letters in shapes: T tokens of all sequences, M sequences, W width, n sequences of equal length, l
tokens of each, m queries of each, h heads, d width of a head.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before PyTorch 2.10
    varlen_attn = None  # type: ignore[assignment]
# PyTorch 2.10 has `varlen_attn` with other arguments.
HAS_VARLEN = varlen_attn is not None and "window_size" in inspect.signature(varlen_attn).parameters


class Packing(NamedTuple):
    """A description of the sequences that are concatenated in a tensor (T, W)."""

    # Lengths of the sequences (M,), on the host.
    lengths: Tensor
    # Where the sequences begin, and the end of the last (M + 1,), int32 on the device.
    bounds: Tensor
    # The longest length that a sequence may have.
    longest: int
    # True if a token attends only to itself and to earlier tokens.
    causal: bool
    # True for one call of `varlen_attn`. A causal sequence must then end at its only query.
    one_call: bool
    # Positions of the only query of each sequence (M,), or None if all tokens are queries.
    ends: Tensor | None = None


def pack(lengths: Tensor, longest: int, like: Tensor, *, causal: bool, one_call: bool) -> Packing:
    """Return the packing of sequences on the device of `like`."""
    bounds = F.pad(lengths.cumsum(0), (1, 0)).int().to(like.device, non_blocking=True)
    return Packing(lengths, bounds, longest, causal, one_call)


def attends_in_one_call(transformer: Transformer, like: Tensor) -> bool:
    """Return whether PyTorch's `varlen_attn` can compute the attention of a transformer.

    It needs an NVIDIA GPU from Ampere on, float16 or bfloat16, and heads of 8, 16, ... 256. Tokens
    have the device of `like`, and its dtype or autocast's.
    """
    device = like.device
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    else:
        dtype = like.dtype
    if not HAS_VARLEN or not like.is_cuda or torch.version.cuda is None:
        return False
    head_width = transformer.resblocks[0].attn.head_dim
    if dtype not in (torch.float16, torch.bfloat16) or head_width % 8 or head_width > 256:
        return False
    return torch.cuda.get_device_properties(device).major >= 8


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
        """Map the tokens of a packing through the block; without a packing do as OpenCLIP's block.

        If `k_x` is None, `q_x` are all tokens: (T, W) -> (T, W). Otherwise `k_x` are all tokens
        (T, W) and `q_x` the tokens at the packing's ends: (M, W) -> (M, W).
        """
        if packing is None:
            return super().forward(q_x, k_x, v_x, attn_mask)
        heads, queries = self.attn.num_heads, self.ln_1(q_x)
        if k_x is None:
            qkv = F.linear(queries, self.attn.in_proj_weight, self.attn.in_proj_bias)
            q, k, v = qkv.unflatten(1, (3, heads, -1)).unbind(1)
        else:
            q = project_queries(self.attn, queries).unflatten(1, (heads, -1))
            kv = project_keys(self.attn, self.ln_1(k_x))
            k, v = kv.unflatten(1, (2, heads, -1)).unbind(1)
        attended = _attention(q, k, v, packing).flatten(1)
        # Converted to one dtype: a CPU adds tensors of two dtypes several times slower.
        x = q_x + self.ls_1(self.attn.out_proj(attended)).to(q_x.dtype)
        return x + self.ls_2(self.mlp(self.ln_2(x))).to(x.dtype)


def pack_blocks(transformer: Transformer) -> None:
    """Convert OpenCLIP's blocks to PackedBlock in place; their hooks stay.

    Raises ValueError for other kinds of blocks.
    """
    for block in transformer.resblocks:
        if type(block) is not ResidualAttentionBlock:
            raise ValueError(f"COSMOS cannot be built on blocks of kind {type(block).__name__}")
        block.__class__ = PackedBlock


def through_blocks(
    transformer: Transformer,
    x: Tensor,
    packing: Packing,
    complete: int,
    complete_tokens: int,
    ends: Tensor,
) -> tuple[Tensor, Tensor]:
    """Map embedded tokens (T, W) through all blocks of a transformer.

    Return all tokens (T', W) of the first `complete` sequences, which have `complete_tokens` T'
    tokens, and of every other sequence the token at its position in `ends`: (M - complete, W).
    """
    *early_blocks, last_block = transformer.resblocks
    for block in early_blocks:
        x = _call_block(transformer, block, x, None, packing)
    complete_x, other_x = x.split([complete_tokens, len(x) - complete_tokens])
    if complete:
        complete_packing = packing._replace(
            lengths=packing.lengths[:complete], bounds=packing.bounds[: complete + 1]
        )
        complete_x = _call_block(transformer, last_block, complete_x, None, complete_packing)
    if not len(ends):
        return complete_x, other_x
    bounds = packing.bounds[complete:] - complete_tokens
    other_packing = packing._replace(lengths=packing.lengths[complete:], bounds=bounds, ends=ends)
    queries = other_x[bounds[:-1] + ends]
    return complete_x, _call_block(transformer, last_block, queries, other_x, other_packing)


def _call_block(
    transformer: Transformer,
    block: PackedBlock,
    q_x: Tensor,
    k_x: Tensor | None,
    packing: Packing,
) -> Tensor:
    """Call a block, with activation checkpointing if the transformer is set to it."""
    if transformer.grad_checkpointing and torch.is_grad_enabled():
        return checkpoint(block, q_x, k_x, packing=packing, use_reentrant=False)
    return block(q_x, k_x, packing=packing)


def project_queries(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Project (..., W) to queries (..., W)."""
    width = x.shape[-1]
    return F.linear(x, attn.in_proj_weight[:width], attn.in_proj_bias[:width])


def project_keys(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Project (..., W) to keys and values (..., 2W)."""
    width = x.shape[-1]
    return F.linear(x, attn.in_proj_weight[width:], attn.in_proj_bias[width:])


def _attention(q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
    """Return the attention of every query over the keys and values of its own sequence.

    Queries are (T, h, d), or (M, h, d) at the packing's ends; keys and values are (T, h, d). The
    result has the shape of the queries.
    """
    lengths, bounds, longest, causal, one_call, ends = packing
    if not one_call:
        if torch.compiler.is_compiling():
            # The loop over lengths changes from step to step: compiled code calls an operator.
            return attend_by_length(q, k, v, lengths, ends, causal)
        return _attend_by_length(q, k, v, lengths, ends, causal)
    if ends is None:
        query_bounds, longest_query = bounds, longest
        window = (-1, 0) if causal else (-1, -1)
    else:
        # One query per sequence. In a causal sequence it is the last token, which sees all others.
        query_bounds = torch.arange(len(q) + 1, dtype=torch.int32, device=q.device)
        longest_query = 1
        window = (-1, -1)
    attended = varlen_attn(
        q, k, v, query_bounds, bounds, longest_query, longest, window_size=window
    )
    assert isinstance(attended, Tensor)
    return attended


def _attend_by_length(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, ends: Tensor | None, causal: bool
) -> Tensor:
    """Compute `_attention` with one call for neighbouring sequences of equal length."""
    attended = []
    for (run_q, run_k, run_v), mask in _runs([q], [k, v], lengths, ends, causal):
        attended.append(attend(run_q, run_k, run_v, causal=causal and mask is None, mask=mask))
    return _concatenate_runs(attended)


def _concatenate_runs(runs: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors (n, h, m, d) to one tensor (T, h, d)."""
    return torch.cat([run.transpose(1, 2).flatten(0, 1) for run in runs])


def _runs(
    queries: list[Tensor], keys: list[Tensor], lengths: Tensor, ends: Tensor | None, causal: bool
) -> Iterator[tuple[list[Tensor], Tensor | None]]:
    """Yield the tensors of each run: neighbouring sequences of equal length.

    `queries` are tensors with the shape of queries, `keys` with the shape of keys. They are yielded
    in this order as (n, h, m, d) and (n, h, l, d). With them comes a mask (n, 1, 1, l) that is true
    for keys up to the only query of a causal sequence, or None if no mask is needed.
    """
    unique_lengths, counts = lengths.unique_consecutive(return_counts=True)
    run_lengths, run_counts = unique_lengths.tolist(), counts.tolist()
    key_sizes = [length * count for length, count in zip(run_lengths, run_counts, strict=True)]
    query_sizes = key_sizes if ends is None else run_counts
    split_tensors = [tensor.split(query_sizes) for tensor in queries]
    split_tensors += [tensor.split(key_sizes) for tensor in keys]
    split_ends = ends.split(run_counts) if ends is not None and causal else None
    for run, (length, count) in enumerate(zip(run_lengths, run_counts, strict=True)):
        mask = None
        if split_ends is not None:
            run_ends = split_ends[run]
            positions = torch.arange(length, device=run_ends.device)
            mask = positions <= run_ends[:, None, None, None]
        tensors = [split_tensor[run] for split_tensor in split_tensors]
        yield [tensor.unflatten(0, (count, -1)).transpose(1, 2) for tensor in tensors], mask


@torch.library.custom_op("cosmos_core::attend_by_length", mutates_args=())
def attend_by_length(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, ends: Tensor | None, causal: bool
) -> Tensor:
    """Compute `_attend_by_length` as an operator, whose gradient computes the weights again."""
    return _attend_by_length(q, k, v, lengths, ends, causal)


@torch.library.custom_op("cosmos_core::attend_by_length_backward", mutates_args=())
def _attend_backward(
    out: Tensor, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, ends: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values, from the gradient `out` of the output."""
    q_gradients, k_gradients, v_gradients = [], [], []
    for run, mask in _runs([q, out], [k, v], lengths, ends, causal):
        run_q, run_out, run_k, run_v = run
        weights = _weights(run_q, run_k, causal and mask is None, mask)
        scores = torch._softmax_backward_data(run_out @ run_v.mT, weights, -1, weights.dtype)
        scores = scores / math.sqrt(q.shape[-1])
        q_gradients.append(scores @ run_k)
        k_gradients.append(scores.mT @ run_q)
        v_gradients.append(weights.mT @ run_out)
    return (
        _concatenate_runs(q_gradients),
        _concatenate_runs(k_gradients),
        _concatenate_runs(v_gradients),
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, causal = inputs
    ctx.causal = causal
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Return a gradient for each argument of `attend_by_length`; None for the last three."""
    q_gradient, k_gradient, v_gradient = _attend_backward(gradient, *ctx.saved_tensors, ctx.causal)
    return q_gradient, k_gradient, v_gradient, None, None, None


@attend_by_length.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, ends: Tensor | None, causal: bool
) -> Tensor:
    """Return an empty tensor of the output's shape, for the compiler."""
    return q.new_empty(q.shape)


@_attend_backward.register_fake
def _(
    out: Tensor, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, ends: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty tensors of the gradients' shapes, for the compiler."""
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


attend_by_length.register_autograd(_gradients, setup_context=_save_for_backward)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Return softmax(q k' / sqrt(d)) v for queries (n, h, m, d), keys and values (n, h, l, d).

    `mask` is true for pairs of a query and a key that it sees, and broadcasts to (n, h, m, l).
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # PyTorch's fused attention is slow here: forward takes up to twice, backward three to
        # eight times as long as plain products and a softmax (docs/log.md).
        return _weights(q.contiguous(), k.contiguous(), causal, mask) @ v.contiguous()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def _weights(q: Tensor, k: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    """Return the weights softmax(q k' / sqrt(d)) of attention, (n, h, m, l)."""
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1)
