"""The views of a batch as a picture: one row per sample, every view with its caption below."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cosmos_core.types import ViewCounts, Views
from cosmos_core.utils.figures import new_page, plain_style, png
from cosmos_core.views import Pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Line = tuple[str, str]  # of text, and its colour
Decoder = Callable[[list[int]], str]
"""Token ids -> text; KeyError for an id that is not in the vocabulary."""

START, END = "<start_of_text>", "<end_of_text>"  # OpenCLIP's SimpleTokenizer

# In pixels of the picture.
READABLE = 192  # smaller global views are drawn enlarged, each pixel as a square
TEXT_COLUMN = 168  # the smallest width of a view's column, for its caption
PAGE_WIDTH = 1500  # samples are side by side as long as they fit
GAP = 16
LINE = 14
LETTER = 7  # the width of a letter in the font below, rounded up
FONT_POINTS = 8
MONOSPACE = "DejaVu Sans Mono"  # comes with Matplotlib
BLACK, GREY, RED = "black", "dimgrey", "firebrick"
PAPER = "gainsboro"  # so that the border of a white view is visible


class Inverse(NamedTuple):
    """How to invert a batch: `mean` and `std` on the 0-1 scale, and the tokenizer's decoder."""

    mean: Sequence[float]
    std: Sequence[float]
    decode: Decoder


class Caption(NamedTuple):
    """The text of a caption view, and its number of tokens, ends included, `of` the context's."""

    text: str
    tokens: int
    of: int


class SampleView(NamedTuple):
    """A view of the image (H, W, 3) and the caption of its number, None where there are fewer."""

    name: str
    pixels: Pixels | None
    caption: Caption | None


def read_samples(
    views: Views, counts: ViewCounts, inverse: Inverse, *, most: int
) -> list[list[SampleView]]:
    """Return the views of at most `most` samples of a normalised batch: globals, then locals."""
    texts, first = views.texts[:, :most].tolist(), counts.global_texts
    images = [denormalise(pixels[:, :most], inverse).numpy() for pixels in views[:2]]
    samples = []
    for number in range(images[0].shape[1]):
        captions = [read_caption(ids[number], inverse.decode) for ids in texts]
        kinds = zip(("global", "local"), images, (captions[:first], captions[first:]), strict=True)
        sample = []
        for kind, stack, own in kinds:
            pairs = enumerate(itertools.zip_longest(stack[:, number], own), start=1)
            sample += [SampleView(f"{kind} {view}", *pair) for view, pair in pairs]
        samples.append(sample)
    return samples


def denormalise(images: Tensor, inverse: Inverse) -> Tensor:
    """Convert normalised images (..., 3, H, W) to uint8 (..., H, W, 3) on the CPU."""
    mean, std = (torch.tensor(values)[:, None, None] for values in inverse[:2])
    levels = (images.detach().float().cpu() * std + mean) * 255
    return levels.round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)


def read_caption(ids: Sequence[int], decode: Decoder) -> Caption:
    """Return the text of zero-padded token ids, without start and end; unknown ids as numbers."""
    used = max((index + 1 for index, token in enumerate(ids) if token), default=0)
    try:
        text = decode(list(ids[:used]))
    except KeyError:
        text = f"not in the vocabulary: {' '.join(map(str, ids[:used]))}"
    if text.startswith(START) and text.endswith(END):
        text = text[len(START) : -len(END)]
    return Caption(text.strip(), used, len(ids))


def draw_views(samples: Sequence[Sequence[SampleView]], title: str) -> bytes:
    """Draw samples, at least one, all with the same kinds of views; return a PNG."""
    with plain_style():
        return png(lay_out(samples, title))


def lay_out(samples: Sequence[Sequence[SampleView]], title: str) -> Figure:
    """Return a figure of samples side by side, all views enlarged by the same whole factor."""
    sizes = [0 if view.pixels is None else len(view.pixels) for view in samples[0]]
    factor = max(1, round(READABLE / (max(sizes) or 1)))
    widths = [max(TEXT_COLUMN, size * factor) for size in sizes]
    *lefts, sample_width = itertools.accumulate((width + GAP for width in widths), initial=GAP)
    columns = max(1, min(len(samples), PAGE_WIDTH // sample_width))
    heading = _lines(_heading(samples[0], title, factor), columns * sample_width - 2 * GAP, BLACK)
    rows = [samples[start : start + columns] for start in range(0, len(samples), columns)]
    heights = [max(_height(sample, widths, factor) for sample in row) for row in rows]
    tops = list(itertools.accumulate(heights, initial=2 * GAP + LINE * len(heading)))
    page = new_page(columns * sample_width, tops[-1], PAPER)
    _write(page, GAP, GAP, heading)
    for row, top in zip(rows, tops, strict=False):
        for number, sample in enumerate(row):
            for view, left, width in zip(sample, lefts, widths, strict=True):
                _draw_view(page, view, factor, number * sample_width + left, top, width)
    return page


def _heading(sample: Sequence[SampleView], title: str, factor: int) -> str:
    """Return the title, and the sizes of the views in pixels."""
    sizes = {v.name.split()[0]: v.pixels.shape[0] for v in sample if v.pixels is not None}
    views = ", ".join(f"{kind} views {size} px" for kind, size in sizes.items())
    return f"{title}; {views}" + (f", drawn {factor} times as large" if factor > 1 else "")


def _height(sample: Sequence[SampleView], widths: Sequence[int], factor: int) -> int:
    images = (LINE if view.pixels is None else len(view.pixels) * factor for view in sample)
    captions = map(_caption_lines, sample, widths)
    pairs = zip(images, captions, strict=True)
    return 2 * GAP + max(image + LINE * (1 + len(caption)) for image, caption in pairs)


def _draw_view(page: Figure, view: SampleView, factor: int, x: int, y: int, width: int) -> None:
    """Draw a view below its name and above its caption."""
    _write(page, x, y, [(view.name, GREY)])
    y += LINE + 2
    if view.pixels is None:
        _write(page, x, y, [("no image view", GREY)])
        y += LINE
    else:
        pixels = np.ascontiguousarray(view.pixels.repeat(factor, 0).repeat(factor, 1))
        y += len(pixels)
        page.figimage(pixels, x, int(page.bbox.height) - y, origin="upper")
    _write(page, x, y + 4, _caption_lines(view, width))


def _caption_lines(view: SampleView, width: int) -> list[Line]:
    if view.caption is None:
        return [("no caption", GREY)]
    text, tokens, most = view.caption
    # A text that fills the context was cut, but for the rare one that fits exactly.
    cut, colour = (": cut?", RED) if tokens >= most else ("", GREY)
    return [(f"{tokens} of {most} tokens{cut}", colour), *_lines(text, width, BLACK)]


def _lines(text: str, width: int, colour: str) -> list[Line]:
    return [(line, colour) for line in textwrap.wrap(text, width // LETTER)]


def _write(page: Figure, left: int, top: int, lines: Sequence[Line]) -> None:
    for number, (line, colour) in enumerate(lines):
        x, y = left / page.bbox.width, 1 - (top + LINE * number) / page.bbox.height
        font: dict[str, Any] = {"size": FONT_POINTS, "family": MONOSPACE, "color": colour}
        page.text(x, y, line, va="top", parse_math=False, **font)
