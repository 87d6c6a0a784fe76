"""Attention between an image and texts: one number per patch of the image, or per word of the text.

Kinds of maps of a text over patches n, with a(text) the weights of cross-attention of a head and
t(text) the normalised feature of a text:
cross-attention                   a(text)
log ratio to the empty text       log a("") - log a(text)
log ratio to the mean over texts  mean over all texts of log a - log a(text)
values of cross-attention         v . (t(text) - mean over all texts of t), of one text v . t(text);
                                  v is W_o v_n + b_o of the image's pooler, normalised
text-to-patch similarity          p . t(text), with p the embedding of the patch
Ratios have this sign since a text takes attention away from what it names (docs/attention.md).

Shapes: B images, T texts, h x w patches, H x W pixels, D embedding, L positions of the context."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cosmos_eval.models.encoder import (
    CrossAttentionEncoder,
    DenseEncoder,
    Encoder,
    require_finite,
    to_device,
)
from cosmos_eval.types import MAPS, Attention, CaptionWord, MapKind, UsageError

# The longer side in units of the shorter one. A tower costs the square of its patches, and
# positions far beyond those of training say little, so a longer image is squeezed to this.
LONGEST = 4

EMPTY_RATIO, TEXTS_RATIO, VALUES = MAPS["empty-ratio"], MAPS["texts-ratio"], MAPS["values"]
SIMILARITY = MAPS["similarity"]
OF_WEIGHTS = (MAPS["cross-attention"], EMPTY_RATIO, TEXTS_RATIO)
"""Kinds that have heads and are asked with features that are not normalised."""


def usual_kind(encoder: Encoder) -> MapKind:
    """Return the values of cross-attention where the model has it, else similarity; UsageError for
    neither. Chosen on training scenes by benchmarks/localisation_table.py."""
    if isinstance(encoder, CrossAttentionEncoder):
        return VALUES
    with_patches(encoder)
    return SIMILARITY


def whole_image(encoder: DenseEncoder, image: Image.Image) -> Tensor:
    """Resize and normalise an RGB image without a crop -> (3, H, W) float32 on the CPU."""
    from torchvision.transforms.functional import normalize, to_tensor

    size = whole_size(encoder, (image.height, image.width))
    bilinear = encoder.preprocessing.get("interpolation") == "bilinear"
    how = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
    resized = image.convert("RGB").resize(size[::-1], how)
    return normalize(to_tensor(resized), encoder.image_mean, encoder.image_std)


def whole_size(encoder: DenseEncoder, image_hw: tuple[int, int]) -> tuple[int, int]:
    """Return height and width: the model's own side, and one of whole patches up to LONGEST."""
    own_hw = encoder.transform(Image.new("RGB", (64, 64))).shape[1:]
    sides = [*zip(own_hw, image_hw, strict=True)]
    factor, patch = max(own / side for own, side in sides), encoder.patch_size
    # Larger than the model's own side by whole patches.
    more = [round((min(factor * side, LONGEST * own) - own) / patch) * patch for own, side in sides]
    return own_hw[0] + more[0], own_hw[1] + more[1]


def heatmaps(
    encoder: Encoder,
    images: Tensor,
    texts: Sequence[str],
    *,
    kind: MapKind,
    attention: Attention = "csa",
) -> Tensor:
    """Images (B, 3, H, W) and texts -> (B, T, heads, h, w) float32 on the CPU: weights that sum to
    1 over h x w, log ratios of weights, or cosines as one head; patches of similarity are those of
    a last block of the form `attention`. Raises UsageError for a kind that the model lacks or that
    needs several texts, and for maps not finite."""
    of_weights = kind in OF_WEIGHTS
    encode = with_cross_attention(encoder).text_queries if of_weights else encoder.encode_text
    features = encode(encoder.tokenize([*texts, ""] if kind == EMPTY_RATIO else texts))
    maps = heatmaps_of_features(encoder, images, features, kind, attention).cpu()
    require_finite(maps, encoder.info, lambda index: f"image {index + 1} and its texts")
    return maps


