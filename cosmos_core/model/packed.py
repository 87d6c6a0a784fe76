"""Attention over concatenated sequences of different lengths, for OpenCLIP's transformer blocks.

The tokens of all sequences are concatenated, without padding, to one tensor (T, W). For example,
sequences of 2 and 3 tokens become one tensor of 5 tokens. Linear layers and norms need no change.
Only the attention needs to know where a sequence begins and ends. If possible, it is computed in
one call of `torch.nn.attention.varlen`. Otherwise it is computed in one call for each run, which is
a series of neighbouring sequences of equal length. If only one token of a sequence is read, the
last block computes only that token. The results are exact.

Letters in shapes:

- T: the number of tokens of all sequences
- M: the number of sequences
- W: the width of a token
- n: the number of sequences in a run
- l, m: the number of tokens and the number of queries in each sequence of a run
- h, d: the number of attention heads, and the width of a head
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
    """The lengths of sequences that are concatenated to one tensor, and how they are attended to.

    T is the number of all tokens, and M is the number of sequences.
    """

    # The length of each sequence (M,), on the host.
    lengths: Tensor
    # The index of the first token of each sequence, followed by T (M + 1,), int32 on the device.
    # For the lengths [2, 3] these are [0, 2, 5].
    offsets: Tensor
    # The largest length that a sequence may have.
    longest: int
    # If true, a token attends only to itself and to earlier tokens.
    causal: bool
    # If true, `varlen_attn` computes all sequences in one call. If each sequence has only one
    # query, a causal sequence must then end at it.
    uses_varlen: bool
    # The position of the only query in each sequence (M,), or None if all tokens are queries.
    query_positions: Tensor | None = None


def pack(
    lengths: Tensor, longest: int, like: Tensor, *, causal: bool, uses_varlen: bool
) -> Packing:
    """Describe sequences that are concatenated to one tensor, all of whose tokens are queries.

    Args:
        lengths: The number of tokens of each sequence (M,), on the host.
        longest: The largest length that a sequence may have.
        like: Any tensor on the device on which the attention is computed.
        causal: True if a token attends only to itself and to earlier tokens.
        uses_varlen: True if one call of PyTorch's `varlen_attn` computes the attention.

    Returns:
        The packing. Its offsets are on the device of `like`.
    """
    # The cumulative sums with a zero in front: [2, 3] -> [0, 2, 5].
    offsets = F.pad(lengths.cumsum(0), (1, 0)).int().to(like.device, non_blocking=True)
    return Packing(lengths, offsets, longest, causal, uses_varlen)


def supports_varlen(transformer: Transformer, like: Tensor) -> bool:
    """Return whether PyTorch's `varlen_attn` can compute the attention of a transformer.

    It needs an NVIDIA GPU of the Ampere generation or later, float16 or bfloat16, and heads whose
    width is a multiple of 8 up to 256.

    Args:
        transformer: OpenCLIP's transformer.
        like: A tensor with the device and the dtype of the tokens. If autocast is enabled, its
            dtype does not count, since the tokens then have the dtype of autocast.
    """
    is_on_nvidia_gpu = like.is_cuda and torch.version.cuda is not None
    if not HAS_VARLEN or not is_on_nvidia_gpu:
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

    # Ampere is the generation with compute capability 8.
    compute_capability = torch.cuda.get_device_properties(device).major
    return compute_capability >= 8


class PackedBlock(ResidualAttentionBlock):
    """OpenCLIP's transformer block, which can also process concatenated sequences.

    `pack_blocks` turns the blocks of a transformer into blocks of this class.
    """

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Return the output of the block: attention and MLP, each with a residual connection.

        Args:
            q_x: The tokens that the block computes: the tokens of all sequences (T, W), or one
                token of each sequence (M, W).
            k_x: The tokens of all sequences (T, W), if `q_x` holds one token of each. Otherwise
                None, since `q_x` already holds all tokens.
            v_x: Not used with `packing`.
            attn_mask: Not used with `packing`.
            packing: The lengths of the concatenated sequences. If it is None, this is OpenCLIP's
                forward on a padded batch, with OpenCLIP's arguments.

        Returns:
            The new tokens, of the shape of `q_x`.
        """
        if packing is None:
            return super().forward(q_x, k_x, v_x, attn_mask)

        # Project to queries, keys and values, each (tokens, heads, width of a head).
        n_heads = self.attn.num_heads
        normalised_x = self.ln_1(q_x)
        if k_x is None:
            # One product gives all three: (T, 3W) -> (T, 3, heads, width of a head).
            qkv = F.linear(normalised_x, self.attn.in_proj_weight, self.attn.in_proj_bias)
            q, k, v = qkv.unflatten(1, (3, n_heads, -1)).unbind(1)
        else:
            q = project_queries(self.attn, normalised_x).unflatten(1, (n_heads, -1))
            kv = project_keys(self.attn, self.ln_1(k_x))
            k, v = kv.unflatten(1, (2, n_heads, -1)).unbind(1)

        # Attend, and join the heads: (tokens, heads, width of a head) -> (tokens, W).
        attended = _attend_packed(q, k, v, packing).flatten(1)

        # Under autocast the summands differ in dtype. They are converted to one dtype, since a CPU
        # adds tensors of two dtypes several times slower.
        attention_output = self.ls_1(self.attn.out_proj(attended))
        x = q_x + attention_output.to(q_x.dtype)
        mlp_output = self.ls_2(self.mlp(self.ln_2(x)))
        return x + mlp_output.to(x.dtype)


