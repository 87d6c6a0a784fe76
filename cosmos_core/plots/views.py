"""Draw the views of a training batch: for each sample its image views, with captions below."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cosmos_core.types import ViewCounts, Views
from cosmos_core.utils.figures import figure_to_png, new_page, plain_style
from cosmos_core.views import Pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Line = tuple[str, str]  # a line of text, and its colour
Decoder = Callable[[list[int]], str]
"""Token ids -> text; KeyError for an id that is not in the vocabulary."""

START, END = "<start_of_text>", "<end_of_text>"  # OpenCLIP's SimpleTokenizer

# Sizes in pixels of the picture.
READABLE_SIZE = 192  # views are enlarged so that the largest have about this size
MIN_COLUMN_WIDTH = 168  # the smallest width of a view's column, so that captions fit
PAGE_WIDTH = 1500  # samples are side by side up to this width
GAP = 16
LINE_HEIGHT = 14  # of text
LETTER_WIDTH = 7  # rounded up
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
    n_tokens: int  # start and end included
    context_length: int  # the largest number of tokens


class SampleView(NamedTuple):
    """An image view of a sample, and the caption view of the same number.

    One of them is None if the sample has more views of the other kind.
    """

    name: str  # such as "global 1"
    pixels: Pixels | None  # (H, W, 3), uint8
    caption: Caption | None


def read_samples(
    views: Views, counts: ViewCounts, inverse: Inverse, *, most: int
) -> list[list[SampleView]]:
    """Return the views of the first samples of a batch, as images and texts to be drawn.

    Args:
        views: The batch, with normalised images and token ids.
        counts: How many global views there are.
        inverse: Turns normalised images and token ids back into pictures and texts.
        most: The largest number of samples to return.

    Returns:
        For each sample its global views, then its local ones.
    """
    texts = views.texts[:, :most].tolist()
    global_images = denormalise(views.global_images[:, :most], inverse).numpy()
    local_images = denormalise(views.local_images[:, :most], inverse).numpy()
    n_samples = global_images.shape[1]
    samples = []
    for number in range(n_samples):
        captions = [read_caption(token_ids[number], inverse.decode) for token_ids in texts]
        global_captions = captions[: counts.global_texts]
        local_captions = captions[counts.global_texts :]
        global_views = _pair_views("global", global_images[:, number], global_captions)
        local_views = _pair_views("local", local_images[:, number], local_captions)
        samples.append(global_views + local_views)
    return samples


def _pair_views(kind: str, images: Pixels, captions: Sequence[Caption]) -> list[SampleView]:
    """Pair the image views of a sample with its caption views, in order.

    If there are more images than captions, the last views have no caption, and the other way round.

    Args:
        kind: "global" or "local". With a number it is the name of a view, such as "global 1".
        images: The image views (V, H, W, 3).
        captions: The caption views.
    """
    pairs = itertools.zip_longest(images, captions)
    return [
        SampleView(f"{kind} {number}", pixels, caption)
        for number, (pixels, caption) in enumerate(pairs, start=1)
    ]


def denormalise(images: Tensor, inverse: Inverse) -> Tensor:
    """Convert normalised images to pictures on the CPU.

    Args:
        images: Normalised images (..., 3, H, W).
        inverse: The mean and the standard deviation with which they were normalised.

    Returns:
        The pictures (..., H, W, 3), uint8.
    """
    mean = torch.tensor(inverse.mean)[:, None, None]
    std = torch.tensor(inverse.std)[:, None, None]
    levels = (images.detach().float().cpu() * std + mean) * 255
    return levels.round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)


def read_caption(ids: Sequence[int], decode: Decoder) -> Caption:
    """Return the text of token ids, without the start and the end token.

    Args:
        ids: The token ids of a caption, padded with zeros.
        decode: Turns token ids into a text. It raises KeyError for an id that is not in the
            vocabulary. Then the text has all ids as numbers.
    """
    # Leave out the padding.
    n_tokens = len(ids)
    while n_tokens > 0 and ids[n_tokens - 1] == 0:
        n_tokens -= 1
    token_ids = list(ids[:n_tokens])
    try:
        text = decode(token_ids)
    except KeyError:
        numbers = " ".join(str(token_id) for token_id in token_ids)
        text = f"not in the vocabulary: {numbers}"
    if text.startswith(START) and text.endswith(END):
        text = text[len(START) : -len(END)]
    return Caption(text.strip(), n_tokens, context_length=len(ids))


def draw_views(samples: Sequence[Sequence[SampleView]], title: str) -> bytes:
    """Draw the views of one or more samples, and return a PNG file.

    Args:
        samples: The views of each sample. All samples have the same kinds of views.
        title: The title of the picture.
    """
    with plain_style():
        return figure_to_png(lay_out(samples, title))


def lay_out(samples: Sequence[Sequence[SampleView]], title: str) -> Figure:
    """Return a figure of samples below a title, as many side by side as fit.

    The views of a sample are side by side too. All views are enlarged by the same factor.

    Args:
        samples: The views of each sample. All samples have the same kinds of views.
        title: The title.
    """
    # Choose the factor, by the sides of the views in pixels. A view without an image has none.
    view_sizes = [0 if view.pixels is None else len(view.pixels) for view in samples[0]]
    largest_size = max(view_sizes) or 1  # 1 without image views
    factor = max(1, round(READABLE_SIZE / largest_size))

    # Find the left edge and the width of each view's column inside of a sample.
    widths = [max(MIN_COLUMN_WIDTH, size * factor) for size in view_sizes]
    lefts = []
    sample_width = GAP
    for width in widths:
        lefts.append(sample_width)
        sample_width += width + GAP

    # Divide the samples into rows, and find the upper edge of each row on the page.
    n_columns = max(1, min(len(samples), PAGE_WIDTH // sample_width))
    page_width = n_columns * sample_width
    heading = _wrap(_heading(samples[0], title, factor), page_width - 2 * GAP, BLACK)
    rows = [samples[start : start + n_columns] for start in range(0, len(samples), n_columns)]
    tops = []
    page_height = 2 * GAP + LINE_HEIGHT * len(heading)
    for row in rows:
        tops.append(page_height)
        page_height += max(_sample_height(sample, widths, factor) for sample in row)

    # Draw everything.
    page = new_page(page_width, page_height, PAPER)
    _write_lines(page, GAP, GAP, heading)
    for row, top in zip(rows, tops, strict=True):
        for column, sample in enumerate(row):
            sample_left = column * sample_width
            for view, left, width in zip(sample, lefts, widths, strict=True):
                _draw_view(page, view, factor, sample_left + left, top, width)
    return page


def _heading(sample: Sequence[SampleView], title: str, factor: int) -> str:
    """Return the title of a picture with the sizes of the views in pixels.

    Args:
        sample: The views of a sample.
        title: The title without the sizes.
        factor: How many times as large the views are drawn.

    Example:
        "step 10; global views 64 px, local views 32 px, drawn 3 times as large"
    """
    size_by_kind = {}
    for view in sample:
        if view.pixels is not None:
            kind = view.name.split()[0]  # "global" or "local"
            size_by_kind[kind] = len(view.pixels)
    sizes = ", ".join(f"{kind} views {size} px" for kind, size in size_by_kind.items())
    heading = f"{title}; {sizes}"
    if factor > 1:
        heading += f", drawn {factor} times as large"
    return heading


def _sample_height(sample: Sequence[SampleView], widths: Sequence[int], factor: int) -> int:
    """Return the height of a sample in pixels of the picture.

    It is the height of its highest view, with the lines of its name and its caption, and two gaps.

    Args:
        sample: The views of the sample.
        widths: The widths of the views' columns in pixels, to which captions are wrapped.
        factor: How many times as large the views are drawn.
    """
    heights = []
    for view, width in zip(sample, widths, strict=True):
        image_height = LINE_HEIGHT if view.pixels is None else len(view.pixels) * factor
        n_lines = 1 + len(_caption_lines(view, width))
        heights.append(image_height + LINE_HEIGHT * n_lines)
    return 2 * GAP + max(heights)


def _draw_view(page: Figure, view: SampleView, factor: int, x: int, y: int, width: int) -> None:
    """Draw a view's name, below it the enlarged image, and below that its caption.

    Args:
        page: The figure to draw on.
        view: The view.
        factor: How many times as large the image is drawn.
        x: The left edge in pixels from the left edge of the page.
        y: The upper edge in pixels from the upper edge of the page.
        width: The width of the column in pixels, to which the caption is wrapped.
    """
    _write_lines(page, x, y, [(view.name, GREY)])
    y += LINE_HEIGHT + 2
    if view.pixels is None:
        _write_lines(page, x, y, [("no image view", GREY)])
        y += LINE_HEIGHT
    else:
        # Repeat each pixel in both directions.
        enlarged = view.pixels.repeat(factor, 0).repeat(factor, 1)
        y += len(enlarged)
        # Matplotlib counts from the bottom of the page.
        distance_from_bottom = int(page.bbox.height) - y
        page.figimage(np.ascontiguousarray(enlarged), x, distance_from_bottom, origin="upper")
    _write_lines(page, x, y + 4, _caption_lines(view, width))


def _caption_lines(view: SampleView, width: int) -> list[Line]:
    """Return the lines below a view: its caption's number of tokens, and the wrapped caption.

    The number is red if the caption may have been cut to the context length.

    Args:
        view: The view.
        width: The width of a line in pixels.

    Returns:
        The text and the colour of each line.
    """
    if view.caption is None:
        return [("no caption", GREY)]
    text, n_tokens, context_length = view.caption
    count_line = (f"{n_tokens} of {context_length} tokens", GREY)
    if n_tokens >= context_length:
        # Such a text was cut, unless it fits exactly, which is rare.
        count_line = (f"{n_tokens} of {context_length} tokens: cut?", RED)
    return [count_line, *_wrap(text, width, BLACK)]


def _wrap(text: str, width: int, colour: str) -> list[Line]:
    """Return the lines of a text that is wrapped to a width in pixels, with their colour."""
    return [(line, colour) for line in textwrap.wrap(text, width // LETTER_WIDTH)]


def _write_lines(page: Figure, left: int, top: int, lines: Sequence[Line]) -> None:
    """Write lines of text below each other.

    Args:
        page: The figure to write on.
        left: The left edge of the lines in pixels from the left edge of the page.
        top: The upper edge of the first line in pixels from the upper edge of the page.
        lines: The text and the colour of each line.
    """
    for line_number, (line, colour) in enumerate(lines):
        # Matplotlib takes fractions of the page, and counts from the bottom.
        line_top = top + LINE_HEIGHT * line_number
        x = left / page.bbox.width
        y = 1 - line_top / page.bbox.height
        font: dict[str, Any] = {"size": FONT_POINTS, "family": MONOSPACE, "color": colour}
        page.text(x, y, line, va="top", parse_math=False, **font)
