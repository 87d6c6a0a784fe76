"""A picture as PNG, three of its pixels for two of the SVG."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw

from cosmos_eval.report.attention.fonts import font
from cosmos_eval.report.attention.marks import Block, Box, Raster, Text
from cosmos_eval.types import UsageError

_SCALE = 1.5
# From here on PIL, like other programs, takes a picture for an attack and warns.
_MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485


def to_png(page: Block) -> bytes:
    """Raises UsageError where the picture would be too large to be opened elsewhere."""
    width, height = (round(_SCALE * side) for side in (page.width, page.height))
    if width * height > _MOST_PIXELS:
        raise UsageError(
            f"the picture would have {width} x {height} pixels, more than programs open: take "
            "fewer rows, or a name that ends with .html"
        )
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for mark in page.marks:
        if isinstance(mark, Text):
            place = (_SCALE * mark.x, _SCALE * mark.y)
            face = font(_SCALE * mark.size, mark.bold)
            draw.text(place, mark.text, mark.colour, face, anchor="ls")
        elif isinstance(mark, Box):
            left, top, right, bottom = _corners(mark)
            radius = min(4 * _SCALE, (bottom - top) / 2)
            draw.rounded_rectangle((left, top, right - 1, bottom - 1), radius, mark.colour)
        else:
            left, top, right, bottom = _corners(mark)
            size = (max(right - left, 1), max(bottom - top, 1))
            image.paste(mark.image.resize(size, Image.Resampling.LANCZOS), (left, top))
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def _corners(mark: Box | Raster) -> tuple[int, int, int, int]:
    left, top, right, bottom = (
        round(_SCALE * edge) for edge in (mark.x, mark.y, mark.x + mark.width, mark.y + mark.height)
    )
    return left, top, right, bottom