def pack_blocks(transformer: Transformer) -> None:
    """Turn the blocks of OpenCLIP's transformer into PackedBlock, in place.

    Parameters and hooks of the blocks stay.

    Raises:
        ValueError: If a block is not OpenCLIP's standard block, for example if it scales its
            attention.
    """
    for block in transformer.resblocks:
        if type(block) is not ResidualAttentionBlock:
            raise ValueError(f"COSMOS cannot be built on blocks of kind {type(block).__name__}")
        block.__class__ = PackedBlock


def run_blocks(
    transformer: Transformer,
    x: Tensor,
    packing: Packing,
    n_complete: int,
    n_complete_tokens: int,
    positions_to_read: Tensor,
) -> tuple[Tensor, Tensor]:
    """Pass concatenated sequences through all blocks of a transformer.

    The output of the first `n_complete` sequences has all their tokens. Only one token of each
    other sequence is needed, and the last block computes only this one.

    For example, sequences of 2, 3 and 4 tokens with `n_complete` 1, `n_complete_tokens` 2 and
    `positions_to_read` [2, 0] give both tokens of the first sequence, and two more tokens: the
    third of the second sequence, and the first of the third sequence.

    Args:
        transformer: A transformer whose blocks are PackedBlock.
        x: The tokens of all M sequences (T, W).
        packing: The lengths of the sequences.
        n_complete: The number of the first sequences of which all tokens are returned.
        n_complete_tokens: How many tokens these sequences have together.
        positions_to_read: The position of the token that is returned of each other sequence
            (M - n_complete,), counted from the start of the sequence.

    Returns:
        The tokens of the first sequences (n_complete_tokens, W), and one token of each other
        sequence (M - n_complete, W).
    """
    *early_blocks, last_block = transformer.resblocks
    for block in early_blocks:
        x = _call_block(transformer, block, x, None, packing)

    n_other_tokens = len(x) - n_complete_tokens
    complete_x, other_x = x.split([n_complete_tokens, n_other_tokens])

    # The last block computes all tokens of the first sequences.
    if n_complete > 0:
        complete_packing = packing._replace(
            lengths=packing.lengths[:n_complete], offsets=packing.offsets[: n_complete + 1]
        )
        complete_x = _call_block(transformer, last_block, complete_x, None, complete_packing)
    if len(positions_to_read) == 0:
        # There are no other sequences: `other_x` is empty.
        return complete_x, other_x

    # It computes one token of each other sequence. Their offsets are counted from `other_x` on: if
    # the offsets are [0, 2, 5, 9] and the first sequence is complete, they become [0, 3, 7].
    other_offsets = packing.offsets[n_complete:] - n_complete_tokens
    other_packing = packing._replace(
        lengths=packing.lengths[n_complete:],
        offsets=other_offsets,
        query_positions=positions_to_read,
    )
    # The token of a sequence is found by the start of the sequence and the position in it: with the
    # starts [0, 3] and the positions [2, 0], these are the tokens 2 and 3 of `other_x`.
    sequence_starts = other_offsets[:-1]
    queries = other_x[sequence_starts + positions_to_read]
    read_tokens = _call_block(transformer, last_block, queries, other_x, other_packing)
    return complete_x, read_tokens


