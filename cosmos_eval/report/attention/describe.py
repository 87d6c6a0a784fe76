"""Describe maps and captions in words and tables, the same in every form of output."""

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
    """Return a text in one line, with U+FFFD for characters that XML or UTF-8 cannot hold."""
    line = " ".join(text.split())
    return "".join(
        character if _is_printable(character) else "\N{REPLACEMENT CHARACTER}" for character in line
    )


def _is_printable(character: str) -> bool:
    """Return False for control characters, surrogates, and the last two code points of a plane."""
    if unicodedata.category(character) in ("Cc", "Cs"):
        return False
    return ord(character) & 0xFFFE != 0xFFFE


def title(look: Look) -> str:
    """Return the kind of a map, with a remark if the model has no cross-attention."""
    return _SUBSTITUTE if look.kind == look.usual == SIMILARITY else look.kind


def percent(share: float) -> str:
    """Format a share of the attention."""
    return f"{100 * share:.1f}%"


def value_text(look: Look, value: float) -> str:
    """Format a value of a map, in percent for shares of cross-attention."""
    if look.kind == "cross-attention":
        return percent(value)
    return f"{round(value, 3) + 0.0:.3f}"  # adding 0.0 turns -0.000 into 0.000


def alt_text(row: Row, look: Look, view: View) -> str:
    """Describe a map for screen readers."""
    value, x, y = view.peak(row.size)
    head = f", {view.head}" if view.head else ""
    return (
        f"{title(look)} of “{printable(row.text)}” over {printable(row.name)} by "
        f"{printable(look.info.spec)}{head}: most, {value_text(look, value)}, at x {x}, y {y}"
    )


def range_line(look: Look, view: View) -> str:
    """Return a line with the least and the largest value of a map, the ends of its colours.

    For cross-attention it also has the value of a patch if all patches had the same value.
    """
    low = value_text(look, float(view.map.min()))
    high = value_text(look, float(view.map.max()))
    if look.kind == "cross-attention":
        return f"{low} to {high} a patch, even: {percent(1 / view.map.size)}"
    units = {SIMILARITY: "cosine", VALUES: "dot product"}
    return f"{units.get(look.kind, 'log ratio')} {low} to {high}"


def padding_line(caption: CaptionShares) -> str:
    """Return a line on the attention outside of words, and on the words that are cut off."""
    line = (
        f"padding got {percent(caption.padding)} of the weight, "
        f"the start of text {percent(caption.start)}, its end {percent(caption.end)}, not drawn"
    )
    if caption.tokens > caption.context:
        line += f". {cut_line(caption)}"
    return line


def cut_line(caption: CaptionShares) -> str:
    """Return a line on the words of a caption that the model does not read."""
    clauses = []
    if caption.last_word_in_part:
        last_word = printable(caption.words[-1].text)
        clauses.append(f"“{last_word[:_LONGEST]}” is read in part")
    n_unread = len(caption.unread.split())
    if n_unread == 1:
        clauses.append("the last word is not read")
    elif n_unread > 1:
        clauses.append(f"the last {n_unread} words are not read")
    return (
        f"The text has {caption.tokens} tokens and is cut to {caption.context}: "
        f"{', '.join(clauses)}"
    )


def has_words(looks: Sequence[Look]) -> bool:
    """Return whether any look weighs the words of its text."""
    return any(view.caption for look in looks for view in look.views)


def footer(rows: Sequence[Row]) -> list[str]:
    """Return the lines that explain a picture: its colours, and each model."""
    looks = [look for row in rows for look in row.looks]
    lines = [_MAPS]
    if has_words(looks):
        lines.append(_WORDS)
    if any(max(row.size) > LONGEST * min(row.size) for row in rows):
        lines.append(f"Images more than {LONGEST} times as long as wide are squeezed to that.")
    model_lines = dict.fromkeys(_model_line(look) for look in looks)
    return [*lines, *model_lines]


def _model_line(look: Look) -> str:
    """Return a line with a model's weights and precision, and the kind and heads of its map."""
    info = look.info
    facts = [info.spec]
    facts.append("random weights" if info.random else f"weights {(info.weights_sha256 or '')[:12]}")
    if info.weights:
        facts.append(info.weights)
    facts.append(info.precision)
    heads = look.views[0].head
    if len(look.views) > 1:
        heads = f"each of {len(look.views)} heads"
    kind: str = look.kind
    if look.attention:
        kind += f" with the last block {look.attention}"
    elif heads:
        kind += f", {heads}"
    return printable(f"{', '.join(facts)}: {kind}")


