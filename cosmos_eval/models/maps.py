"""Attention between an image and texts: one number per patch of the image, or per word of the text.

Kinds of maps of a text over patches n, where a(text) are the weights of a head of cross-attention,
and t(text) is the normalised feature of a text:
cross-attention                   a(text)
log ratio to the empty text       log a("") - log a(text)
log ratio to the mean over texts  mean over all texts of log a - log a(text)
values of cross-attention         v . (t(text) - mean over all texts of t), or v . t(text) for a
                                  single text; v is W_o v_n + b_o of the image's pooler, normalised
text-to-patch similarity          p . t(text), where p is the embedding of the patch
Ratios have this sign because a text takes attention away from what it names (docs/attention.md).

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

# The longest side of an image that keeps its aspect, in units of the model's side. A longer image
# is squeezed: a tower's time grows with the square of its patches, and positions far beyond those
# of the training say little.
LONGEST = 4

EMPTY_RATIO, TEXTS_RATIO, VALUES = MAPS["empty-ratio"], MAPS["texts-ratio"], MAPS["values"]
SIMILARITY = MAPS["similarity"]
OF_WEIGHTS = (MAPS["cross-attention"], EMPTY_RATIO, TEXTS_RATIO)
"""Kinds of maps that have heads, and whose text features are not normalised."""


def usual_kind(encoder: Encoder) -> MapKind:
    """Return the default kind of maps: values of cross-attention, or else similarity.

    Both were chosen on training scenes by benchmarks/localisation_table.py. Raises UsageError for a
    model without patches.
    """
    if isinstance(encoder, CrossAttentionEncoder):
        return VALUES
    with_patches(encoder)
    return SIMILARITY


def whole_image(encoder: DenseEncoder, image: Image.Image) -> Tensor:
    """Return an image (3, H, W) that is resized and normalised without a crop.

    It is float32, on the CPU. Its size is `whole_size`.
    """
    from torchvision.transforms.functional import normalize, to_tensor

    size = whole_size(encoder, (image.height, image.width))
    is_bilinear = encoder.preprocessing.get("interpolation") == "bilinear"
    resampling = Image.Resampling.BILINEAR if is_bilinear else Image.Resampling.BICUBIC
    resized = image.convert("RGB").resize(size[::-1], resampling)
    return normalize(to_tensor(resized), encoder.image_mean, encoder.image_std)


def whole_size(encoder: DenseEncoder, image_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width to which an image is resized as a whole.

    The shorter side is the model's own. The longer side keeps the aspect ratio, but is at most
    LONGEST times the model's own side. It is rounded, so that it exceeds the model's own side by a
    whole number of patches.
    """
    model_hw = encoder.transform(Image.new("RGB", (64, 64))).shape[1:]
    factor = max(model_hw[0] / image_hw[0], model_hw[1] / image_hw[1])
    sides = []
    for model_side, image_side in zip(model_hw, image_hw, strict=True):
        side = min(factor * image_side, LONGEST * model_side)
        added_patches = round((side - model_side) / encoder.patch_size)
        sides.append(model_side + added_patches * encoder.patch_size)
    return sides[0], sides[1]


def heatmaps(
    encoder: Encoder,
    images: Tensor,
    texts: Sequence[str],
    *,
    kind: MapKind,
    attention: Attention = "csa",
) -> Tensor:
    """Return maps (B, T, heads, h, w) of images (B, 3, H, W) and texts, float32 on the CPU.

    Maps are weights that sum to 1 over h x w, log ratios of weights, or cosines, which have one
    head. For similarity, `attention` is the form of the last block of the image tower. Raises
    UsageError for a kind that the model lacks, for a kind that needs several texts, and for maps
    that are not finite.
    """
    all_texts = [*texts, ""] if kind == EMPTY_RATIO else texts
    tokens = encoder.tokenize(all_texts)
    if kind in OF_WEIGHTS:
        features = with_cross_attention(encoder).text_queries(tokens)
    else:
        features = encoder.encode_text(tokens)
    maps = heatmaps_of_features(encoder, images, features, kind, attention).cpu()
    require_finite(maps, encoder.info, lambda index: f"image {index + 1} and its texts")
    return maps


def heatmaps_of_features(
    encoder: Encoder, images: Tensor, features: Tensor, kind: MapKind, attention: Attention = "csa"
) -> Tensor:
    """Return maps (B, T, heads, h, w), as `heatmaps` does, from the features of texts (T, D).

    Features are normalised, except for kinds in OF_WEIGHTS. For EMPTY_RATIO, the last feature
    belongs to the empty text, which has no map. The maps are on the CPU or the model's device.
    """
    if kind in OF_WEIGHTS:
        weights = with_cross_attention(encoder).patch_attention(images, features).transpose(1, 2)
        return weights if kind == "cross-attention" else _log_ratios(weights, kind)
    images = to_device(images, encoder.info.device)
    if kind == VALUES:
        patches = with_cross_attention(encoder).encode_patches(images, "crossmodal")
        if len(features) > 1:
            features = features - features.mean(0)
    else:
        patches = with_patches(encoder).encode_patches(images, attention)
    return torch.einsum("bhwd,td->bthw", patches, features.to(patches.device))[:, :, None]


