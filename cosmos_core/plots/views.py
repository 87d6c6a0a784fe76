"""Draw the views of a batch: one row of views per sample, each with a caption view below it."""

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

Line = tuple[str, str]  # a line of text, and its colour
Decoder = Callable[[list[int]], str]
"""Token ids -> text; KeyError for an id that is not in the vocabulary."""

START, END = "<start_of_text>", "<end_of_text>"  # OpenCLIP's SimpleTokenizer

# Sizes in pixels of the picture.
READABLE = 192  # views are enlarged so that the largest have about this size
TEXT_COLUMN = 168  # the smallest width of a view's column, so that captions fit
PAGE_WIDTH = 1500  # samples are side by side up to this width
GAP = 16
LINE = 14  # the height of a line of text
LETTER = 7  # the width of a letter, rounded up
FONT_POINTS = 8
MONOSPACE = "DejaVu Sans Mono"  # comes with Matplotlib
BLACK, GREY, RED = "black", "dimgrey", "firebrick"
PAPER = "gainsboro"  # so that the border of a white view is visible


class Inverse(NamedTuple):
    """The values that turn normalised images and tokens back into images and texts."""

    mean: Sequence[float]  # of the images, on the 0-1 scale
    std: Sequence[float]  # of the images, on the 0-1 scale
    decode: Decoder


class Caption(NamedTuple):
    """The text of a caption view."""

    text: str
    tokens: int  # with those of start and end
    of: int  # the context length


class SampleView(NamedTuple):
    """An image view and the caption view of the same number; None if there are fewer of them."""

    name: str
    pixels: Pixels | None  # (H, W, 3)
    caption: Caption | None


def read_samples(
    views: Views, counts: ViewCounts, inverse: Inverse, *, most: int
) -> list[list[SampleView]]:
    """Return the views of at most `most` samples of a normalised batch: globals, then locals."""
    texts = views.texts[:, :most].tolist()
    global_images = denormalise(views.global_images[:, :most], inverse).numpy()
    local_images = denormalise(views.local_images[:, :most], inverse).numpy()
    samples = []
    for number in range(global_images.shape[1]):
        captions = [read_caption(token_ids[number], inverse.decode) for token_ids in texts]
        global_captions = captions[: counts.global_texts]
        local_captions = captions[counts.global_texts :]
        global_views = _pair_views("global", global_images[:, number], global_captions)
        local_views = _pair_views("local", local_images[:, number], local_captions)
        samples.append(global_views + local_views)
    return samples


def _pair_views(kind: str, images: Pixels, captions: Sequence[Caption]) -> list[SampleView]:
    """Pair image and caption views by their number, from 1; either may have more."""
    pairs = itertools.zip_longest(images, captions)
    return [
        SampleView(f"{kind} {number}", pixels, caption)
        for number, (pixels, caption) in enumerate(pairs, start=1)
    ]


def denormalise(images: Tensor, inverse: Inverse) -> Tensor:
    """Convert normalised images (..., 3, H, W) to uint8 (..., H, W, 3) on the CPU."""
    mean = torch.tensor(inverse.mean)[:, None, None]
    std = torch.tensor(inverse.std)[:, None, None]
    levels = (images.detach().float().cpu() * std + mean) * 255
    return levels.round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)


def read_caption(ids: Sequence[int], decode: Decoder) -> Caption:
    """Return the text of zero-padded token ids, without start and end.

    If an id is not in the vocabulary, the text has all ids as numbers.
    """
    token_count = len(ids)
    while token_count and not ids[token_count - 1]:
        token_count -= 1
    tokens = list(ids[:token_count])
    try:
        text = decode(tokens)
    except KeyError:
        text = f"not in the vocabulary: {' '.join(str(token) for token in tokens)}"
    if text.startswith(START) and text.endswith(END):
        text = text[len(START) : -len(END)]
    return Caption(text.strip(), token_count, len(ids))


def draw_views(samples: Sequence[Sequence[SampleView]], title: str) -> bytes:
    """Draw samples, at least one, all with the same kinds of views; return a PNG."""
    with plain_style():
        return png(lay_out(samples, title))


def lay_out(samples: Sequence[Sequence[SampleView]], title: str) -> Figure:
    """Return a figure of samples side by side; all views are enlarged by the same factor."""
    view_sizes = [0 if view.pixels is None else len(view.pixels) for view in samples[0]]
    factor = max(1, round(READABLE / (max(view_sizes) or 1)))
    widths = [max(TEXT_COLUMN, size * factor) for size in view_sizes]
    lefts = []
    sample_width = GAP
    for width in widths:
        lefts.append(sample_width)
        sample_width += width + GAP
    columns = max(1, min(len(samples), PAGE_WIDTH // sample_width))
    page_width = columns * sample_width
    heading = _lines(_heading(samples[0], title, factor), page_width - 2 * GAP, BLACK)

    rows = [samples[start : start + columns] for start in range(0, len(samples), columns)]
    tops = []
    page_height = 2 * GAP + LINE * len(heading)
    for row in rows:
        tops.append(page_height)
        page_height += max(_height(sample, widths, factor) for sample in row)

    page = new_page(page_width, page_height, PAPER)
    _write(page, GAP, GAP, heading)
    for row, top in zip(rows, tops, strict=True):
        for number, sample in enumerate(row):
            for view, left, width in zip(sample, lefts, widths, strict=True):
                _draw_view(page, view, factor, number * sample_width + left, top, width)
    return page


def _heading(sample: Sequence[SampleView], title: str, factor: int) -> str:
    """Return the title, and the sizes of the views in pixels."""
    sizes = {}
    for view in sample:
        if view.pixels is not None:
            kind = view.name.split()[0]
            sizes[kind] = len(view.pixels)
    heading = f"{title}; " + ", ".join(f"{kind} views {size} px" for kind, size in sizes.items())
    if factor > 1:
        heading += f", drawn {factor} times as large"
    return heading


def _height(sample: Sequence[SampleView], widths: Sequence[int], factor: int) -> int:
    """Return the height of a sample: the height of its highest view with name and caption."""
    heights = []
    for view, width in zip(sample, widths, strict=True):
        image_height = LINE if view.pixels is None else len(view.pixels) * factor
        caption_lines = _caption_lines(view, width)
        heights.append(image_height + LINE * (1 + len(caption_lines)))
    return 2 * GAP + max(heights)


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
    """Return the number of tokens of a view's caption, and its text, wrapped to a width."""
    if view.caption is None:
        return [("no caption", GREY)]
    text, tokens, context_length = view.caption
    count_line = (f"{tokens} of {context_length} tokens", GREY)
    if tokens >= context_length:
        # Such a text was cut, unless it fits exactly, which is rare.
        count_line = (f"{tokens} of {context_length} tokens: cut?", RED)
    return [count_line, *_lines(text, width, BLACK)]


def _lines(text: str, width: int, colour: str) -> list[Line]:
    """Wrap a text to a width in pixels."""
    return [(line, colour) for line in textwrap.wrap(text, width // LETTER)]


def _write(page: Figure, left: int, top: int, lines: Sequence[Line]) -> None:
    """Write lines of text whose upper left corner is at pixel (left, top)."""
    for number, (line, colour) in enumerate(lines):
        x, y = left / page.bbox.width, 1 - (top + LINE * number) / page.bbox.height
        font: dict[str, Any] = {"size": FONT_POINTS, "family": MONOSPACE, "color": colour}
        page.text(x, y, line, va="top", parse_math=False, **font)
