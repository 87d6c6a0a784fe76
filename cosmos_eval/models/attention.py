"""Self-attention of CLIP vision transformers: faster in half precision, and dense features.

A dense feature is one embedding per patch instead of one per image. A tower's `ln_post` and `proj`,
whether they follow or precede its pooling, are applied to every patch as if it were pooled alone.
That is defined for the class token and for the average over patches, not for pooling by attention
(CoCa, SigLIP), whose own values and projection lie between. The attention of the last block decides
how well patches keep to their own position:
vanilla   as trained
csa       SCLIP, arXiv:2312.01597      weights softmax(qq') + softmax(kk'), residual and MLP kept
maskclip  MaskCLIP, arXiv:2112.01071   every token attends to itself, residual and MLP kept
clearclip ClearCLIP, arXiv:2407.12442  weights softmax(qq'), neither residual nor MLP
naclip    NACLIP, arXiv:2404.08181     weights softmax(kk' + w), neither residual nor MLP
All products are divided by sqrt(head width). The heads and the output projection are kept, and so
is what OpenCLIP's own attention has beside them: norms of q and k, scales of the heads, norms
before and after the output projection.

Shapes: B images, N tokens (CLS first), h x w patches, C tower width, D embedding."""

from typing import Any, TypeAlias

import torch
from open_clip import transformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention as attend

from cosmos_eval.types import Attention, UsageError

# NACLIP, arXiv:2404.08181, section 4: standard deviation of its Gaussian, in patches.
NACLIP_STD = 5.0

Grid: TypeAlias = tuple[int, int]
Block: TypeAlias = transformer.ResidualAttentionBlock | transformer.CustomResidualAttentionBlock


@torch.no_grad()
def encode_patches(visual: nn.Module, images: Tensor, attention: Attention) -> Tensor:
    """Images (B, 3, H, W) of any size -> (B, H // patch, W // patch, D) float32, L2-normalised.
    Raises UsageError for towers without patch tokens and for images smaller than a patch."""
    tower = _vision_transformer(visual)
    *early_blocks, last_block = tower.transformer.resblocks
    x, grid_hw = _embed_patches(tower, images)
    for block in early_blocks:
        x = block(x)
    x = last_block(x) if attention == "vanilla" else _run_as(last_block, x, grid_hw, attention)
    patches = (tower.ln_post(x)[:, 1:] @ tower.proj).float()
    return F.normalize(patches, dim=-1).unflatten(1, grid_hw)


def _vision_transformer(visual: nn.Module) -> transformer.VisionTransformer:
    if not isinstance(visual, transformer.VisionTransformer):
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


def _embed_patches(tower: transformer.VisionTransformer, images: Tensor) -> tuple[Tensor, Grid]:
    """Return the input of the first block, (B, 1 + h * w, C), and the grid (h, w)."""
    if min(images.shape[2:]) < tower.patch_size[0]:
        raise UsageError(f"an image of {tuple(images.shape[2:])} px is smaller than one patch")
    grid = tower.conv1(images)
    grid_hw = (grid.shape[2], grid.shape[3])
    cls = tower.class_embedding.to(grid.dtype).expand(len(images), 1, -1)
    tokens = torch.cat([cls, grid.flatten(2).transpose(1, 2)], dim=1)
    positions = resize_positional_embedding(tower.positional_embedding, tower.grid_size, grid_hw)
    return tower.ln_pre(tokens + positions.to(tokens.dtype)), grid_hw


def resize_positional_embedding(embedding: Tensor, trained_hw: Grid, grid_hw: Grid) -> Tensor:
    """Positional embeddings (1 + m * n, C) of an m x n grid -> (1 + h * w, C); CLS keeps its own.
    Bicubic by a factor of (h + 0.1) / m: the 0.1 guards the rounding of the size and shifts samples
    a little, as published numbers have it (facebookresearch/dino, interpolate_pos_encoding)."""
    if grid_hw == trained_hw:
        return embedding
    cls, patches = embedding[:1], embedding[1:]
    grid = patches.T.reshape(1, -1, *trained_hw).float()
    factors = [(length + 0.1) / old for length, old in zip(grid_hw, trained_hw, strict=True)]
    resized = F.interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat([cls, resized[0].flatten(1).T.to(cls.dtype)])


