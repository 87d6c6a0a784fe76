"""The words and tables that describe maps and captions, the same in every form of output."""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosmos_eval.models.maps import LONGEST, SIMILARITY, VALUES
from cosmos_eval.report.attention.compute import CaptionShares, Level, Look, Row, View

FAMILY = "DejaVu Sans"
"""The font of pictures. It comes with Matplotlib, so it is the same everywhere."""
TITLE = "What the models look at"
LEVEL_NAMES: dict[Level, str] = {
    "low": "low: below 1/3",
    "middle": "middle",
    "high": "high: from 2/3 on",
}
_MAPS = (
    "Maps: each from its least value (0) to its largest (1), linear between the centres of patches."
)
_WORDS = (
    "Words: share of the cross-attention of the image over the caption, a word's tokens summed; "
    "from the least of the caption (0) to the largest (1), in thirds."
)
_SUBSTITUTE = "text-to-patch similarity (this model has no cross-attention)"
_LONGEST = 40  # characters of a text in a table, and of a word in a sentence


def printable(text: str) -> str:
    """Return a text in one line, with U+FFFD for what XML or UTF-8 cannot hold."""
    # Control characters, surrogates, and the last two code points of each plane.
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(one) in ("Cc", "Cs") or ord(one) & 0xFFFE == 0xFFFE
        else one
        for one in " ".join(text.split())
    )


def title(look: Look) -> str:
    """Name what a map shows, and whether it stands in for the cross-attention of other models."""
    return _SUBSTITUTE if look.kind == look.usual == SIMILARITY else look.kind


def percent(share: float) -> str:
    """Format a share of the attention."""
    return f"{100 * share:.1f}%"


def value_text(look: Look, value: float) -> str:
    """Format a value of a map: a share of the weight, log ratio, dot product or cosine."""
    if look.kind == "cross-attention":
        return percent(value)
    return f"{round(value, 3) + 0.0:.3f}"  # never -0.000


def alt_text(row: Row, look: Look, view: View) -> str:
    """Describe a map for readers who do not see it."""
    value, x, y = view.peak(row.size)
    head = f", {view.head}" if view.head else ""
    return (
        f"{title(look)} of “{printable(row.text)}” over {printable(row.name)} by "
        f"{printable(look.info.spec)}{head}: most, {value_text(look, value)}, at x {x}, y {y}"
    )


def range_line(look: Look, view: View) -> str:
    """State the values behind 0 and 1 of a map, and that of every patch if all were equal."""
    low, high = (value_text(look, float(end)) for end in (view.map.min(), view.map.max()))
    if look.kind != "cross-attention":
        unit = {SIMILARITY: "cosine", VALUES: "dot product"}.get(look.kind, "log ratio")
        return f"{unit} {low} to {high}"
    return f"{low} to {high} a patch, even: {percent(1 / view.map.size)}"


def padding_line(caption: CaptionShares) -> str:
    """State the attention that no word has, and what is cut off."""
    shares = (
        f"padding got {percent(caption.padding)} of the weight, "
        f"the start of text {percent(caption.start)}, its end {percent(caption.end)}, not drawn"
    )
    return f"{shares}. {cut_line(caption)}" if caption.tokens > caption.context else shares


def cut_line(caption: CaptionShares) -> str:
    """State which words of a caption the model does not read."""
    unread = len(caption.unread.split())
    last = printable(caption.words[-1].text)
    parts = [f"“{last[:_LONGEST]}” is read in part"] if caption.last_word_in_part else []
    if unread:
        words = "the last word is" if unread == 1 else f"the last {unread} words are"
        parts.append(f"{words} not read")
    return (
        f"The text has {caption.tokens} tokens and is cut to {caption.context}: {', '.join(parts)}"
    )


def has_words(looks: Sequence[Look]) -> bool:
    """Whether any look weighs the words of its text."""
    return any(view.caption for look in looks for view in look.views)


def footer(rows: Sequence[Row]) -> list[str]:
    """Return the lines that explain a sheet: its colours, and each model."""
    looks = [look for row in rows for look in row.looks]
    lines = [_MAPS, _WORDS] if has_words(looks) else [_MAPS]
    if any(max(row.size) > LONGEST * min(row.size) for row in rows):
        lines.append(f"Images more than {LONGEST} times as long as wide are squeezed to that.")
    return [*lines, *dict.fromkeys(_model_line(look) for look in looks)]