def _log_ratios(weights: Tensor, kind: MapKind) -> Tensor:
    """Return the log ratios of weights (B, T, heads, h, w) to a reference.

    For EMPTY_RATIO, the reference is the last text, which is empty, and the ratios have T - 1
    texts. Otherwise, the reference is the mean over all T texts. Raises UsageError if that is a
    single text.
    """
    logs = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()  # a weight may underflow
    if kind == EMPTY_RATIO:
        return logs[:, -1:] - logs[:, :-1]
    if logs.shape[1] < 2:
        raise UsageError(f"a {kind} needs at least two texts: name what else the image may show")
    return logs.mean(1, keepdim=True) - logs


def with_patches(encoder: Encoder, attention: Attention | None = None) -> DenseEncoder:
    """Return the model itself. Raises UsageError if it has no patches or not this attention."""
    if not isinstance(encoder, DenseEncoder) or not (attention or encoder.patch_size):
        raise UsageError(
            f"{encoder.info.spec} has no patches to compare a text with: choose a COSMOS model or "
            "another ViT, such as ViT-B-16 or ViT-B-16-SigLIP"
        )
    # `guided` has tried the attention of a guided encoder already.
    if attention is not None and encoder.info.auxiliary is None:
        # An image of one patch is enough to raise the error. A patch size of 0 is a tower without
        # patches, whose error says which tower it is.
        side = max(encoder.patch_size, 1)
        encoder.encode_patches(torch.zeros(1, 3, side, side, device=encoder.info.device), attention)
    return encoder


def with_cross_attention(encoder: Encoder) -> CrossAttentionEncoder:
    """Return the model itself. Raises UsageError if it has no cross-attention."""
    if not isinstance(encoder, CrossAttentionEncoder):
        raise UsageError(f"{encoder.info.spec} has no cross-attention: choose a COSMOS model")
    return encoder


def upsample(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize maps (..., h, w) to (..., H, W), linearly between the centres of patches.

    The values stay within the range of the map.
    """
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.interpolate(flat, size=size_hw, mode="bilinear").view(*maps.shape[:-2], *size_hw)


def scaled(maps: Tensor) -> Tensor:
    """Scale maps (..., h, w) to [0, 1] by their least and largest values. A constant map is 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    # A constant map is 0 / 1. Because of the subtraction, the largest value is exactly 1.
    return (maps - low) / torch.where(high > low, high - low, 1)


class WordMap(NamedTuple):
    """The attention of images to a text. Shares, start, end and padding sum to 1."""

    # The words of which at least one token fits the context.
    words: Sequence[CaptionWord]
    # The words of which at least one token does not fit the context.
    cut: Sequence[CaptionWord]
    # (B, heads, words): the attention to each word, a sum over its tokens.
    shares: Tensor
    # (B, heads): the attention to the start of text, to its end, and to everything after it.
    start: Tensor
    end: Tensor
    padding: Tensor


def wordmaps(encoder: CrossAttentionEncoder, images: Tensor, texts: Sequence[str]) -> list[WordMap]:
    """Return the attention of images (B, 3, H, W) to each text.

    Raises UsageError if it is not finite.
    """
    queries = encoder.image_queries(images)
    weights = encoder.token_attention(encoder.tokenize(texts), queries).cpu()
    require_finite(weights, encoder.info, lambda index: repr(texts[index]))
    return [
        _wordmap(encoder.words(text), weights_of_text)
        for text, weights_of_text in zip(texts, weights.transpose(1, 2), strict=True)
    ]


def _wordmap(words: Sequence[CaptionWord], weights: Tensor) -> WordMap:
    """Return the attention to a text from the weights (B, heads, L) of its tokens.

    The attention to a word is the sum over its tokens. A text has its start at position 0, its
    words, and its end after them. If the text is cut, its end is at the last position.
    """
    last_position = weights.shape[-1] - 1
    end = min(words[-1].stop if words else 1, last_position)
    words_in_context = [word for word in words if word.start < end]
    shares = []
    for word in words_in_context:
        shares.append(weights[..., word.start : min(word.stop, end)].sum(-1))
    return WordMap(
        words=words_in_context,
        cut=[word for word in words if word.stop > end],
        shares=torch.stack(shares, -1) if shares else weights[..., :0],
        start=weights[..., 0],
        end=weights[..., end],
        padding=weights[..., end + 1 :].sum(-1),
    )