def map_table(rows: Sequence[Row]) -> list[Mapping[str, str]]:
    """Return one record per map: its peak, and the attention outside of words."""
    records = []
    for row in rows:
        for look in row.looks:
            for view in look.views:
                records.append(_map_record(row, look, view))
    return records


def _map_record(row: Row, look: Look, view: View) -> Mapping[str, str]:
    """Return a map as a row of a table, by column title."""
    text = printable(row.text)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 1]}…"
    value, x, y = view.peak(row.size)
    caption = view.caption
    return {
        "image": printable(row.name),
        "text": text,
        "model": printable(look.info.spec),
        "map": title(look),
        "head": view.head,
        "most": value_text(look, value),
        "at x, y": f"{x}, {y}",
        "padding": percent(caption.padding) if caption else "",
        "start": percent(caption.start) if caption else "",
        "end": percent(caption.end) if caption else "",
    }


def word_tables(row: Row) -> list[list[Mapping[str, str]]]:
    """Return one table per model that weighs words: one record per word, one column per head."""
    tables = []
    for look in row.looks:
        table = _word_table(look)
        if table:
            tables.append(table)
    return tables


def _word_table(look: Look) -> list[Mapping[str, str]]:
    """Return the shares of words, a column per head; empty if the model does not weigh words."""
    word_title = f"word, as {look.info.spec} weighs it"
    captions = [(view.head, view.caption) for view in look.views if view.caption]
    if not captions:
        return []
    _, first_caption = captions[0]
    records: list[Mapping[str, str]] = []
    # All heads read the same words.
    for index, word in enumerate(first_caption.words):
        record = {word_title: printable(word.text)}
        for head, caption in captions:
            record[head] = percent(caption.words[index].share)
        records.append(record)
    return records


def notes(rows: Sequence[Row], out: Path) -> list[str]:
    """Return one line per caption that is cut, and one on characters that a PNG cannot show."""
    lines = []
    for row in rows:
        for look in row.looks:
            caption = look.views[0].caption  # all heads read the same words
            if caption and caption.tokens > caption.context:
                lines.append(f"{printable(row.name)}, {look.info.spec}: {cut_line(caption)}")
    missing = _missing_glyphs("".join(printable(row.text + row.name) for row in rows))
    if missing and out.suffix.lower() == ".png":
        lines.append(f"{FAMILY} of the PNG has no {missing}; .svg and .html use the viewer's fonts")
    return lines


def _missing_glyphs(text: str) -> str:
    """Return the characters of a text that the font of pictures lacks, each once."""
    from matplotlib.font_manager import findfont, get_font

    glyphs = get_font(findfont(FAMILY)).get_charmap()
    characters = dict.fromkeys(text)
    return "".join(
        character
        for character in characters
        if not character.isspace() and ord(character) not in glyphs
    )


def to_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return rows as JSON holds them: each row with its looks, and each look with its heads."""
    records = []
    for row in rows:
        width, height = row.size
        records.append(
            {
                "image": row.name,
                "text": row.text,
                "width": width,
                "height": height,
                "looks": [_look_record(row, look) for look in row.looks],
            }
        )
    return records


def _look_record(row: Row, look: Look) -> dict[str, Any]:
    """Return the maps of a model, and how they were computed, for JSON."""
    info = look.info
    return {
        "model": info.spec,
        "architecture": info.architecture,
        "weights": info.weights,
        "weights_sha256": info.weights_sha256,
        "precision": info.precision,
        "device": info.device,
        "kind": look.kind,
        "shown_as": title(look),
        "attention": look.attention,
        "heads": [_head_record(row, view) for view in look.views],
    }


def _head_record(row: Row, view: View) -> dict[str, Any]:
    """Return the map and the caption of a head for JSON."""
    value, x, y = view.peak(row.size)
    return {
        "head": view.head or None,
        "map": view.map.tolist(),
        "peak": {"value": value, "x": x, "y": y},
        "caption": _caption_record(view.caption) if view.caption else None,
    }


def _caption_record(caption: CaptionShares) -> dict[str, Any]:
    """Return the shares of a caption for JSON."""
    record = caption._asdict()
    record["words"] = [word._asdict() | {"level": word.level} for word in caption.words]
    return record
