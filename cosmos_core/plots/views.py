"""A batch taken apart: of each sample its views, as pixels and as the text of their tokens."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cosmos_core.plots import new_page, plain_style, png
from cosmos_core.types import ViewCounts, Views
from cosmos_core.views import Pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


# In pixels of the picture.
READABLE = 192  # smaller global views are drawn enlarged, each pixel as a square
TEXT_COLUMN = 168  # the least width of a view's place, for its caption
PAGE_WIDTH = 1500  # samples stand side by side as long as they fit
GAP = 16
LINE = 14
LETTER = 7  # the width of a letter in the font below, rounded up
FONT_POINTS = 8
MONOSPACE = "DejaVu Sans Mono"  # comes with Matplotlib

BLACK, GREY, RED = "black", "dimgrey", "firebrick"
PAPER = "gainsboro"  # so that one sees where a white view ends


class Place(NamedTuple):
    """A view and its column: the distance from the sample's left edge, and the width."""

    view: SampleView
    left: int
    width: int


def draw_views(samples: Sequence[Sequence[SampleView]], title: str) -> bytes:
    """A PNG of samples, at least one, all with the same kinds of views."""
    with plain_style():
        return png(lay_out(samples, title))


def lay_out(samples: Sequence[Sequence[SampleView]], title: str) -> Figure:
    """The page of all samples, as many side by side as fit.

    Views keep their proportions to each other: all are enlarged by the same whole factor, and none
    of their pixels is interpolated.
    """
    factor = _factor(samples[0])
    placed = [_places(sample, factor) for sample in samples]
    sample_width = placed[0][-1].left + placed[0][-1].width + 2 * GAP
    columns = max(1, min(len(samples), PAGE_WIDTH // sample_width))
    width = columns * sample_width
    heading = _lines(_heading(samples[0], title, factor), width - 2 * GAP)
    rows = [placed[start : start + columns] for start in range(0, len(placed), columns)]
    heights = [max(_height(sample, factor) for sample in row) + 2 * GAP for row in rows]
    tops = list(itertools.accumulate(heights, initial=2 * GAP + LINE * len(heading)))
    page = new_page(width, tops[-1], PAPER)
    _write(page, GAP, GAP, heading, BLACK)
    for row, top in zip(rows, tops, strict=False):
        for number, sample in enumerate(row):
            _draw_sample(page, sample, factor, GAP + number * sample_width, top)
    return page


def _factor(sample: Sequence[SampleView]) -> int:
    """How many times as large as they are views are drawn."""
    largest = max((view.pixels.shape[0] for view in sample if view.pixels is not None), default=1)
    return max(1, round(READABLE / largest))


def _heading(sample: Sequence[SampleView], title: str, factor: int) -> str:
    """The title, and the sizes of the views in pixels."""
    sizes = {v.name.split()[0]: v.pixels.shape[0] for v in sample if v.pixels is not None}
    told = ", ".join(f"{kind} views {size} px" for kind, size in sizes.items())
    return f"{title}; {told}" + (f", drawn {factor} times as large" if factor > 1 else "")


def _places(sample: Sequence[SampleView], factor: int) -> list[Place]:
    widths = [
        max(TEXT_COLUMN, 0 if view.pixels is None else view.pixels.shape[1] * factor)
        for view in sample
    ]
    lefts = itertools.accumulate((width + GAP for width in widths), initial=0)
    return [Place(*place) for place in zip(sample, lefts, widths, strict=False)]


def _height(sample: Sequence[Place], factor: int) -> int:
    return max(
        LINE * (2 + len(_caption_lines(place))) + _image_height(place.view, factor)
        for place in sample
    )


def _image_height(view: SampleView, factor: int) -> int:
    return LINE if view.pixels is None else view.pixels.shape[0] * factor


def _draw_sample(page: Figure, sample: Sequence[Place], factor: int, left: int, top: int) -> None:
    """Each view below its name and above its caption."""
    for place in sample:
        x, y = left + place.left, top
        _write(page, x, y, [place.view.name], GREY)
        y += LINE + 2
        if place.view.pixels is None:
            _write(page, x, y, ["no image view"], GREY)
        else:
            _paste(page, x, y, place.view.pixels.repeat(factor, 0).repeat(factor, 1))
        y += _image_height(place.view, factor) + 4
        _write(page, x, y, *_counted(place.view.caption))
        _write(page, x, y + LINE, _caption_lines(place), BLACK)


def _counted(caption: Caption | None) -> tuple[list[str], str]:
    """How long a caption is, and the colour to say it in: a text that fills all places is cut, but
    for the rare one that fits exactly."""
    if caption is None:
        return ["no caption"], GREY
    told = f"{caption.tokens} of {caption.of} tokens"
    return ([f"{told}: cut?"], RED) if caption.tokens >= caption.of else ([told], GREY)


def _caption_lines(place: Place) -> list[str]:
    return _lines(place.view.caption.text, place.width) if place.view.caption else []


def _lines(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width // LETTER)


def _paste(page: Figure, left: int, top: int, pixels: Pixels) -> None:
    """Pixels onto pixels, with the upper left corner at (left, top)."""
    bottom = int(page.bbox.height) - top - pixels.shape[0]
    page.figimage(np.ascontiguousarray(pixels), left, bottom, origin="upper")


def _write(page: Figure, left: int, top: int, lines: Sequence[str], colour: str) -> None:
    """Lines of text below each other; a dollar is a dollar."""
    for number, line in enumerate(lines):
        page.text(
            left / page.bbox.width,
            1 - (top + LINE * number) / page.bbox.height,
            line,
            va="top",
            size=FONT_POINTS,
            family=MONOSPACE,
            color=colour,
            parse_math=False,
        )
