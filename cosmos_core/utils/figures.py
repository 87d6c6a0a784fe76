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
SPARE = 0.25  # pixels; without them Matplotlib would make 112 pixels of 1.13 inches


@contextmanager
def plain_style(style: Mapping[Any, Any] = MappingProxyType({})) -> Iterator[None]:
    """Use Matplotlib's default style in the block, and ignore the user's matplotlibrc.

    Log messages about fonts, and warnings of characters that the font lacks, are dropped.

    Args:
        style: Values of rcParams that differ from the defaults, such as {"font.size": 8}.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(dict(style))
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def new_page(width: int, height: int, colour: str = "white") -> Figure:
    """Return an empty Matplotlib figure.

    Args:
        width: The width in pixels.
        height: The height in pixels.
        colour: Matplotlib's name of the background colour.
    """
    from matplotlib.figure import Figure

    size_in_inches = (width + SPARE) / DPI, (height + SPARE) / DPI
    return Figure(figsize=size_in_inches, dpi=DPI, facecolor=colour)


def figure_to_png(page: Figure, *, colours: int | None = None) -> bytes:
    """Return the content of a PNG file with a figure.

    Args:
        page: The figure.
        colours: To how many colours the image is reduced, at most 256, or None to keep all. A line
            drawing in 256 colours takes a third of the bytes and looks the same.
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
