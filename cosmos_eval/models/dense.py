"""Dense features of a CLIP vision transformer: one embedding per patch instead of one per image.

A tower's `ln_post` and `proj`, whether they follow or precede its pooling, are applied to every
patch as if it were pooled alone. That is defined for the class token and for the average over
patches, not for pooling by attention (CoCa, SigLIP), whose own values and projection lie between.

Shapes: B images, N tokens (CLS first), h x w patches, C tower width, D embedding.
"""

from __future__ import annotations

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cosmos_eval.models.last_block import in_form
from cosmos_eval.types import Attention, UsageError


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
    x = last_block(x) if attention == "vanilla" else in_form(last_block, x, grid_hw, attention)
    patches = (tower.ln_post(x)[:, 1:] @ tower.proj).float()
    return F.normalize(patches, dim=-1).unflatten(1, grid_hw)


def resize_positional_embedding(
    embedding: Tensor, trained_hw: tuple[int, int], grid_hw: tuple[int, int]
) -> Tensor:
    """Positional embeddings (1 + m * n, C) of an m x n grid -> (1 + h * w, C); CLS keeps its own.

    Bicubic by a scale factor of (h + 0.1) / m rather than to a size: the 0.1 guards the rounding
    of the output size and shifts the samples a little, and published numbers include that shift.
    Source: interpolate_pos_encoding in github.com/facebookresearch/dino, vision_transformer.py.
    """
    if grid_hw == trained_hw:
        return embedding
    cls, patches = embedding[:1], embedding[1:]
    grid = patches.T.reshape(1, -1, *trained_hw).float()
    factors = [(length + 0.1) / old for length, old in zip(grid_hw, trained_hw, strict=True)]
    resized = F.interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat([cls, resized[0].flatten(1).T.to(cls.dtype)])


def _vision_transformer(visual: nn.Module) -> VisionTransformer:
    """The tower itself where its patches have a place in the joint space, else a UsageError."""
    if not isinstance(visual, VisionTransformer):
        kind = f"a {type(visual).__name__}"
    elif visual.attn_pool is not None:
        kind = "a transformer with attentional pooling"
    elif visual.patch_size[0] != visual.patch_size[1]:
        kind = "a transformer with patches that are not square"
    elif getattr(visual.transformer.resblocks[0].attn, "logit_scale", None) is not None:
        kind = "a transformer with scaled cosine attention, which OpenCLIP itself fails to run"
    else:
        return visual
    raise UsageError(
        f"this model's image tower is {kind}; it has no patch embeddings for texts: choose "
        "a COSMOS model or an OpenCLIP ViT without attentional pooling, such as ViT-B-16"
    )


def _embed_patches(tower: VisionTransformer, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Input of the first block, (B, 1 + h * w, C), and the grid (h, w)."""
    if any(side < patch for side, patch in zip(images.shape[2:], tower.patch_size, strict=True)):
        raise UsageError(f"an image of {tuple(images.shape[2:])} px is smaller than one patch")
    grid = tower.conv1(images)
    grid_hw = (grid.shape[2], grid.shape[3])
    cls = tower.class_embedding.to(grid.dtype).expand(len(images), 1, -1)
    tokens = torch.cat([cls, grid.flatten(2).transpose(1, 2)], dim=1)
    positions = resize_positional_embedding(tower.positional_embedding, tower.grid_size, grid_hw)
    return tower.ln_pre(tokens + positions.to(tokens.dtype)), grid_hw
