"""What an image lights up in a text: one number a word, from cross-attention.

Shapes: B images, T texts, D embedding, L places of the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cosmos_eval.models.encoder import CrossAttentionEncoder, require_finite
from cosmos_eval.types import CaptionWord


class WordMap(NamedTuple):
    """How images look at a text: shares of the attention, which sum to 1 over all five.

    `shares` (B, heads, words) belong to `words`, the sum of each one's tokens; `start`, `end` and
    `padding` (B, heads) to the start of text, its end and all that follows it. `cut` holds the
    words that do not fit the context; where the first of them fits in part, it is the last of
    `words` as well.
    """

    words: Sequence[CaptionWord]
    cut: Sequence[CaptionWord]
    shares: Tensor
    start: Tensor
    end: Tensor
    padding: Tensor


def wordmaps(encoder: CrossAttentionEncoder, images: Tensor, texts: Sequence[str]) -> list[WordMap]:
    """Images (B, 3, H, W) look at each text; float32 on the CPU.

    Raises UsageError where attention weights are not finite.
    """
    tokens = encoder.tokenize(texts)
    weights = encoder.token_attention(tokens, encoder.image_queries(images))
    require_finite(weights, encoder.info, lambda number: repr(texts[number]))
    return [
        _of_text(encoder.words(text), one.transpose(0, 1))
        for text, one in zip(texts, weights, strict=True)
    ]


def _of_text(words: Sequence[CaptionWord], weights: Tensor) -> WordMap:
    """Weights (B, heads, L) of a text's tokens as those of its words."""
    last = weights.shape[-1] - 1  # where the end of a text that is cut stands
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