def _model_line(look: Look) -> str:
    info = look.info
    weights = "random weights" if info.random else f"weights {(info.weights_sha256 or '')[:12]}"
    parts = [info.spec, weights, *([info.weights] if info.weights else []), info.precision]
    views = look.views
    heads = views[0].head if len(views) == 1 else f"each of {len(views)} heads"
    how = f" with the last block {look.attention}" if look.attention else heads and f", {heads}"
    return printable(f"{', '.join(parts)}: {look.kind}{how}")


def map_table(rows: Sequence[Row]) -> list[Mapping[str, str]]:
    """Return one record per map: its peak, and the attention that no word of the text has."""
    shown = [(row, look, view) for row in rows for look in row.looks for view in look.views]
    return [_map_record(row, look, view) for row, look, view in shown]


def _map_record(row: Row, look: Look, view: View) -> dict[str, str]:
    text, (value, x, y) = printable(row.text), view.peak(row.size)
    return {
        "image": printable(row.name),
        "text": text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…",
        "model": printable(look.info.spec),
        "map": title(look),
        "head": view.head,
        "most": value_text(look, value),
        "at x, y": f"{x}, {y}",
        **{
            name: percent(getattr(view.caption, name)) if view.caption else ""
            for name in ("padding", "start", "end")
        },
    }


def word_tables(row: Row) -> list[list[Mapping[str, str]]]:
    """Return one table per model that weighs words: one record per word, one column per head."""
    tables: list[list[Mapping[str, str]]] = []
    for look in row.looks:
        heads = [view.head for view in look.views]
        captions = [view.caption.words for view in look.views if view.caption]
        name = f"word, as {look.info.spec} weighs it"
        tables.append(
            [
                {name: printable(words[0].text)}
                | {head: percent(word.share) for head, word in zip(heads, words, strict=True)}
                for words in zip(*captions, strict=True)
            ]
        )
    return [table for table in tables if table]


def notes(rows: Sequence[Row], out: Path) -> list[str]:
    """Return one line per caption that is cut, and one on characters that a PNG cannot show."""
    # All heads read the same words.
    captions = [(row, look.info, look.views[0].caption) for row in rows for look in row.looks]
    lines = [
        f"{printable(row.name)}, {info.spec}: {cut_line(caption)}"
        for row, info, caption in captions
        if caption and caption.tokens > caption.context
    ]
    missing = _missing_glyphs("".join(printable(row.text + row.name) for row in rows))
    if missing and out.suffix.lower() == ".png":
        lines.append(f"{FAMILY} of the PNG has no {missing}; .svg and .html use the viewer's fonts")
    return lines


def _missing_glyphs(text: str) -> str:
    from matplotlib.font_manager import findfont, get_font

    glyphs = get_font(findfont(FAMILY)).get_charmap()
    return "".join(dict.fromkeys(c for c in text if not c.isspace() and ord(c) not in glyphs))


def to_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return every number of a picture for JSON: rows with their looks with their heads."""
    return [
        {
            "image": row.name,
            "text": row.text,
            "width": row.size[0],
            "height": row.size[1],
            "looks": [_look_record(row, look) for look in row.looks],
        }
        for row in rows
    ]


def _look_record(row: Row, look: Look) -> dict[str, Any]:
    names = ("architecture", "weights", "weights_sha256", "precision", "device")
    return {
        "model": look.info.spec,
        **{name: getattr(look.info, name) for name in names},
        "kind": look.kind,
        "shown_as": title(look),
        "attention": look.attention,
        "heads": [
            {
                "head": view.head or None,
                "map": view.map.tolist(),
                "peak": dict(zip(("value", "x", "y"), view.peak(row.size), strict=True)),
                "caption": view.caption and _caption_record(view.caption),
            }
            for view in look.views
        ],
    }


def _caption_record(caption: CaptionShares) -> dict[str, Any]:
    words = [{**word._asdict(), "level": word.level} for word in caption.words]
    return {**caption._asdict(), "words": words}