def _call_block(
    transformer: Transformer,
    block: PackedBlock,
    q_x: Tensor,
    k_x: Tensor | None,
    packing: Packing,
) -> Tensor:
    """Return the output of a block, with activation checkpointing if the transformer is set to it.

    Args:
        transformer: The transformer that the block belongs to.
        block: The block to call.
        q_x: The tokens that the block computes, as in `PackedBlock.forward`.
        k_x: The tokens of all sequences, or None if `q_x` holds them.
        packing: The lengths of the sequences.
    """
    if transformer.grad_checkpointing and torch.is_grad_enabled():
        return checkpoint(block, q_x, k_x, packing=packing, use_reentrant=False)
    return block(q_x, k_x, packing=packing)


def project_queries(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Return the query projections (..., W) of tokens.

    Args:
        attn: PyTorch's attention. The first third of the rows of its `in_proj_weight` (3W, W)
            projects queries.
        x: The tokens (..., W).
    """
    width = x.shape[-1]
    return F.linear(x, attn.in_proj_weight[:width], attn.in_proj_bias[:width])


def project_keys(attn: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Return the key and value projections of tokens, concatenated to (..., 2W).

    Args:
        attn: PyTorch's attention. The second and the last third of the rows of its `in_proj_weight`
            (3W, W) project keys and values.
        x: The tokens (..., W).
    """
    width = x.shape[-1]
    return F.linear(x, attn.in_proj_weight[width:], attn.in_proj_bias[width:])


def _attend_packed(q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
    """Return the attention output of every query, which attends to the tokens of its sequence.

    Args:
        q: Queries: (T, h, d) if all tokens are queries, or (M, h, d) if each sequence has one.
        k: Keys (T, h, d) of the tokens of all sequences.
        v: Values (T, h, d) of the tokens of all sequences.
        packing: The lengths of the sequences, and how the attention is computed.

    Returns:
        The outputs, of the shape of `q`.
    """
    if not packing.uses_varlen:
        lengths, query_positions = packing.lengths, packing.query_positions
        if torch.compiler.is_compiling():
            # The loop over runs has another number of iterations in each training step, and would
            # be compiled again for each number. The operator hides the loop from the compiler.
            return attend_by_length(q, k, v, lengths, query_positions, packing.causal)
        return _attend_by_length(q, k, v, lengths, query_positions, packing.causal)

    # A window states how many tokens a query sees before and after itself. -1 means all.
    window_size = (-1, -1)
    if packing.query_positions is None:
        query_offsets = packing.offsets
        most_queries = packing.longest
        if packing.causal:
            window_size = (-1, 0)
    else:
        # Each sequence has one query, so that the offsets of the queries are [0, 1, ..., M]. If the
        # attention is causal, the query is the last token, and it sees all tokens without a window.
        query_offsets = torch.arange(len(q) + 1, dtype=torch.int32, device=q.device)
        most_queries = 1
    attended = varlen_attn(
        q,
        k,
        v,
        query_offsets,
        packing.offsets,
        most_queries,
        packing.longest,
        window_size=window_size,
    )
    assert isinstance(attended, Tensor)
    return attended


def _attend_by_length(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    query_positions: Tensor | None,
    causal: bool,
) -> Tensor:
    """Return the attention output of every query, with one call for neighbours of equal length.

    Sequences of the lengths 3, 3 and 5 are computed in two calls: one for a batch of two sequences,
    and one for a batch of one.

    Args:
        q: Queries: (T, h, d) if all tokens are queries, or (M, h, d) if each sequence has one.
        k: Keys (T, h, d) of the tokens of all sequences.
        v: Values (T, h, d) of the tokens of all sequences.
        lengths: The number of tokens of each sequence (M,).
        query_positions: The position of the only query in each sequence (M,), counted from the
            start of the sequence, or None if all tokens are queries.
        causal: True if a query attends only to the tokens up to its own position.

    Returns:
        The outputs, of the shape of `q`.
    """
    runs = _find_runs(lengths, query_positions, causal)
    queries_per_run = [run.n_queries for run in runs]
    tokens_per_run = [run.n_tokens for run in runs]
    q_by_run = _split_into_batches(q, runs, queries_per_run)
    k_by_run = _split_into_batches(k, runs, tokens_per_run)
    v_by_run = _split_into_batches(v, runs, tokens_per_run)
    run_outputs = []
    for run, run_q, run_k, run_v in zip(runs, q_by_run, k_by_run, v_by_run, strict=True):
        run_outputs.append(attend(run_q, run_k, run_v, causal=run.causal, mask=run.mask))
    return _concatenate_batches(run_outputs)


def _split_into_batches(
    tokens: Tensor, runs: Sequence["_Run"], tokens_per_run: list[int]
) -> list[Tensor]:
    """Split the tokens (tokens, h, d) of all sequences into one batch (n, h, l, d) for each run.

    For example, 11 tokens of sequences of the lengths 3, 3 and 5 become a batch (2, h, 3, d) and a
    batch (1, h, 5, d).

    Args:
        tokens: The queries, keys or values of all sequences.
        runs: The runs of sequences, in the order of the tokens.
        tokens_per_run: How many of the tokens belong to each run.
    """
    batches = []
    # `split`, because the gradient of a slice would be a tensor of the size of all tokens.
    for run, run_tokens in zip(runs, tokens.split(tokens_per_run), strict=True):
        # (n * l, h, d) -> (n, l, h, d) -> (n, h, l, d)
        batches.append(run_tokens.unflatten(0, (run.n_sequences, -1)).transpose(1, 2))
    return batches


def _concatenate_batches(batches: Sequence[Tensor]) -> Tensor:
    """Concatenate one batch (n, h, l, d) for each run to one tensor (tokens, h, d).

    This is the inverse of `_split_into_batches`.
    """
    token_tensors = []
    for batch in batches:
        # (n, h, l, d) -> (n, l, h, d) -> (n * l, h, d)
        token_tensors.append(batch.transpose(1, 2).flatten(0, 1))
    return torch.cat(token_tensors)


class _Run(NamedTuple):
    """Neighbouring sequences of equal length, whose attention is computed as one batch."""

    # The number of sequences, n.
    n_sequences: int
    # The number of tokens of all these sequences.
    n_tokens: int
    # The number of queries among these tokens.
    n_queries: int
    # True if all tokens are queries, and a token attends only to itself and to earlier tokens.
    causal: bool
    # If a causal sequence has only one query: a mask (n, 1, 1, l), which is true for the keys up to
    # the query. Otherwise None.
    mask: Tensor | None


def _find_runs(lengths: Tensor, query_positions: Tensor | None, causal: bool) -> list[_Run]:
    """Group neighbouring sequences of equal length into runs.

    Args:
        lengths: The number of tokens of each sequence (M,).
        query_positions: The position of the only query in each sequence (M,), or None if all
            tokens are queries.
        causal: True if a query attends only to the tokens up to its own position.

    Returns:
        The runs, in the order of the sequences. The lengths [3, 3, 5, 3] give three runs: of two
        sequences, of one and of one.
    """
    runs = []
    first_sequence = 0
    # The lengths [3, 3, 5, 3] have the run lengths [3, 5, 3] and the run sizes [2, 1, 1].
    run_lengths, run_sizes = lengths.unique_consecutive(return_counts=True)
    for length, n_sequences in zip(run_lengths.tolist(), run_sizes.tolist(), strict=True):
        n_tokens = length * n_sequences
        if query_positions is None:
            runs.append(_Run(n_sequences, n_tokens, n_queries=n_tokens, causal=causal, mask=None))
        else:
            mask = None
            if causal:
                # The query attends to the keys up to its own position. PyTorch's `is_causal` cannot
                # say this for a single query, but a mask can.
                run_positions = query_positions[first_sequence : first_sequence + n_sequences]
                key_positions = torch.arange(length, device=query_positions.device)
                mask = key_positions <= run_positions[:, None, None, None]
            runs.append(_Run(n_sequences, n_tokens, n_queries=n_sequences, causal=False, mask=mask))
        first_sequence += n_sequences
    return runs


@torch.library.custom_op("cosmos_core::attend_by_length", mutates_args=())
def attend_by_length(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    query_positions: Tensor | None,
    causal: bool,
) -> Tensor:
    """Call `_attend_by_length` as an operator that compiled code can call.

    The arguments and the result are as in `_attend_by_length`. The backward pass computes the
    attention weights again, instead of storing them.
    """
    return _attend_by_length(q, k, v, lengths, query_positions, causal)


@torch.library.custom_op("cosmos_core::attend_by_length_backward", mutates_args=())
def _attend_by_length_backward(
    output_gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    query_positions: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the queries, keys and values of `attend_by_length`.

    For each run, with the attention weights w = softmax(s), s = q k' / sqrt(d), and the output
    o = w v:

        dw = do v',  ds = softmax_backward(dw, w) / sqrt(d)
        dq = ds k,   dk = ds' q,   dv = w' do

    Args:
        output_gradient: The gradient of the output, of the shape of `q`.
        q: Queries: (T, h, d) if all tokens are queries, or (M, h, d) if each sequence has one.
        k: Keys (T, h, d) of the tokens of all sequences.
        v: Values (T, h, d) of the tokens of all sequences.
        lengths: The number of tokens of each sequence (M,).
        query_positions: The position of the only query in each sequence (M,), or None if all
            tokens are queries.
        causal: True if a query attends only to the tokens up to its own position.
    """
    runs = _find_runs(lengths, query_positions, causal)
    queries_per_run = [run.n_queries for run in runs]
    tokens_per_run = [run.n_tokens for run in runs]
    q_by_run = _split_into_batches(q, runs, queries_per_run)
    k_by_run = _split_into_batches(k, runs, tokens_per_run)
    v_by_run = _split_into_batches(v, runs, tokens_per_run)
    gradients_by_run = _split_into_batches(output_gradient, runs, queries_per_run)

    q_gradients, k_gradients, v_gradients = [], [], []
    for run, run_q, run_k, run_v, run_gradient in zip(
        runs, q_by_run, k_by_run, v_by_run, gradients_by_run, strict=True
    ):
        weights = _attention_weights(run_q, run_k, run.causal, run.mask)
        weights_gradient = run_gradient @ run_v.mT
        # `scores_gradient` is ds of the formulas.
        scores_gradient = torch._softmax_backward_data(weights_gradient, weights, -1, weights.dtype)
        head_width = q.shape[-1]
        scores_gradient = scores_gradient / math.sqrt(head_width)
        q_gradients.append(scores_gradient @ run_k)
        k_gradients.append(scores_gradient.mT @ run_q)
        v_gradients.append(weights.mT @ run_gradient)
    return (
        _concatenate_batches(q_gradients),
        _concatenate_batches(k_gradients),
        _concatenate_batches(v_gradients),
    )


def _save_arguments(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Save the arguments of `attend_by_length` for `_compute_gradients`.

    Args:
        ctx: PyTorch's context of the backward pass.
        inputs: The arguments of `attend_by_length`.
        output: The result of `attend_by_length`, which is not needed.
    """
    q, k, v, lengths, query_positions, causal = inputs
    ctx.save_for_backward(q, k, v, lengths, query_positions)
    ctx.causal = causal


def _compute_gradients(ctx: Any, output_gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Return one gradient for each argument of `attend_by_length`.

    Args:
        ctx: PyTorch's context, with the arguments that `_save_arguments` has saved.
        output_gradient: The gradient of the output, of the shape of the queries.

    Returns:
        The gradients of queries, keys and values, and None for `lengths`, `query_positions` and
        `causal`.
    """
    q, k, v, lengths, query_positions = ctx.saved_tensors
    q_gradient, k_gradient, v_gradient = _attend_by_length_backward(
        output_gradient, q, k, v, lengths, query_positions, ctx.causal
    )
    return q_gradient, k_gradient, v_gradient, None, None, None


attend_by_length.register_autograd(_compute_gradients, setup_context=_save_arguments)


@attend_by_length.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    query_positions: Tensor | None,
    causal: bool,
) -> Tensor:
    """Return an empty tensor of the output's shape, from which `torch.compile` learns it."""
    return q.new_empty(q.shape)


@_attend_by_length_backward.register_fake
def _(
    output_gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    query_positions: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty tensors of the gradients' shapes, from which `torch.compile` learns them."""
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Return the attention output softmax(q k' / sqrt(d)) v, of the shape of `q`.

    Args:
        q: Queries (n, h, m, d).
        k: Keys (n, h, l, d).
        v: Values (n, h, l, d).
        causal: True if a query attends only to the keys up to its own position.
        mask: Booleans that broadcast to (n, h, m, l) and are true if a query attends to a key.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # PyTorch's fused attention is slow here. Its forward pass takes up to twice, and its
        # backward pass three to eight times as long as plain products and a softmax.
        weights = _attention_weights(q.contiguous(), k.contiguous(), causal, mask)
        return weights @ v.contiguous()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def _attention_weights(q: Tensor, k: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    """Return the attention weights softmax(q k' / sqrt(d)), of the shape (n, h, m, l).

    Args:
        q: Queries (n, h, m, d).
        k: Keys (n, h, l, d).
        causal: True if a query attends only to the keys up to its own position.
        mask: Booleans that broadcast to (n, h, m, l) and are true if a query attends to a key, or
            None. It is not used with `causal`.
    """
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        # Minus infinity becomes a weight of zero.
        bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf)
        scores = scores + bias
    return scores.softmax(dim=-1)
