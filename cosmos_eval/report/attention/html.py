"""Attention maps and captions as one web page that needs no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cosmos_eval.report.attention.figure import LEVELS, OPACITY, PLAIN, colour_map, coloured
from cosmos_eval.report.attention.records import Row, View
from cosmos_eval.report.attention.text import (
    LEVEL_NAMES,
    TITLE,
    alt_text,
    footer,
    has_words,
    padding_line,
    percent,
    printable,
    range_line,
    title,
)
from cosmos_eval.results.text import html_templates


def to_html(rows: Sequence[Row]) -> bytes:
    """Return a page with a slider for the opacity of maps and, if there are several, all heads."""
    environment = html_templates("cosmos_eval.report.attention")
    environment.filters |= {"percent": percent, "printable": printable, "padding": padding_line}
    environment.globals |= {"title_of": title, "range_line": range_line, "alt_text": alt_text}
    environment.globals |= {"data_uri": _data_uri, "map_uri": _map_uri}
    looks = [look for row in rows for look in row.looks]
    several = [look for look in looks if len(look.views) > 1]
    steps = colour_map()(np.arange(0, 256, 15), bytes=True)
    page = environment.get_template("page.html").render(
        title=TITLE,
        kinds=list(dict.fromkeys(title(look) for look in looks)),
        levels=[*LEVELS.items(), ("plain", PLAIN)],
        level_names=LEVEL_NAMES.items(),
        weighs_words=has_words(looks),
        heads=list(dict.fromkeys(view.head for look in several for view in look.views)),
        gradient=", ".join("#{:02x}{:02x}{:02x}".format(*rgb) for rgb in steps),
        opacity=round(100 * OPACITY),
        panel=20 if len(rows[0].looks) < 3 else 14,
        rows=rows,
        footer=footer(rows),
    )
    return page.encode()


def _map_uri(row: Row, view: View) -> str:
    # Half the size of the picture: a map has no detail that would be lost.
    width, height = ((side + 1) // 2 for side in row.picture.size)
    return _data_uri(coloured(view, (width, height)))


def _data_uri(image: Image.Image) -> str:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
