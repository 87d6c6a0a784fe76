"""Dense features of a CLIP vision transformer: one embedding per patch instead of one per image.

The last block's attention decides how well patches keep to their own place; its forms:
csa       SCLIP, arXiv:2312.01597      weights softmax(qq') + softmax(kk'), residual and MLP kept
maskclip  MaskCLIP, arXiv:2112.01071   every token attends to itself, residual and MLP kept
clearclip ClearCLIP, arXiv:2407.12442  weights softmax(qq'), neither residual nor MLP
naclip    NACLIP, arXiv:2404.08181     weights softmax(kk' + w), neither residual nor MLP
All products are divided by sqrt(head width); the heads and the output projection are kept.

Shapes: B images, N tokens (CLS first), h x w patches, C tower width, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cosmos_eval.types import Attention, UsageError

# NACLIP, arXiv:2404.08181, section 4: standard deviation of its Gaussian, in patches.
NACLIP_STD = 5.0


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


@torch.no_grad()
def encode_patches(visual: nn.Module, images: Tensor, attention: Attention) -> Tensor:
    """Patch embeddings of an OpenCLIP vision transformer, also off its training size.

    `images` (B, 3, H, W), on the tower's device; a border narrower than a patch is dropped, as
    the patch convolution does. Returns (B, H // patch, W // patch, D) float32, L2-normalised.
    Raises UsageError for towers without patch tokens and for images smaller than a patch.
    """
    tower = _vision_transformer(visual)
    *early_blocks, last_block = tower.transformer.resblocks
    x, grid_hw = _embed_patches(tower, images)
    for block in early_blocks:
        x = block(x)
    x = last_block(x) if attention == "vanilla" else _last_block(last_block, x, grid_hw, attention)
    patches = (tower.ln_post(x)[:, 1:] @ tower.proj).float()
    return F.normalize(patches, dim=-1).unflatten(1, grid_hw)


def resize_positional_embedding(embedding: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Positional embeddings (1 + n * n, C) of a square grid -> (1 + h * w, C); CLS keeps its own.

    Bicubic by a scale factor of (h + 0.1) / n rather than to a size: the 0.1 guards the rounding
    of the output size and shifts the samples a little, and published numbers include that shift.
    Source: interpolate_pos_encoding in github.com/facebookresearch/dino, vision_transformer.py.
    """
    side = math.isqrt(len(embedding) - 1)
    if grid_hw == (side, side):
        return embedding
    cls, patches = embedding[:1], embedding[1:]
    grid = patches.T.reshape(1, -1, side, side).float()
    factors = [(length + 0.1) / side for length in grid_hw]
    resized = F.interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat([cls, resized[0].flatten(1).T.to(cls.dtype)])


def neighbourhood(grid_hw: tuple[int, int], like: Tensor) -> Tensor:
    """NACLIP's additive term exp(-distance^2 / (2 * 5^2)) between patches: (1 + hw, 1 + hw).

    Zero in the row and the column of CLS; dtype and device of `like`.
    """
    rows, columns = (torch.arange(length, device=like.device) for length in grid_hw)
    places = torch.cartesian_prod(rows, columns).float()
    distance_squared = (places[:, None] - places[None]).square().sum(-1)
    near = torch.exp(-distance_squared / (2 * NACLIP_STD**2))
    return F.pad(near, (1, 0, 1, 0)).to(like.dtype)


def _vision_transformer(visual: nn.Module) -> VisionTransformer:
    """The tower itself where it has patch tokens on a square grid, else a UsageError."""
    if not isinstance(visual, VisionTransformer):
        kind = f"a {type(visual).__name__}"
    elif visual.attn_pool is not None:
        kind = "a transformer with attentional pooling"
    elif visual.grid_size[0] != visual.grid_size[1]:
        kind = "a transformer trained on images that are not square"
    else:
        return visual
    raise UsageError(
        f"this model's image tower is {kind}, which has no patch embeddings to segment with; "
        "choose an OpenCLIP ViT such as ViT-B-16"
    )


def _embed_patches(tower: VisionTransformer, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Input of the first block, (B, 1 + h * w, C), and the grid (h, w)."""
    if any(side < patch for side, patch in zip(images.shape[2:], tower.patch_size, strict=True)):
        raise UsageError(f"an image of {tuple(images.shape[2:])} px is smaller than one patch")
    grid = tower.conv1(images)
    grid_hw = (grid.shape[2], grid.shape[3])
    cls = tower.class_embedding.to(grid.dtype).expand(len(images), 1, -1)
    tokens = torch.cat([cls, grid.flatten(2).transpose(1, 2)], dim=1)
    positions = resize_positional_embedding(tower.positional_embedding, grid_hw)
    return tower.ln_pre(tokens + positions.to(tokens.dtype)), grid_hw


def _last_block(
    block: ResidualAttentionBlock, x: Tensor, grid_hw: tuple[int, int], attention: Attention
) -> Tensor:
    """A last block in another form than the one it was trained with: (B, N, C) -> (B, N, C)."""
    form = LAST_BLOCKS[attention]
    mixed = block.ls_1(_attend(block, x, grid_hw, form.mix))
    if not form.keeps_residual_and_mlp:
        return mixed
    x = x + mixed
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _attend(
    block: ResidualAttentionBlock,
    x: Tensor,
    grid_hw: tuple[int, int],
    mix: Callable[[Heads], Tensor],
) -> Tensor:
    """Self-attention of a block with `mix` in place of softmax(qk')v."""
    attn = block.attn
    if not isinstance(attn, nn.MultiheadAttention):
        raise UsageError(
            f"this model's blocks use {type(attn).__name__}, for which only --attention vanilla "
            "is defined"
        )
    projected = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
    split = projected.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = mix(Heads(split[0], split[1], split[2], grid_hw))
    return attn.out_proj(mixed.transpose(1, 2).flatten(2))
