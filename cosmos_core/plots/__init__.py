"""Pictures of a training run, as the bytes of PNG files.

`samples` and `series` take a batch and a log apart, `views` and `curves` draw them, on a `page`.
Matplotlib is imported when something is drawn, and nothing of its pyplot.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
SPARE = 0.25  # pixels: of 1.13 inches, Matplotlib makes 112 otherwise


@contextmanager
def plain_style() -> Iterator[None]:
    """Matplotlib as it comes, whatever a user's matplotlibrc asks for, and without its chatter.

    It logs how it looks for fonts, and warns of letters that its font lacks and draws as boxes.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def new_page(width: int, height: int, colour: str = "white") -> Figure:
    """An empty sheet of so many pixels."""
    from matplotlib.figure import Figure

    size = (width + SPARE) / DPI, (height + SPARE) / DPI
    return Figure(figsize=size, dpi=DPI, facecolor=colour)


def png(page: Figure, *, colours: int | None = None) -> bytes:
    """The sheet as a PNG file: in all its colours, or in so many (at most 256) that are nearest.

    What is drawn with a few pens takes a third of the bytes in 256, and looks the same.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(page)
    canvas.draw()
    image = PIL.Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if colours is not None:
        image = image.quantize(colours, dither=PIL.Image.Dither.NONE)
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()