def heatmaps_of_features(
    encoder: Encoder, images: Tensor, features: Tensor, kind: MapKind, attention: Attention = "csa"
) -> Tensor:
    """Compute `heatmaps` from features of texts (T, D), normalised but for OF_WEIGHTS, and for
    EMPTY_RATIO with that of the empty text as the last; on the CPU or the model's device."""
    if kind in OF_WEIGHTS:
        weights = with_cross_attention(encoder).patch_attention(images, features).transpose(1, 2)
        return weights if kind == "cross-attention" else _log_ratios(weights, kind)
    images = to_device(images, encoder.info.device)
    if kind == VALUES:
        patches = with_cross_attention(encoder).encode_patches(images, "crossmodal")
        features = features - features.mean(0) if len(features) > 1 else features
    else:
        patches = with_patches(encoder).encode_patches(images, attention)
    return torch.einsum("bhwd,td->bthw", patches, features.to(patches.device))[:, :, None]


def _log_ratios(weights: Tensor, kind: MapKind) -> Tensor:
    """Weights (B, T, heads, h, w) -> log ratios of the same shape, or of T - 1 texts."""
    logs = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()  # a weight may underflow
    if kind == EMPTY_RATIO:
        return logs[:, -1:] - logs[:, :-1]
    if logs.shape[1] < 2:
        raise UsageError(f"a {kind} needs at least two texts: name what else the image may show")
    return logs.mean(1, keepdim=True) - logs


def with_patches(encoder: Encoder, attention: Attention | None = None) -> DenseEncoder:
    """Return the model itself; UsageError where it has no patches or not this attention."""
    if not isinstance(encoder, DenseEncoder) or not (attention or encoder.patch_size):
        raise UsageError(
            f"{encoder.info.spec} has no patches to compare a text with: choose a COSMOS model or "
            "another ViT, such as ViT-B-16 or ViT-B-16-SigLIP"
        )
    if attention is not None and encoder.info.auxiliary is None:  # else it was tried
        # An image of one patch shows it; 0 is a tower that has no patches and says which it is.
        side = max(encoder.patch_size, 1)
        encoder.encode_patches(torch.zeros(1, 3, side, side, device=encoder.info.device), attention)
    return encoder


def with_cross_attention(encoder: Encoder) -> CrossAttentionEncoder:
    """Return the model itself. Raises UsageError where it has no cross-attention."""
    if not isinstance(encoder, CrossAttentionEncoder):
        raise UsageError(f"{encoder.info.spec} has no cross-attention: choose a COSMOS model")
    return encoder


def upsample(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Maps (..., h, w) -> (..., H, W): linear between the centres of patches, so in their range."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.interpolate(flat, size=size_hw, mode="bilinear").view(*maps.shape[:-2], *size_hw)


def scaled(maps: Tensor) -> Tensor:
    """Scale maps (..., h, w) to [0, 1] by their least and largest values; a constant map is 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    # A constant map is 0 / 1; subtracting first keeps the largest at exactly 1.
    return (maps - low) / torch.where(high > low, high - low, 1)


class WordMap(NamedTuple):
    """The attention of images to a text: fractions that sum to 1 over all but `cut`.

    `shares` (B, heads, words) are sums over the tokens of `words`; `start`, `end` and `padding` (B,
    heads) belong to the start of text, its end and all that follows it. `cut` holds the words that
    do not fit the context, also one that fits in part and is the last of `words`."""

    words: Sequence[CaptionWord]
    cut: Sequence[CaptionWord]
    shares: Tensor
    start: Tensor
    end: Tensor
    padding: Tensor


def wordmaps(encoder: CrossAttentionEncoder, images: Tensor, texts: Sequence[str]) -> list[WordMap]:
    """Return the attention of images (B, 3, H, W) to each text; UsageError if it is not finite."""
    queries = encoder.image_queries(images)
    weights = encoder.token_attention(encoder.tokenize(texts), queries).cpu()
    require_finite(weights, encoder.info, lambda index: repr(texts[index]))
    return [*map(_wordmap, map(encoder.words, texts), weights.transpose(1, 2))]


def _wordmap(words: Sequence[CaptionWord], weights: Tensor) -> WordMap:
    """Sum weights (B, heads, L) of a text's tokens over its words."""
    last = weights.shape[-1] - 1  # the position of the end of a text that is cut
    end = min(words[-1].stop if words else 1, last)
    read = [word for word in words if word.start < end]
    shares = [weights[..., word.start : min(word.stop, end)].sum(-1) for word in read]
    return WordMap(
        words=read,
        cut=[word for word in words if word.stop > end],
        shares=torch.stack(shares, -1) if shares else weights[..., :0],
        start=weights[..., 0],
        end=weights[..., end],
        padding=weights[..., end + 1 :].sum(-1),
    )
