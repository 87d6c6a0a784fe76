"""Dense features: one embedding per patch instead of one per image, for towers with patch tokens.

The embedding of a patch is the image feature that the tower's own head makes where every token
after the last block is that patch's: its norm, pooling and projection. So a patch is compared with
texts as an image is, and the patches of an image of equal tokens have its feature. By pooling:
class token      final norm and projection of the patch, in the class token's place (CLIP)
average          the same; without a norm in between, the feature is the mean of what patches have
attention (MAP)  the pooling attends to that patch alone: its value and output projection, as in
                 MaskCLIP (arXiv:2112.01071, section 3), then the head's MLP, norm and projection
                 (SigLIP, PE, CoCa)
No weights are fitted. TIPSv2 was trained to align its patches with texts (arXiv:2604.12012), most
others were trained on whole images only.

Shapes: B images, N tokens, h x w patches, C tower width, D embedding."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosmos_eval.models.attention import Grid, Mixing, proxy_attention
from cosmos_eval.models.towers import Step, Tower, image_tower
from cosmos_eval.types import Attention, UsageError

# The last tower and images of `shared_blocks`, and their tokens before the last block.
_shared: ContextVar[list[Any] | None] = ContextVar("_shared", default=None)


@contextmanager
def shared_blocks() -> Iterator[None]:
    """Within it, images that `encode_patches` gets again, the same tensor, with another attention
    pass through the last block alone."""
    token = _shared.set([])
    try:
        yield
    finally:
        _shared.reset(token)


@torch.no_grad()
def encode_patches(
    model: nn.Module, images: Tensor, attention: Attention, guide: Step | None = None
) -> Tensor:
    """Images (B, 3, H, W) of any size -> (B, H // patch, W // patch, D) float32, L2-normalised;
    `model` is an image tower of OpenCLIP's or a model of transformers. With attention `proxy`
    patches are those of `guide`, which maps images to features (B, h', w', D'). Raises UsageError
    for towers without patch tokens or this attention, and for images smaller than a patch."""
    tower = image_tower(model)
    whole = whole_patches(images, tower.patch_size)
    grid = whole.shape[2] // tower.patch_size, whole.shape[3] // tower.patch_size
    with tower.sized((whole.shape[2], whole.shape[3])):
        x = _before_last(model, tower, images, whole)
        if attention == "proxy":
            x, grid = _guided(tower, x, grid, guide and guide(images))
        elif attention == "vanilla":
            x = tower.block(x, tower.rope())[:, tower.prefix :]
        else:
            x = _run_as(tower, x, grid, attention)[:, tower.prefix :]
        patches = tower.pool(x).float()
    return F.normalize(patches, dim=-1).unflatten(1, grid)


def _before_last(model: nn.Module, tower: Tower, images: Tensor, whole: Tensor) -> Tensor:
    kept = _shared.get()
    if kept is None:
        return tower.before_last(whole)
    if not (kept and kept[0] is model and kept[1] is images):
        kept[:] = model, images, tower.before_last(whole)
    x: Tensor = kept[2]
    return x


def whole_patches(images: Tensor, patch_size: int) -> Tensor:
    """Cut off borders narrower than a patch. Raises UsageError for images smaller than one."""
    height, width = (side // patch_size * patch_size for side in images.shape[2:])
    if not height or not width:
        raise UsageError(f"an image of {tuple(images.shape[2:])} px is smaller than one patch")
    return images[..., :height, :width]


def patch_size(model: nn.Module) -> int:
    """Return the side of a patch in pixels, 0 where `encode_patches` refuses the tower."""
    with suppress(UsageError):
        return image_tower(model).patch_size
    return 0


def _guided(tower: Tower, x: Tensor, grid_hw: Grid, features: Tensor | None) -> tuple[Tensor, Grid]:
    """Run the attention of the last block alone, with weights of `features` (B, h', w', D) ->
    (B, h'w', C) and (h', w'). Other blocks cannot return another number of tokens."""
    if features is None:
        raise UsageError(
            "proxy needs an encoder that guides it: `run` or `segment --auxiliary SPEC`"
        )
    block: Any = tower.block
    if not isinstance(getattr(block, "attn", None), nn.MultiheadAttention):
        raise UsageError(
            f"--attention proxy is not defined for this model's last {type(block).__name__}: "
            "choose a COSMOS model or OpenCLIP's own CLIP ViT, such as ViT-B-16"
        )
    patches = block.ln_1(x[:, tower.prefix :])
    mixed = block.ls_1(proxy_attention(block.attn, patches, grid_hw, features))
    return mixed, (features.shape[1], features.shape[2])


def _run_as(tower: Tower, x: Tensor, grid_hw: Grid, attention: Attention) -> Tensor:
    """Run the last block with another form of attention."""
    if attention == "crossmodal":
        raise UsageError(
            "--attention crossmodal reads the values of COSMOS's cross-attention, which this model "
            "lacks: choose a COSMOS model or another form"
        )
    with Mixing(attention, tower.prefix, grid_hw) as mixing:
        mixed = tower.branches[0](x) if tower.branches else x
    if not tower.branches or mixing.calls != 1:
        kind = type(tower.block).__name__
        raise UsageError(
            f"no other attention than --attention vanilla is defined for this model's last {kind}"
        )
    if attention in ("clearclip", "naclip"):  # neither residual nor MLP
        return mixed
    x = x + mixed
    return x + tower.branches[1](x)
