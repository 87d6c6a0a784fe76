"""Dense features: one embedding per patch instead of one per image, for towers with patch tokens.

The embedding of a patch is the image feature that the tower's head makes if every token after the
last block is the token of that patch: the head's norm, pooling and projection are applied. So a
patch is compared with texts as an image is, and if all tokens of an image are equal, its patches
have the feature of the image. The result depends on the pooling:
class token      final norm and projection of the patch, in the class token's place (CLIP)
average          the same; without a norm in between, the image's feature is the patches' mean
attention (MAP)  the pooling attends to that patch only: its value and output projection, as in
                 MaskCLIP (arXiv:2112.01071, section 3), then the head's MLP, norm and projection
                 (SigLIP, PE, CoCa)
No weights are fitted. TIPSv2 was trained to align its patches with texts (arXiv:2604.12012). Most
other models were trained on images as a whole only.

Shapes: B images, N tokens, h x w patches, C tower width, D embedding."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosmos_eval.models.attention import Grid, Mixing, is_plain_attention, proxy_attention
from cosmos_eval.models.towers import OpenClipTower, Step, Tower, image_tower
from cosmos_eval.types import Attention, UsageError


@dataclass
class _SharedTokens:
    """The latest images that a model encoded, and their tokens before the last block."""

    model: nn.Module | None = None
    # (B, 3, H, W)
    images: Tensor | None = None
    # (B, N, C)
    tokens: Tensor | None = None


_shared: ContextVar[_SharedTokens | None] = ContextVar("_shared", default=None)


@contextmanager
def shared_blocks() -> Iterator[None]:
    """Let calls of `encode_patches` within the context share all blocks but the last.

    If `encode_patches` is called again with the same tensor of images and the same model, but with
    another form of attention, only the last block runs again.
    """
    reset_token = _shared.set(_SharedTokens())
    try:
        yield
    finally:
        _shared.reset(reset_token)


@torch.no_grad()
def encode_patches(
    model: nn.Module, images: Tensor, attention: Attention, guide: Step | None = None
) -> Tensor:
    """Return the embedding of every patch of images, float32 and L2-normalised.

    Args:
        model: An image tower of OpenCLIP, or a model of transformers.
        images: Pixels (B, 3, H, W) of any size. Rows and columns beyond whole patches are ignored.
        attention: The form of attention in the last block: "vanilla" as trained, or another one
            that is better for patches.
        guide: For attention "proxy" only: a function that maps images to another encoder's features
            of patches (B, h', w', D'). They decide the weights of attention.

    Returns:
        The embeddings (B, H // patch, W // patch, D), or (B, h', w', D) for attention "proxy".

    Raises:
        UsageError: If the tower has no patch tokens or not this form of attention, and if images
            are smaller than a patch.
    """
    tower = image_tower(model)
    cropped_images = crop_to_whole_patches(images, tower.patch_size)
    image_hw = (cropped_images.shape[2], cropped_images.shape[3])
    grid_hw = (image_hw[0] // tower.patch_size, image_hw[1] // tower.patch_size)
    with tower.input_size(image_hw):
        # Run all blocks but the last, unless the last call within `shared_blocks` had the same
        # model and the same tensor of images. Then its tokens are used again.
        last_call = _shared.get() or _SharedTokens()
        has_same_inputs = last_call.model is model and last_call.images is images
        if last_call.tokens is None or not has_same_inputs:
            last_call.tokens = tower.before_last(cropped_images)
            last_call.model, last_call.images = model, images
        tokens = last_call.tokens  # (B, N, C)

        # Run the last block.
        if attention == "proxy":
            guide_features = guide(images) if guide else None
            patches, grid_hw = _run_guided_block(tower, tokens, grid_hw, guide_features)
        else:
            if attention == "vanilla":
                tokens = tower.last_block(tokens)
            else:
                tokens = _run_last_block(tower, tokens, grid_hw, attention)
            # Leave out the class token and the registers, which come first.
            patches = tokens[:, tower.prefix :]
        embeddings = tower.pool(patches).float()  # (B, h * w, D)
    return F.normalize(embeddings, dim=-1).unflatten(1, grid_hw)


def crop_to_whole_patches(images: Tensor, patch_size: int) -> Tensor:
    """Return images (B, 3, H, W) cropped to whole patches, at the right and at the bottom.

    Raises UsageError for images that are smaller than a patch.

    Example:
        Images of 100 x 70 pixels and patches of 16 x 16 give images of 96 x 64 pixels.
    """
    height = images.shape[2] // patch_size * patch_size
    width = images.shape[3] // patch_size * patch_size
    if height == 0 or width == 0:
        raise UsageError(f"an image of {tuple(images.shape[2:])} px is smaller than one patch")
    return images[..., :height, :width]


def find_patch_size(model: nn.Module) -> int:
    """Return the side of a model's patches in pixels, or 0 if it has no usable patches.

    `model` is an image tower of OpenCLIP, or a model of transformers.
    """
    try:
        return image_tower(model).patch_size
    except UsageError:
        return 0


def _run_guided_block(
    tower: Tower, tokens: Tensor, grid_hw: Grid, guide_features: Tensor | None
) -> tuple[Tensor, Grid]:
    """Run the attention of the last block with the weights of ProxyCLIP, without its MLP.

    Args:
        tower: The image tower with the block.
        tokens: The input of the block (B, P + h * w, C): P tokens of the prefix, then the patches.
        grid_hw: (h, w), the height and width of the grid of patches.
        guide_features: Another encoder's features of patches (B, h', w', D'), which decide the
            weights of attention.

    Returns:
        The patches (B, h' * w', C) after the attention, and their grid (h', w').

    Raises:
        UsageError: If `guide_features` is None, and for a block that cannot return another number
            of tokens than it is given.
    """
    if guide_features is None:
        raise UsageError(
            "proxy needs an encoder that guides it: `run` or `segment --auxiliary SPEC`"
        )
    block: Any = tower.block
    if not (isinstance(tower, OpenClipTower) and is_plain_attention(block.attn)):
        raise UsageError(
            f"--attention proxy is not defined for this model's last {type(block).__name__}: "
            "choose a COSMOS model or OpenCLIP's own CLIP ViT, such as ViT-B-16"
        )
    patches = block.ln_1(tokens[:, tower.prefix :])
    mixed_patches = proxy_attention(block.attn, patches, grid_hw, guide_features)
    guide_hw = (guide_features.shape[1], guide_features.shape[2])
    return tower.after_attention(mixed_patches), guide_hw


def _run_last_block(tower: Tower, tokens: Tensor, grid_hw: Grid, attention: Attention) -> Tensor:
    """Return the tokens (B, N, C) after the last block, with another attention than "vanilla".

    Args:
        tower: The image tower with the block.
        tokens: The input of the block (B, N, C).
        grid_hw: (h, w), the height and width of the grid of patches.
        attention: The form of attention, such as "maskclip".

    Raises:
        UsageError: If this form is not defined for the block.
    """
    if attention == "crossmodal":
        raise UsageError(
            "--attention crossmodal reads the values of COSMOS's cross-attention, which this model "
            "lacks: choose a COSMOS model or another form"
        )
    undefined_form = UsageError(
        "no other attention than --attention vanilla is defined for this model's last "
        f"{type(tower.block).__name__}"
    )
    if not tower.has_branches:
        raise undefined_form

    # Within this context, PyTorch's attention computes the other form.
    with Mixing(attention, tower.prefix, grid_hw) as mixing:
        mixed_tokens = tower.attention_branch(tokens)
    has_replaced_attention = mixing.n_calls == 1
    if not has_replaced_attention:
        raise undefined_form

    if attention in ("clearclip", "naclip"):  # they leave out the residual and the MLP
        return mixed_tokens
    tokens = tokens + mixed_tokens
    return tokens + tower.mlp_branch(tokens)
