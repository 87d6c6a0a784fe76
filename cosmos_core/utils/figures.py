"""Figures drawn by Matplotlib, which is imported when one is drawn, without pyplot."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
SPARE = 0.25  # pixels, without which Matplotlib makes 112 pixels of 1.13 inches


@contextmanager
def plain_style(style: Mapping[Any, Any] = MappingProxyType({})) -> Iterator[None]:
    """Use Matplotlib's defaults and `style` in the block, and ignore a user's matplotlibrc.

    Log messages about fonts, and warnings of characters that the font lacks, are dropped.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(dict(style))
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def new_page(width: int, height: int, colour: str = "white") -> Figure:
    """Return an empty figure of `width` x `height` pixels."""
    from matplotlib.figure import Figure

    size = (width + SPARE) / DPI, (height + SPARE) / DPI
    return Figure(figsize=size, dpi=DPI, facecolor=colour)


def png(page: Figure, *, colours: int | None = None) -> bytes:
    """Return a figure as a PNG file, with at most so many `colours`, up to 256, or with all.

    A line drawing in 256 colours takes a third of the bytes and looks the same.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(page)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if colours is not None:
        image = image.quantize(colours, dither=Image.Dither.NONE)
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()
