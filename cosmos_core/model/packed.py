"""Sequences of several lengths in one pass through OpenCLIP's transformer blocks. Sequences are
concatenated, without padding, to one tensor (T, W), and only attention tells them apart: in one
call of `torch.nn.attention.varlen` where it can be used, otherwise in one call per length. In the
last block, sequences of which one token is read compute that token only. All is exact. Letters in
shapes: T tokens of all sequences, M sequences, W width, n sequences of a run, l tokens of each, h
heads, d width of a head."""

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
# PyTorch 2.10 has it with other arguments.
HAS_VARLEN = varlen_attn is not None and "window_size" in inspect.signature(varlen_attn).parameters


class Packing(NamedTuple):
    """How sequences are concatenated in (T, W): their `lengths` (M,) on the host, the `bounds`
    (M + 1,) between them, int32 on the device, and the `longest` length that they may have. `ends`
    (M,) are positions of the only queries. `one_call` is `attends_in_one_call`; sequences must then
    end where their only query is, if attention is causal."""

    lengths: Tensor
    bounds: Tensor
    longest: int
    causal: bool
    one_call: bool
    ends: Tensor | None = None


def pack(lengths: Tensor, longest: int, like: Tensor, *, causal: bool, one_call: bool) -> Packing:
    """Return the packing of sequences on the device of `like`."""
    bounds = F.pad(lengths.cumsum(0), (1, 0)).int().to(like.device, non_blocking=True)
    return Packing(lengths, bounds, longest, causal, one_call)


def attends_in_one_call(transformer: Transformer, like: Tensor) -> bool:
    """Whether PyTorch's attention over variable lengths takes the transformer's heads, on tokens of
    the device and type of `like` or of autocast's type: it needs an NVIDIA GPU from Ampere on, half
    precision, and heads of 8, 16, ... 256."""
    device, width = like.device, transformer.resblocks[0].attn.head_dim
    mixed = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if mixed else like.dtype
    fits = dtype in (torch.float16, torch.bfloat16) and width % 8 == 0 and width <= 256
    usable = fits and HAS_VARLEN and like.is_cuda and torch.version.cuda is not None
    return usable and torch.cuda.get_device_properties(device).major >= 8


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
            q, k, v = qkv.unflatten(1, (3, heads, -1)).unbind(1)
        else:
            q = project_queries(self.attn, queries).unflatten(1, (heads, -1))
            kv = project_keys(self.attn, self.ln_1(k_x))
            k, v = kv.unflatten(1, (2, heads, -1)).unbind(1)
        mixed = _attention(q, k, v, packing).flatten(1)
        x = q_x + self.ls_1(self.attn.out_proj(mixed)).to(q_x.dtype)
        return x + self.ls_2(self.mlp(self.ln_2(x))).to(x.dtype)


def pack_blocks(transformer: Transformer) -> None:
    """Convert OpenCLIP's blocks in place, with their hooks. Raises ValueError for other kinds."""
    for block in transformer.resblocks:
        if type(block) is not ResidualAttentionBlock:
            raise ValueError(f"COSMOS cannot be built on blocks of kind {type(block).__name__}")
        block.__class__ = PackedBlock


def through_blocks(
    transformer: Transformer, x: Tensor, packing: Packing, whole: int, tokens: int, ends: Tensor
) -> tuple[Tensor, Tensor]:
    """Map embedded tokens (T, W) through all blocks. Return all `tokens` (T', W) of the first
    `whole` sequences, and those at `ends` (M,) of the other M sequences (M, W)."""
    *early, last = transformer.resblocks
    for block in early:
        x = _call(transformer, block, x, None, packing)
    complete, others = x.split([tokens, len(x) - tokens])
    if whole:
        lengths, bounds = packing.lengths[:whole], packing.bounds[: whole + 1]
        first = packing._replace(lengths=lengths, bounds=bounds)
        complete = _call(transformer, last, complete, None, first)
    if not len(ends):
        return complete, others
    lengths, bounds = packing.lengths[whole:], packing.bounds[whole:] - tokens
    rest = packing._replace(lengths=lengths, bounds=bounds, ends=ends)
    return complete, _call(transformer, last, others[bounds[:-1] + ends], others, rest)


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