def _run_as(block: Block, x: Tensor, grid_hw: Grid, attention: Attention) -> Tensor:
    mixed = block.ls_1(_self_attention(block, x, grid_hw, attention))
    if attention in ("clearclip", "naclip"):  # neither residual nor MLP
        return mixed
    x = x + mixed
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _self_attention(block: Block, x: Tensor, grid_hw: Grid, attention: Attention) -> Tensor:
    attn = block.attn
    if not isinstance(attn, nn.MultiheadAttention | transformer.Attention):
        kind = type(attn).__name__
        raise UsageError(f"this model's blocks use {kind}: only --attention vanilla is defined")
    q, k, v = _project(attn, block.ln_1(x))
    if isinstance(attn, nn.MultiheadAttention):
        return attn.out_proj(_mix(q, k, v, grid_hw, attention).transpose(1, 2).flatten(2))
    mixed = _mix(attn.ln_q(q), attn.ln_k(k), v, grid_hw, attention)
    if attn.head_scale is not None:
        mixed = mixed * attn.head_scale
    return block.ln_attn(attn.out_proj(attn.ln_inner(mixed.transpose(1, 2).flatten(2))))


def _mix(q: Tensor, k: Tensor, v: Tensor, grid_hw: Grid, attention: Attention) -> Tensor:
    """Mix the values of every head, all (B, heads, N, C / heads)."""
    if attention == "csa":  # unhalved, so that weights sum to 2, as SCLIP's code does
        return attend(q, q, v) + attend(k, k, v)
    if attention == "maskclip":
        return v
    if attention == "clearclip":
        return attend(q, q, v)
    return attend(k, k, v, attn_mask=neighbourhood(grid_hw, k))


def neighbourhood(grid_hw: Grid, like: Tensor) -> Tensor:
    """NACLIP's additive term exp(-distance^2 / (2 * 5^2)), 0 for CLS: (1 + hw, 1 + hw)."""
    axes = (torch.arange(length, device=like.device) for length in grid_hw)
    patches = torch.cartesian_prod(*axes).float()
    distance_squared = (patches[:, None] - patches[None]).square().sum(-1)
    near = torch.exp(-distance_squared / (2 * NACLIP_STD**2))
    return F.pad(near, (1, 0, 1, 0)).to(like.dtype)


def _project(attn: Any, x: Tensor) -> Tensor:
    """Project (B, N, C) to queries, keys and values (3, B, heads, N, C / heads)."""
    projected = F.linear(x, attn.in_proj_weight, attn.in_proj_bias)
    return projected.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)


def project_in_one_piece(model: nn.Module) -> None:
    """Replace the self-attentions of a model, in place, for half precision. `nn.MultiheadAttention`
    projects a transposed view, for which PyTorch multiplies sample by sample and, in bf16 on a CPU,
    copies the weights for each: most of the time of a ViT-B/16. Names and hooks stay."""
    for module in model.modules():
        plain = type(module) is nn.MultiheadAttention and module.in_proj_bias is not None
        if plain and module.batch_first and module.bias_k is None and not module.add_zero_attn:
            module.__class__ = _SelfAttention


class _SelfAttention(nn.MultiheadAttention):
    """As its base without dropout, weights or padding mask; anything else goes to the base."""

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, N, C) -> mixed tokens (B, N, C); `attn_mask` (N, N) is added to the logits."""
        mask = options.pop("attn_mask", None)
        usual = {"need_weights": False, "is_causal": False}
        # A mask of its own for every sample and head (CoCa's texts) is the base's.
        shared_mask = mask is None or (mask.ndim == 2 and mask.is_floating_point())
        own = query is key is value and query.ndim == 3 and shared_mask
        if self.training or not own or {**usual, **options} != usual:
            return super().forward(query, key, value, attn_mask=mask, **options)
        q, k, v = _project(self, query)
        mixed = attend(q, k, v, attn_mask=None if mask is None else mask.to(q.dtype))
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None
