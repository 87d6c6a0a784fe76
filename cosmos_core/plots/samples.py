"""A batch taken apart: of each sample its views, as pixels and as the text of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor

from cosmos_core.types import ViewCounts, Views
from cosmos_core.views.pixels import Pixels

Decoder = Callable[[list[int]], str]
"""Token ids -> text; KeyError for an id that is not in the vocabulary."""

START, END = "<start_of_text>", "<end_of_text>"  # OpenCLIP's SimpleTokenizer


class Inverse(NamedTuple):
    """What leads back from a batch: `mean` and `std` on the 0-1 scale, the tokenizer's decoder."""

    mean: Sequence[float]
    std: Sequence[float]
    decode: Decoder


class Caption(NamedTuple):
    """The text of a caption view, and how many tokens of how many its ids take, ends included."""

    text: str
    tokens: int
    of: int


class SampleView(NamedTuple):
    """A view of the image (H, W, 3) and of the caption with the same number; None where a method
    has fewer of one than of the other."""

    name: str
    pixels: Pixels | None
    caption: Caption | None


def read_samples(
    views: Views, counts: ViewCounts, inverse: Inverse, *, most: int
) -> list[list[SampleView]]:
    """The views of the first samples of a batch, at most `most`: globals first, then locals.

    `views` hold images as a model gets them: normalised, on any device.
    """
    large = denormalise(views.global_images[:, :most], inverse)
    small = denormalise(views.local_images[:, :most], inverse)
    texts = views.texts[:, :most].tolist()
    first = counts.global_texts
    return [
        [
            *_paired("global", large[:, sample], [ids[sample] for ids in texts[:first]], inverse),
            *_paired("local", small[:, sample], [ids[sample] for ids in texts[first:]], inverse),
        ]
        for sample in range(large.shape[1])
    ]


def denormalise(images: Tensor, inverse: Inverse) -> Tensor:
    """Normalised images (..., 3, H, W) -> uint8 (..., H, W, 3) on the CPU."""
    mean, std = (torch.tensor(values)[:, None, None] for values in inverse[:2])
    levels = (images.detach().float().cpu() * std + mean) * 255
    return levels.round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)


def read_caption(ids: Sequence[int], decode: Decoder) -> Caption:
    """The text of token ids padded with zeros.

    What is as it should be, a start and an end, is left out; where one is missing the text shows
    all that is there. Ids that are no tokens are shown as numbers.
    """
    used = max((place + 1 for place, token in enumerate(ids) if token), default=0)
    try:
        text = decode(list(ids[:used]))
    except KeyError:
        text = f"not in the vocabulary: {' '.join(map(str, ids[:used]))}"
    if text.startswith(START) and text.endswith(END):
        text = text[len(START) : -len(END)]
    return Caption(text.strip(), used, len(ids))


def _paired(
    kind: str, images: Tensor, captions: Sequence[Sequence[int]], inverse: Inverse
) -> list[SampleView]:
    """The views of one sample: images (V, H, W, 3) with captions of the same number."""
    pairs = zip_longest(images.numpy(), (read_caption(ids, inverse.decode) for ids in captions))
    return [
        SampleView(f"{kind} {number}", pixels, caption)
        for number, (pixels, caption) in enumerate(pairs, start=1)
    ]