def _attention(q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
    """Queries (T, h, d) of all tokens, or (M, h, d) at the packing's ends, keys and values
    (T, h, d) -> as queries."""
    lengths, bounds, longest, causal, one_call, ends = packing
    if not one_call:
        # The loop over lengths changes from step to step: compiled code has an operator for it.
        attention = attend_by_length if torch.compiler.is_compiling() else _by_length
        return attention(q, k, v, lengths, ends, causal)
    own, most = bounds, longest
    if ends is not None:  # of a causal sequence the last token, which sees all
        own, most = torch.arange(len(q) + 1, dtype=torch.int32, device=q.device), 1
    window = (-1, 0 if causal and ends is None else -1)
    attended = varlen_attn(q, k, v, own, bounds, most, longest, window_size=window)
    assert isinstance(attended, Tensor)
    return attended


def _by_length(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, ends: Tensor | None, causal: bool
) -> Tensor:
    """Attention as `_attention`, in one call for neighbours of equal lengths."""
    runs = _runs([q], [k, v], lengths, ends, causal)
    return _join([attend(*run, causal=causal and seen is None, mask=seen) for run, seen in runs])


def _join(runs: Sequence[Tensor]) -> Tensor:
    return torch.cat([run.transpose(1, 2).flatten(0, 1) for run in runs])


def _runs(
    queries: list[Tensor], keys: list[Tensor], lengths: Tensor, ends: Tensor | None, causal: bool
) -> Iterator[tuple[list[Tensor], Tensor | None]]:
    """Split what has the shapes of queries and of keys into (n, h, m, d) and (n, h, l, d) for
    equal lengths, with a mask of what queries at `ends` see."""
    found, counts = (x.tolist() for x in lengths.unique_consecutive(return_counts=True))
    sizes = [length * count for length, count in zip(found, counts, strict=True)]
    pieces = [x.split(sizes if ends is None else counts) for x in queries]
    pieces += [x.split(sizes) for x in keys]
    limits = ends.split(counts) if ends is not None and causal else [None] * len(counts)
    for *run, count, length, last in zip(*pieces, counts, found, limits, strict=True):
        seen = None
        if last is not None:
            seen = torch.arange(length, device=last.device) <= last[:, None, None, None]
        yield [x.unflatten(0, (count, -1)).transpose(1, 2) for x in run], seen


@torch.library.custom_op("cosmos_core::attend_by_length", mutates_args=())
def attend_by_length(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, ends: Tensor | None, causal: bool
) -> Tensor:
    """`_by_length` as an operator, whose gradient computes the weights again."""
    return _by_length(q, k, v, lengths, ends, causal)


@torch.library.custom_op("cosmos_core::attend_by_length_backward", mutates_args=())
def _attend_backward(
    out: Tensor, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, ends: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Map the gradient in the output to those in queries, keys and values."""
    found = []
    for (q_, out_, k_, v_), seen in _runs([q, out], [k, v], lengths, ends, causal):
        weights = _weights(q_, k_, causal and seen is None, seen)
        scores = torch._softmax_backward_data(out_ @ v_.mT, weights, -1, weights.dtype)
        scores = scores / math.sqrt(q.shape[-1])
        found.append((scores @ k_, scores.mT @ q_, weights.mT @ out_))
    by_q, by_k, by_v = (_join(runs) for runs in zip(*found, strict=True))
    return by_q, by_k, by_v


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *saved, ctx.causal = inputs
    ctx.save_for_backward(*saved)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return *_attend_backward(gradient, *ctx.saved_tensors, ctx.causal), None, None, None


attend_by_length.register_fake(lambda q, *_: q.new_empty(q.shape))
_attend_backward.register_fake(lambda _, *qkv: tuple(x.new_empty(x.shape) for x in qkv[:3]))
attend_by_length.register_autograd(_gradients, setup_context=_save)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """softmax(q k' / sqrt(d)) v: queries (n, h, m, d), keys and values (n, h, l, d) -> as queries.
    `mask` is true where a query sees a key, and broadcasts to (n, h, m, l)."""
    if not _needs_plain(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    return _weights(q.contiguous(), k.contiguous(), causal, mask) @ v.contiguous()


def _weights(q: Tensor, k: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1)


def _needs_plain(tensor: Tensor) -> bool:
    """PyTorch's fused attention on a CPU is slow in bfloat16: backward takes three to eight times
    as long as plain products and a softmax, forward up to twice (docs/log.md)."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.bfloat16
