"""Sequences of several lengths in one pass through OpenCLIP's transformer blocks.

Sequences are concatenated, without padding, to one tensor (T, W). Only the attention needs to know
where a sequence begins and ends. It is computed in one call of `torch.nn.attention.varlen` if that
can be used. Otherwise neighbouring sequences of equal length, a run, are computed in one call. If
only one token of a sequence is read, the last block computes only that token. The results are
exact.

Letters in shapes: T tokens of all sequences, M sequences, W width, n sequences of a run, l tokens
of each, m queries of each, h heads, d width of a head.
"""

import inspect
import math
from collections.abc import Sequence
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
    # The first token of each sequence, and T (M + 1,), int32 on the device. For the lengths 2 and 3
    # these are 0, 2, 5.
    bounds: Tensor
    # The largest length that a sequence may have.
    longest: int
    # True if a token attends only to itself and to earlier tokens.
    causal: bool
    # True if `varlen_attn` computes all sequences in one call. If each sequence has only one query,
    # a causal sequence must then end at it.
    one_call: bool
    # The position of the only query in each sequence (M,), or None if all tokens are queries.
    ends: Tensor | None = None


def pack(lengths: Tensor, longest: int, like: Tensor, *, causal: bool, one_call: bool) -> Packing:
    """Return the packing of sequences of `lengths` (M,), with bounds on the device of `like`."""
    bounds = F.pad(lengths.cumsum(0), (1, 0)).int().to(like.device, non_blocking=True)
    return Packing(lengths, bounds, longest, causal, one_call)


def attends_in_one_call(transformer: Transformer, like: Tensor) -> bool:
    """Return whether PyTorch's `varlen_attn` can compute the attention of a transformer.

    It needs an NVIDIA GPU of Ampere or later, float16 or bfloat16, and a head width that is a
    multiple of 8 up to 256. The tokens have the device and the dtype of `like`. If autocast is
    enabled, they have its dtype instead.
    """
    if not HAS_VARLEN or not like.is_cuda or torch.version.cuda is None:
        return False
    device = like.device
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    else:
        dtype = like.dtype
    if dtype not in (torch.float16, torch.bfloat16):
        return False
    head_width = transformer.resblocks[0].attn.head_dim
    if head_width % 8 != 0 or head_width > 256:
        return False
    compute_capability = torch.cuda.get_device_properties(device).major
    return compute_capability >= 8


