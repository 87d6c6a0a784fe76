"""Rows as one web page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cosmos_eval.report.attention.colours import LEVELS, OPACITY, PLAIN, coloured, scale
from cosmos_eval.report.attention.embedded import data_uri
from cosmos_eval.report.attention.records import Look, Row, View
from cosmos_eval.report.attention.words import (
    LEVEL_NAMES,
    footer,
    has_words,
    padding_line,
    percent,
    printable,
    range_line,
    said,
    title,
)
from cosmos_eval.results.text import html_templates


def to_html(rows: Sequence[Row], name: str) -> str:
    """A page with a slider for the maps' opacity and, where there are several, a choice of head."""
    environment = html_templates("cosmos_eval.report.attention")
    environment.filters |= {"percent": percent, "printable": printable, "padding": padding_line}
    looks = [look for row in rows for look in row.looks]
    return environment.get_template("page.html").render(
        title=name,
        kinds=list(dict.fromkeys(title(look) for look in looks)),
        levels=[*LEVELS.items(), ("plain", PLAIN)],
        level_names=LEVEL_NAMES.items(),
        weighs_words=any(has_words(look) for look in looks),
        heads=_heads(looks),
        gradient=", ".join("#{:02x}{:02x}{:02x}".format(*rgb) for rgb in scale()[::15]),
        opacity=round(100 * OPACITY),
        panel=20 if len(rows[0].looks) < 3 else 14,
        rows=[_row(row) for row in rows],
        footer=footer(rows),
    )


def _heads(looks: Sequence[Look]) -> list[str]:
    """The heads that one can choose from; none where each look has one view."""
    several = [look for look in looks if len(look.views) > 1]
    return list(dict.fromkeys(view.head for look in several for view in look.views))


def _row(row: Row) -> dict[str, Any]:
    return {
        "name": printable(row.name),
        "text": printable(row.text),
        "size": row.size,
        "picture": data_uri(row.picture),
        "looks": [
            {
                "model": printable(look.info.spec),
                "title": title(look),
                "views": [_view(row, look, view) for view in look.views],
            }
            for look in row.looks
        ],
    }


def _view(row: Row, look: Look, view: View) -> dict[str, Any]:
    return {
        "head": view.head,
        "caption": view.caption,
        "colours": data_uri(coloured(view, _half(row.picture.size))),
        "range": range_line(look, view),
        "said": said(row, look, view),
    }


def _half(size: tuple[int, int]) -> tuple[int, int]:
    """Of a picture: a map has no detail that would be lost."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2
