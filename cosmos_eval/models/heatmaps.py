"""What a text lights up in an image: one number a patch, from cross-attention or from similarity.

Shapes: B images, T texts, h x w patches, H x W pixels, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import normalize, to_tensor

from cosmos_eval.models.encoder import CrossAttentionEncoder, DenseEncoder, Encoder, require_finite
from cosmos_eval.types import Attention, MapKind, UsageError

# The longer side in units of the shorter one. A tower costs the square of its patches, and
# positions far beyond those of training say little, so what is longer is squeezed to this.
LONGEST = 4


def usual_kind(encoder: Encoder) -> MapKind:
    """Cross-attention where the model has it, else text-to-patch similarity.

    Raises UsageError for a model whose image tower has no patches.
    """
    if isinstance(encoder, CrossAttentionEncoder):
        return "cross-attention"
    _with_patches(encoder)
    return "text-to-patch similarity"


def whole_image(encoder: DenseEncoder, image: Image.Image) -> Tensor:
    """An RGB image -> (3, H, W) float32 on the CPU, nothing of it cut off.

    It is as large as the model's own input on one side and at least as large on the other, which
    keeps the picture's proportions up to whole patches and LONGEST. A picture of the input's
    proportions comes out as by the model's own transform.
    """
    size = whole_size(encoder, (image.height, image.width))
    bilinear = encoder.preprocessing.get("interpolation") == "bilinear"
    how = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
    resized = image.convert("RGB").resize(size[::-1], how)
    return normalize(to_tensor(resized), encoder.image_mean, encoder.image_std)


def whole_size(encoder: DenseEncoder, image_hw: tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels at which the model sees a whole image of this size."""
    own_hw = encoder.transform(Image.new("RGB", (64, 64))).shape[1:]
    factor = max(model / side for model, side in zip(own_hw, image_hw, strict=True))
    height, width = (
        _whole_patches(factor * side, model, encoder.patch_size)
        for model, side in zip(own_hw, image_hw, strict=True)
    )
    return height, width


def _whole_patches(length: float, own: int, patch: int) -> int:
    """A side of at least the model's own length, larger by whole patches."""
    return own + round((min(length, LONGEST * own) - own) / patch) * patch


def heatmaps(
    encoder: Encoder,
    images: Tensor,
    texts: Sequence[str],
    *,
    kind: MapKind,
    attention: Attention = "csa",
) -> Tensor:
    """Images (B, 3, H, W) and texts -> (B, T, heads, h, w) float32 on the CPU.

    Cross-attention: weights that sum to 1 over h x w. Similarity: cosines of a text's feature with
    the patches of a last block of the form `attention`, as one head. Raises UsageError where the
    model does not have this kind, and where maps are not finite.
    """
    features = _text_features(encoder, texts, kind)
    maps = heatmaps_of_features(encoder, images, features, kind=kind, attention=attention)
    require_finite(maps, encoder.info, lambda number: f"image {number + 1} and its texts")
    return maps


def heatmaps_of_features(
    encoder: Encoder,
    images: Tensor,
    features: Tensor,
    *,
    kind: MapKind,
    attention: Attention = "csa",
) -> Tensor:
    """`heatmaps` of texts whose features (T, D) are known: normalised, but for cross-attention."""
    if kind == "cross-attention":
        return with_cross_attention(encoder).patch_attention(images, features).transpose(1, 2)
    patches = _with_patches(encoder).encode_patches(images.to(encoder.info.device), attention)
    return torch.einsum("bhwd,td->bthw", patches.cpu(), features)[:, :, None]


def _with_patches(encoder: Encoder) -> DenseEncoder:
    if isinstance(encoder, DenseEncoder) and encoder.patch_size:
        return encoder
    raise UsageError(
        f"{encoder.info.spec} has no patches that a text could look at: choose a COSMOS model or "
        "an OpenCLIP ViT, such as ViT-B-16"
    )


def with_cross_attention(encoder: Encoder) -> CrossAttentionEncoder:
    """The model itself, where it has cross-attention, else a UsageError."""
    if not isinstance(encoder, CrossAttentionEncoder):
        raise UsageError(f"{encoder.info.spec} has no cross-attention: choose a COSMOS model")
    return encoder


def _text_features(encoder: Encoder, texts: Sequence[str], kind: MapKind) -> Tensor:
    tokens = encoder.tokenize(texts)
    if kind == "cross-attention":
        return with_cross_attention(encoder).text_queries(tokens)
    return encoder.encode_text(tokens)


def upsample(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Maps (..., h, w) -> (..., H, W): linear between the centres of patches, so in their range."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    large = F.interpolate(flat, size=size_hw, mode="bilinear", align_corners=False)
    return large.view(*maps.shape[:-2], *size_hw)


def scaled(maps: Tensor) -> Tensor:
    """Maps (..., h, w) to [0, 1]: the least becomes 0, the largest 1; a constant map is 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    # A constant map is 0 / 1; subtracting first keeps the largest at exactly 1.
    return (maps - low) / torch.where(high > low, high - low, 1)
