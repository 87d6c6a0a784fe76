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
from typing import Any, NamedTuple

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


def default_map_kind(encoder: Encoder) -> MapKind:
    """Return the kind of maps between an image and a text that is the default for a model.

    It is the values of cross-attention if the model has it, and else the similarity of patches and
    texts. Both were chosen on training scenes by benchmarks/localisation_table.py. Raises
    UsageError for a model without patches.
    """
    if isinstance(encoder, CrossAttentionEncoder):
        return VALUES
    require_patches(encoder)
    return SIMILARITY


def whole_image(encoder: DenseEncoder, image: Image.Image) -> Tensor:
    """Return the pixels (3, H, W) of a whole image for a model, resized but not cropped.

    The pixels are normalised, float32 and on the CPU. `whole_image_size` decides H and W.
    """
    from torchvision.transforms.functional import normalize, to_tensor

    height, width = whole_image_size(encoder, (image.height, image.width))
    is_bilinear = encoder.preprocessing.get("interpolation") == "bilinear"
    resampling = Image.Resampling.BILINEAR if is_bilinear else Image.Resampling.BICUBIC
    resized_image = image.convert("RGB").resize((width, height), resampling)
    return normalize(to_tensor(resized_image), encoder.image_mean, encoder.image_std)


def whole_image_size(encoder: DenseEncoder, image_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width, in pixels, to which an image is resized without a crop.

    The shorter side gets the size of the model's own images. The longer side keeps the aspect
    ratio, but is at most LONGEST times the model's own side. It is rounded, so that it exceeds the
    model's own side by a whole number of patches.

    Args:
        encoder: The model. Its transform shows the size of its own images.
        image_hw: The height and width of the image, in pixels.

    Raises:
        UsageError: If the transform returns no pixels (3, H, W), because the model takes any size.

    Example:
        For a ViT-B/16 at 224 pixels, an image of 480 x 640 pixels becomes 224 x 304: 224 * 640 /
        480 is 299, and 304 is 224 + 5 * 16.
    """
    pixels: Any = encoder.transform(Image.new("RGB", (64, 64)))
    if getattr(pixels, "ndim", None) != 3:
        raise UsageError(
            f"{encoder.info.spec}: its `transform` returns no pixels (3, H, W), whose size decides "
            "the size of maps: choose another model"
        )
    model_hw = pixels.shape[1:]
    factor = max(model_hw[0] / image_hw[0], model_hw[1] / image_hw[1])
    sides = []
    for model_side, image_side in zip(model_hw, image_hw, strict=True):
        longest_side = LONGEST * model_side
        exact_side = min(factor * image_side, longest_side)
        n_added_patches = round((exact_side - model_side) / encoder.patch_size)
        sides.append(model_side + n_added_patches * encoder.patch_size)
    return sides[0], sides[1]


def heatmaps(
    encoder: Encoder,
    images: Tensor,
    texts: Sequence[str],
    *,
    kind: MapKind,
    attention: Attention = "csa",
) -> Tensor:
    """Return one map over h x w patches for each image and each text.

    Args:
        encoder: The model.
        images: Pixels (B, 3, H, W).
        texts: T texts.
        kind: Decides the values of the maps: weights of cross-attention, which sum to 1 over h x w,
            log ratios of such weights, or cosines, which have one head.
        attention: The form of attention in the last block of the image tower. It is only used for
            the similarity of patches and texts.

    Returns:
        The maps (B, T, heads, h, w), float32 on the CPU.

    Raises:
        UsageError: If the model lacks this kind of maps, if the kind needs several texts, and if
            maps are not finite.
    """
    # A ratio to the empty text needs that text as well.
    all_texts = [*texts, ""] if kind == EMPTY_RATIO else texts
    tokens = encoder.tokenize(all_texts)
    if kind in OF_WEIGHTS:
        features = require_cross_attention(encoder).text_queries(tokens)
    else:
        features = encoder.encode_text(tokens)
    maps = heatmaps_of_features(encoder, images, features, kind, attention).cpu()
    require_finite(maps, encoder.info, lambda index: f"image {index + 1} and its texts")
    return maps


def heatmaps_of_features(
    encoder: Encoder, images: Tensor, features: Tensor, kind: MapKind, attention: Attention = "csa"
) -> Tensor:
    """Return the maps (B, T, heads, h, w) of images and of T texts, from the texts' features.

    The maps have the values that `heatmaps` explains. They are on the CPU or the model's device.

    Args:
        encoder: The model.
        images: Pixels (B, 3, H, W).
        features: The features of the texts (T, D). They are normalised, except for kinds in
            OF_WEIGHTS. For EMPTY_RATIO, the feature of the empty text follows, which has no map.
        kind: The kind of maps.
        attention: The form of attention in the last block of the image tower, for similarity.
    """
    # Maps of the weights of cross-attention.
    if kind in OF_WEIGHTS:
        weights = require_cross_attention(encoder).patch_attention(images, features)
        weights = weights.transpose(1, 2)  # (B, T, heads, h, w)
        return weights if kind == "cross-attention" else _log_ratios(weights, kind)

    # Maps of cosines between patches and texts.
    images = to_device(images, encoder.info.device)
    if kind == VALUES:
        patches = require_cross_attention(encoder).encode_patches(images, "crossmodal")
        if len(features) > 1:
            features = features - features.mean(0)
    else:
        patches = require_patches(encoder).encode_patches(images, attention)
    cosines = torch.einsum("bhwd,td->bthw", patches, features.to(patches.device))
    return cosines[:, :, None]


def _log_ratios(weights: Tensor, kind: MapKind) -> Tensor:
    """Return log(reference / weights) of the attention to patches.

    Args:
        weights: The weights (B, T, heads, h, w) of B images and T texts.
        kind: For EMPTY_RATIO, the reference is the last text, which is empty. Otherwise, it is the
            geometric mean over all texts.

    Returns:
        The log ratios (B, T, heads, h, w), or (B, T - 1, heads, h, w) for EMPTY_RATIO.

    Raises:
        UsageError: If there is only one text, and the reference is a mean.
    """
    smallest_weight = torch.finfo(weights.dtype).tiny  # a weight may underflow to 0
    log_weights = weights.clamp_min(smallest_weight).log()
    if kind == EMPTY_RATIO:
        log_weights_of_empty_text = log_weights[:, -1:]
        return log_weights_of_empty_text - log_weights[:, :-1]
    if log_weights.shape[1] < 2:
        raise UsageError(f"a {kind} needs at least two texts: name what else the image may show")
    return log_weights.mean(1, keepdim=True) - log_weights


def require_patches(encoder: Encoder, attention: Attention | None = None) -> DenseEncoder:
    """Return the model itself if it has features of patches, or raise UsageError.

    Type checkers know the returned model as a DenseEncoder.

    Args:
        encoder: The model.
        attention: A form of attention that the model must be able to compute. None does not check
            this.
    """
    # A tower without patches has the patch size 0. If a form of attention is given, the encoding
    # below raises an error that says which tower it is.
    is_tried_below = attention is not None
    if not isinstance(encoder, DenseEncoder) or not (encoder.patch_size or is_tried_below):
        raise UsageError(
            f"{encoder.info.spec} has no patches to compare a text with: choose a COSMOS model or "
            "another ViT, such as ViT-B-16 or ViT-B-16-SigLIP"
        )

    # `add_guide` has tried the attention of a guided encoder already.
    has_guide = encoder.info.auxiliary is not None
    if attention is not None and not has_guide:
        # An image of one patch is enough to raise the error.
        side = max(encoder.patch_size, 1)
        image = torch.zeros(1, 3, side, side, device=encoder.info.device)
        encoder.encode_patches(image, attention)
    return encoder


def require_cross_attention(encoder: Encoder) -> CrossAttentionEncoder:
    """Return the model itself if it has cross-attention, or raise UsageError.

    Type checkers know the returned model as a CrossAttentionEncoder.
    """
    if not isinstance(encoder, CrossAttentionEncoder):
        raise UsageError(f"{encoder.info.spec} has no cross-attention: choose a COSMOS model")
    return encoder


def upsample(maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return maps that are resized to another height and width, by bilinear interpolation.

    Args:
        maps: Maps (..., h, w).
        size_hw: The new height and width (H, W). The result is (..., H, W).
    """
    map_list = maps.reshape(-1, 1, *maps.shape[-2:])  # (n, 1, h, w)
    resized_maps = F.interpolate(map_list, size=size_hw, mode="bilinear")
    return resized_maps.view(*maps.shape[:-2], *size_hw)


def scale_to_unit_range(maps: Tensor) -> Tensor:
    """Return maps (..., h, w) whose values are scaled to the range from 0 to 1.

    Each map is scaled by itself: its least value becomes 0, and its largest value becomes 1. A
    constant map becomes 0 everywhere.
    """
    least = maps.amin((-2, -1), keepdim=True)
    largest = maps.amax((-2, -1), keepdim=True)
    # The divisor of a constant map is 1, and not 0.
    divisor = torch.where(largest > least, largest - least, 1)
    return (maps - least) / divisor


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
    """Return the attention of images to the words of each text.

    Args:
        encoder: A model with cross-attention.
        images: Pixels (B, 3, H, W).
        texts: The texts.

    Returns:
        One map for each text, with the attention of all B images to it.

    Raises:
        UsageError: If the attention is not finite.
    """
    queries = encoder.image_queries(images)
    weights = encoder.token_attention(encoder.tokenize(texts), queries).cpu()  # (T, heads, B, L)
    require_finite(weights, encoder.info, lambda index: repr(texts[index]))
    word_maps = []
    for text, weights_of_text in zip(texts, weights.transpose(1, 2), strict=True):
        word_maps.append(_sum_over_words(encoder.words(text), weights_of_text))
    return word_maps


def _sum_over_words(words: Sequence[CaptionWord], weights: Tensor) -> WordMap:
    """Return the attention to the words of a text. It is the sum over the tokens of a word.

    A text has its start at position 0, its words, and its end after them. If the text is cut, its
    end is at the last position.

    Args:
        words: All words of the text, with the positions of their tokens.
        weights: The attention (B, heads, L) to the tokens of the text.

    Example:
        "a t-shirt" has the start at 0, "a" at 1, "t-shirt" at 2 to 4, the end at 5, and padding
        from 6 on.
    """
    last_position = weights.shape[-1] - 1
    position_after_words = words[-1].stop if words else 1
    end = min(position_after_words, last_position)

    # A word may be cut in two. Then it belongs to both lists.
    words_in_context = [word for word in words if word.start < end]
    cut_words = [word for word in words if word.stop > end]
    weights_of_words = []
    for word in words_in_context:
        token_weights = weights[..., word.start : min(word.stop, end)]
        weights_of_words.append(token_weights.sum(-1))
    no_words = weights[..., :0]
    return WordMap(
        words=words_in_context,
        cut=cut_words,
        shares=torch.stack(weights_of_words, -1) if weights_of_words else no_words,
        start=weights[..., 0],
        end=weights[..., end],
        padding=weights[..., end + 1 :].sum(-1),
    )
