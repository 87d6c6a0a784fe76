"""The last block of a vision transformer in other forms than the one it was trained with.

Its attention decides how well patches keep to their own place:
csa       SCLIP, arXiv:2312.01597      weights softmax(qq') + softmax(kk'), residual and MLP kept
maskclip  MaskCLIP, arXiv:2112.01071   every token attends to itself, residual and MLP kept
clearclip ClearCLIP, arXiv:2407.12442  weights softmax(qq'), neither residual nor MLP
naclip    NACLIP, arXiv:2404.08181     weights softmax(kk' + w), neither residual nor MLP
All products are divided by sqrt(head width). The heads and the output projection are kept, and so
is what OpenCLIP's own attention has beside them: norms of q and k, scales of the heads, norms
before and after the output projection.

Shapes: B images, N tokens (CLS first), h x w patches, C tower width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from open_clip import transformer
from torch import Tensor, nn
from torch.nn import functional as F

from cosmos_eval.types import Attention, UsageError

# NACLIP, arXiv:2404.08181, section 4: standard deviation of its Gaussian, in patches.
NACLIP_STD = 5.0

Block: TypeAlias = transformer.ResidualAttentionBlock | transformer.CustomResidualAttentionBlock


class Heads(NamedTuple):
    """Query, key and value of every head, (B, heads, N, C / heads), of an h x w grid."""

    q: Tensor
    k: Tensor
    v: Tensor
    grid_hw: tuple[int, int]


def _csa(heads: Heads) -> Tensor:
    """The two attention matrices are added unhalved, so weights sum to 2, as SCLIP's code does."""
    q, k, v, _ = heads
    own_query = F.scaled_dot_product_attention(q, q, v)
    return own_query + F.scaled_dot_product_attention(k, k, v)


def _maskclip(heads: Heads) -> Tensor:
    return heads.v


def _clearclip(heads: Heads) -> Tensor:
    return F.scaled_dot_product_attention(heads.q, heads.q, heads.v)


def _naclip(heads: Heads) -> Tensor:
    near = neighbourhood(heads.grid_hw, heads.k)
    return F.scaled_dot_product_attention(heads.k, heads.k, heads.v, attn_mask=near)


class LastBlock(NamedTuple):
    """A form of the last block: how heads are mixed, and whether residual and MLP stay."""

    mix: Callable[[Heads], Tensor]
    keeps_residual_and_mlp: bool


LAST_BLOCKS: dict[Attention, LastBlock] = {
    "csa": LastBlock(_csa, True),
    "maskclip": LastBlock(_maskclip, True),
    "clearclip": LastBlock(_clearclip, False),
    "naclip": LastBlock(_naclip, False),
}


def in_form(block: Block, x: Tensor, grid_hw: tuple[int, int], attention: Attention) -> Tensor:
    """A last block in one of LAST_BLOCKS, (B, N, C) -> (B, N, C).

    Raises UsageError for attention without q, k, v and an output projection.
    """
    form = LAST_BLOCKS[attention]
    mixed = block.ls_1(_attend(block, x, grid_hw, form.mix))
    if not form.keeps_residual_and_mlp:
        return mixed
    x = x + mixed
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _attend(
    block: Block, x: Tensor, grid_hw: tuple[int, int], mix: Callable[[Heads], Tensor]
) -> Tensor:
    """Self-attention of a block with `mix` in place of softmax(qk')v."""
    attn = block.attn
    if not isinstance(attn, nn.MultiheadAttention | transformer.Attention):
        raise UsageError(
            f"this model's blocks use {type(attn).__name__}, for which only --attention vanilla "
            "is defined"
        )
    projected = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = projected.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    if isinstance(attn, nn.MultiheadAttention):
        return attn.out_proj(_join(mix(Heads(q, k, v, grid_hw))))
    mixed = mix(Heads(attn.ln_q(q), attn.ln_k(k), v, grid_hw))
    if attn.head_scale is not None:
        mixed = mixed * attn.head_scale
    return block.ln_attn(attn.out_proj(attn.ln_inner(_join(mixed))))


def _join(heads: Tensor) -> Tensor:
    """(B, heads, N, C / heads) -> (B, N, C)."""
    return heads.transpose(1, 2).flatten(2)


def neighbourhood(grid_hw: tuple[int, int], like: Tensor) -> Tensor:
    """NACLIP's additive term exp(-distance^2 / (2 * 5^2)) between patches: (1 + hw, 1 + hw).

    Zero in the row and the column of CLS; dtype and device of `like`.
    """
    rows, columns = (torch.arange(length, device=like.device) for length in grid_hw)
    places = torch.cartesian_prod(rows, columns).float()
    distance_squared = (places[:, None] - places[None]).square().sum(-1)
    near = torch.exp(-distance_squared / (2 * NACLIP_STD**2))
    return F.pad(near, (1, 0, 1, 0)).to(like.dtype)
