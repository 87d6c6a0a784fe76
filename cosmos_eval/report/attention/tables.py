"""Rows as tables for the terminal, and what their reader must know beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cosmos_eval.report.attention.fonts import FAMILY, lacking
from cosmos_eval.report.attention.records import Look, Row, View
from cosmos_eval.report.attention.words import cut_line, percent, printable, title, value_text

_LONGEST = 40  # characters of a text in a table


def described(rows: Sequence[Row]) -> list[Mapping[str, str]]:
    """A record a map: what it is of, where it is largest, and what no word of the text got."""
    return [
        {
            "image": printable(row.name),
            "text": _shortened(printable(row.text)),
            "model": printable(look.info.spec),
            "map": title(look),
            "head": view.head,
            **_most(row, look, view),
            **_apart(view),
        }
        for row in rows
        for look in row.looks
        for view in look.views
    ]


def weighed(row: Row) -> list[list[Mapping[str, str]]]:
    """A table a model: a record a word, a column a head."""
    return [_table(look) for look in row.looks if look.views[0].caption]


def notes(rows: Sequence[Row], out: Path) -> list[str]:
    """What a picture does not show, a line each."""
    captions = {
        (printable(row.name), look.info.spec): view.caption
        for row in rows
        for look in row.looks
        for view in look.views
        if view.caption
    }
    cut = [
        f"{name}, {model}: {cut_line(caption)}"
        for (name, model), caption in captions.items()
        if caption.tokens > caption.context
    ]
    missing = lacking("".join(printable(row.text + row.name) for row in rows))
    if missing and out.suffix.lower() == ".png":
        cut.append(f"{FAMILY} of the PNG has no {missing}; .svg and .html use the viewer's fonts")
    return cut


def _most(row: Row, look: Look, view: View) -> dict[str, str]:
    peak = view.peak(row.size)
    return {"most": value_text(look, peak.value), "at x, y": f"{peak.x}, {peak.y}"}


def _apart(view: View) -> dict[str, str]:
    names, caption = ("padding", "start", "end"), view.caption
    if caption is None:
        return dict.fromkeys(names, "")
    return {name: percent(getattr(caption, name)) for name in names}


def _table(look: Look) -> list[Mapping[str, str]]:
    captions = [(view.head, view.caption) for view in look.views if view.caption]
    words = zip(*(caption.words for _, caption in captions), strict=True)
    return [
        {
            f"word, as {look.info.spec} weighs it": printable(of_heads[0].text),
            **{head: percent(w.share) for (head, _), w in zip(captions, of_heads, strict=True)},
        }
        for of_heads in words
    ]


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