class PackedBlock(ResidualAttentionBlock):
    """OpenCLIP's block, which can also be called with a packing. `pack_blocks` creates it."""

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Return the block's output for the tokens of a packing.

        If `k_x` is None, `q_x` holds all tokens: (T, W) -> (T, W). Otherwise `k_x` holds all tokens
        (T, W), and `q_x` the tokens at the packing's ends: (M, W) -> (M, W). Without a packing this
        is OpenCLIP's forward.
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
        # Both summands get one dtype: a CPU adds tensors of two dtypes several times slower.
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

    Return two tensors. The first has all tokens (T', W) of the first `complete` sequences, which
    have T' tokens together, `complete_tokens`. The second has one token of every other sequence,
    (M - complete, W). `ends` (M - complete,) states its position in the sequence.
    """
    *early_blocks, last_block = transformer.resblocks
    for block in early_blocks:
        x = _call_block(transformer, block, x, None, packing)
    complete_x, other_x = x.split([complete_tokens, len(x) - complete_tokens])
    if complete > 0:
        complete_packing = packing._replace(
            lengths=packing.lengths[:complete], bounds=packing.bounds[: complete + 1]
        )
        complete_x = _call_block(transformer, last_block, complete_x, None, complete_packing)
    if len(ends) == 0:
        return complete_x, other_x
    other_bounds = packing.bounds[complete:] - complete_tokens
    other_packing = packing._replace(
        lengths=packing.lengths[complete:], bounds=other_bounds, ends=ends
    )
    sequence_starts = other_bounds[:-1]
    queries = other_x[sequence_starts + ends]
    end_x = _call_block(transformer, last_block, queries, other_x, other_packing)
    return complete_x, end_x


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
    """Return the attention of every query to the keys and values of its sequence.

    Queries are (T, h, d), or (M, h, d) at the packing's ends. Keys and values are (T, h, d). The
    result has the shape of the queries.
    """
    if not packing.one_call:
        lengths, ends, causal = packing.lengths, packing.ends, packing.causal
        if torch.compiler.is_compiling():
            # The number of runs changes from step to step, and with it the loop over them. A
            # compiled loop would be compiled again for each number, so it is hidden in an operator.
            return attend_by_length(q, k, v, lengths, ends, causal)
        return _attend_by_length(q, k, v, lengths, ends, causal)
    # A window (left, right) says how many tokens a query sees before and after it; -1 is all.
    window = (-1, -1)
    if packing.ends is None:
        query_bounds, longest_query = packing.bounds, packing.longest
        if packing.causal:
            window = (-1, 0)
    else:
        # One query per sequence. In a causal sequence it is the last token, which sees all others.
        query_bounds = torch.arange(len(q) + 1, dtype=torch.int32, device=q.device)
        longest_query = 1
    attended = varlen_attn(
        q,
        k,
        v,
        query_bounds,
        packing.bounds,
        longest_query,
        packing.longest,
        window_size=window,
    )
    assert isinstance(attended, Tensor)
    return attended


def _attend_by_length(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, ends: Tensor | None, causal: bool
) -> Tensor:
    """Return `_attention`, computed in one call for each run of sequences of equal length."""
    runs = _find_runs(lengths, ends, causal)
    q_by_run = _split_queries(q, runs)
    k_by_run, v_by_run = _split_keys(k, runs), _split_keys(v, runs)
    run_outputs = []
    for run, run_q, run_k, run_v in zip(runs, q_by_run, k_by_run, v_by_run, strict=True):
        run_outputs.append(attend(run_q, run_k, run_v, causal=run.causal, mask=run.mask))
    return _concatenate_runs(run_outputs)


def _concatenate_runs(run_tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate the tensors (n, h, m, d) of all runs to one tensor (T, h, d)."""
    return torch.cat([tensor.transpose(1, 2).flatten(0, 1) for tensor in run_tensors])


class _Run(NamedTuple):
    """Neighbouring sequences of equal length in a tensor of all tokens."""

    # The number of sequences, n.
    n_sequences: int
    # The number of their tokens, and how many of these are queries.
    n_tokens: int
    n_queries: int
    # True if all tokens are queries, and a token attends only to itself and to earlier tokens.
    causal: bool
    # If a causal sequence has only one query: a mask (n, 1, 1, l), true for the keys up to it.
    # Otherwise None.
    mask: Tensor | None


def _find_runs(lengths: Tensor, ends: Tensor | None, causal: bool) -> list[_Run]:
    """Return the runs of sequences of equal length: lengths 3, 3, 5, 3 have the runs 3 3, 5, 3.

    `ends` (M,) are the positions of the only queries, or None if all tokens are queries.
    """
    runs = []
    first_sequence = 0
    run_lengths, run_sizes = lengths.unique_consecutive(return_counts=True)
    for length, n_sequences in zip(run_lengths.tolist(), run_sizes.tolist(), strict=True):
        n_tokens = length * n_sequences
        if ends is None:
            runs.append(_Run(n_sequences, n_tokens, n_tokens, causal, mask=None))
        else:
            mask = None
            if causal:
                run_ends = ends[first_sequence : first_sequence + n_sequences]
                positions = torch.arange(length, device=ends.device)
                mask = positions <= run_ends[:, None, None, None]
            runs.append(_Run(n_sequences, n_tokens, n_sequences, causal=False, mask=mask))
        first_sequence += n_sequences
    return runs


def _split_queries(queries: Tensor, runs: Sequence[_Run]) -> list[Tensor]:
    """Split queries, (T, h, d) or (M, h, d), into one tensor (n, h, m, d) per run."""
    # Not slices: the gradient of each slice would be a tensor of the size of all queries.
    run_queries = queries.split([run.n_queries for run in runs])
    return [_to_batch(tensor, run) for tensor, run in zip(run_queries, runs, strict=True)]


def _split_keys(keys: Tensor, runs: Sequence[_Run]) -> list[Tensor]:
    """Split keys or values (T, h, d) into one tensor (n, h, l, d) per run."""
    run_keys = keys.split([run.n_tokens for run in runs])
    return [_to_batch(tensor, run) for tensor, run in zip(run_keys, runs, strict=True)]


def _to_batch(tokens: Tensor, run: _Run) -> Tensor:
    """Reshape the tokens (n * l, h, d) of a run to (n, h, l, d)."""
    return tokens.unflatten(0, (run.n_sequences, -1)).transpose(1, 2)


@torch.library.custom_op("cosmos_core::attend_by_length", mutates_args=())
def attend_by_length(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, ends: Tensor | None, causal: bool
) -> Tensor:
    """Return `_attend_by_length` as an operator that compiled code can call.

    Its gradient computes the attention weights again.
    """
    return _attend_by_length(q, k, v, lengths, ends, causal)


@torch.library.custom_op("cosmos_core::attend_by_length_backward", mutates_args=())
def _attend_backward(
    out: Tensor, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, ends: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values, from the gradient `out` of the output."""
    q_gradients, k_gradients, v_gradients = [], [], []
    runs = _find_runs(lengths, ends, causal)
    q_by_run, out_by_run = _split_queries(q, runs), _split_queries(out, runs)
    k_by_run, v_by_run = _split_keys(k, runs), _split_keys(v, runs)
    for run, run_q, output_gradient, run_k, run_v in zip(
        runs, q_by_run, out_by_run, k_by_run, v_by_run, strict=True
    ):
        weights = _attention_weights(run_q, run_k, run.causal, run.mask)
        weights_gradient = output_gradient @ run_v.mT
        scores_gradient = torch._softmax_backward_data(weights_gradient, weights, -1, weights.dtype)
        scores_gradient = scores_gradient / math.sqrt(q.shape[-1])
        q_gradients.append(scores_gradient @ run_k)
        k_gradients.append(scores_gradient.mT @ run_q)
        v_gradients.append(weights.mT @ output_gradient)
    return (
        _concatenate_runs(q_gradients),
        _concatenate_runs(k_gradients),
        _concatenate_runs(v_gradients),
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Save the arguments of `attend_by_length`."""
    *tensors, causal = inputs
    ctx.causal = causal
    ctx.save_for_backward(*tensors)


def _argument_gradients(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradient of each argument of `attend_by_length`.

    `lengths`, `ends` and `causal` have the gradient None.
    """
    q, k, v, lengths, ends = ctx.saved_tensors
    q_gradient, k_gradient, v_gradient = _attend_backward(
        output_gradient, q, k, v, lengths, ends, ctx.causal
    )
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


attend_by_length.register_autograd(_argument_gradients, setup_context=_save_for_backward)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Return softmax(q k' / sqrt(d)) v for queries (n, h, m, d), keys and values (n, h, l, d).

    `mask` broadcasts to (n, h, m, l), and is true if the query attends to the key. With `causal` a
    query attends to the keys up to its position.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # PyTorch's fused attention is slow here: forward takes up to twice, backward three to
        # eight times as long as plain products and a softmax (docs/log.md).
        weights = _attention_weights(q.contiguous(), k.contiguous(), causal, mask)
        return weights @ v.contiguous()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def _attention_weights(q: Tensor, k: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    """Return the attention weights softmax(q k' / sqrt(d)), (n, h, m, l).

    `causal` and `mask` mean the same as in `attend`.
    """
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores + torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1)
