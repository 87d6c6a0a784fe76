"""Describe maps and captions in words and tables, the same in every form of output."""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cosmos_eval.models.maps import LONGEST, SIMILARITY, VALUES
from cosmos_eval.reporting.attention.compute import CaptionShares, Level, Look, Row, View
from cosmos_eval.results.text import rounded

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
    """Return a text in one line, with U+FFFD for characters that XML or UTF-8 cannot hold.

    These are control characters, surrogates, and the last two code points of each plane of Unicode.
    For example, "a\\n  b\\x00" becomes "a b\\ufffd".
    """
    line = " ".join(text.split())
    characters = []
    for character in line:
        is_control_or_surrogate = unicodedata.category(character) in ("Cc", "Cs")
        is_end_of_plane = ord(character) & 0xFFFE == 0xFFFE  # U+FFFE, U+FFFF, U+1FFFE and so on
        if is_control_or_surrogate or is_end_of_plane:
            characters.append("\N{REPLACEMENT CHARACTER}")
        else:
            characters.append(character)
    return "".join(characters)


def title(look: Look) -> str:
    """Return the title of a model's maps: their kind, such as "cross-attention".

    It has a remark if the maps show similarity because the model has no cross-attention.
    """
    has_no_cross_attention = look.usual == SIMILARITY
    if look.kind == SIMILARITY and has_no_cross_attention:
        return _SUBSTITUTE
    return look.kind


def percent(share: float) -> str:
    """Return a share of the attention as text: 0.123 -> "12.3%"."""
    return f"{rounded(share, 1, factor=100)}%"


def value_text(look: Look, value: float) -> str:
    """Return a value of a map as text, in percent if it is a share of cross-attention.

    For example, "1.2%" or "0.214".
    """
    if look.kind == "cross-attention":
        return percent(value)
    return f"{round(value, 3) + 0.0:.3f}"  # adding 0.0 turns -0.000 into 0.000


def alt_text(row: Row, look: Look, view: View) -> str:
    """Return a description of a map for screen readers, with the largest value and its place.

    For example, "cross-attention of “a dog” over dog.jpg by scenes-cosmos: most, 3.2%, at x 90, y
    60".

    Args:
        row: The pair of image and text.
        look: The attention of a model on the pair.
        view: The map of one head of the model, or of the mean of all heads.
    """
    value, x, y = view.peak(row.size)
    head = f", {view.head}" if view.head else ""
    return (
        f"{title(look)} of “{printable(row.text)}” over {printable(row.name)} by "
        f"{printable(look.info.spec)}{head}: most, {value_text(look, value)}, at x {x}, y {y}"
    )


def range_line(look: Look, view: View) -> str:
    """Return a line with the least and the largest value of a map, the ends of its colours.

    For example, "cosine 0.101 to 0.288". For cross-attention, the line also has the share that each
    patch has if all are equal: "0.1% to 2.3% a patch, even: 0.5%". `look` is the attention of a
    model, and `view` the map of one of its heads, or of their mean.
    """
    low = value_text(look, float(view.map.min()))
    high = value_text(look, float(view.map.max()))
    if look.kind == "cross-attention":
        even_share = percent(1 / view.map.size)
        return f"{low} to {high} a patch, even: {even_share}"
    units = {SIMILARITY: "cosine", VALUES: "dot product"}
    unit = units.get(look.kind, "log ratio")
    return f"{unit} {low} to {high}"


def padding_line(caption: CaptionShares) -> str:
    """Return a line about the attention outside of words.

    For example, "padding got 12.0% of the weight, the start of text 30.5%, its end 4.1%, not
    drawn". If the text does not fit the model's context, the line also says which words are cut
    off.
    """
    line = (
        f"padding got {percent(caption.padding)} of the weight, "
        f"the start of text {percent(caption.start)}, its end {percent(caption.end)}, not drawn"
    )
    if caption.tokens > caption.context:
        line += f". {cut_line(caption)}"
    return line


def cut_line(caption: CaptionShares) -> str:
    """Return a line about the words of a text that the model does not read.

    For example, "The text has 80 tokens and is cut to 77: the last 2 words are not read".
    """
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
    """Return whether any model weighs the words of its text, as cross-attention does."""
    return any(view.caption for look in looks for view in look.views)


def footer(rows: Sequence[Row]) -> list[str]:
    """Return the lines below a picture, which explain its colours and name each model.

    `rows` are pairs of image and text, each with the attention of all models.
    """
    looks = [look for row in rows for look in row.looks]
    lines = [_MAPS]
    if has_words(looks):
        lines.append(_WORDS)
    has_squeezed_image = any(max(row.size) > LONGEST * min(row.size) for row in rows)
    if has_squeezed_image:
        lines.append(f"Images more than {LONGEST} times as long as wide are squeezed to that.")
    model_lines = [_model_line(look) for look in looks]
    return [*lines, *dict.fromkeys(model_lines)]  # each model once


def _model_line(look: Look) -> str:
    """Return a line with a model's weights and precision, and the kind and heads of its map.

    For example, "scenes-cosmos, weights 0123456789ab, teacher, fp32: cross-attention, mean of 4
    heads".
    """
    info = look.info
    facts = [info.spec]
    if info.random:
        facts.append("random weights")
    else:
        digest = info.weights_sha256 or ""
        facts.append(f"weights {digest[:12]}")
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
    """Return a table with one row for each map: its peak, and the attention outside of words."""
    table_rows = []
    for row in rows:
        for look in row.looks:
            for view in look.views:
                table_rows.append(_map_cells(row, look, view))
    return table_rows


def _map_cells(row: Row, look: Look, view: View) -> Mapping[str, str]:
    """Return a map as a row of a table: the text of each cell by column title.

    Args:
        row: The pair of image and text.
        look: The attention of a model on the pair.
        view: The map of one head of the model, or of the mean of all heads.
    """
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
    """Return one table for each model that weighs words.

    A table has one row for each word of the text, and one column for each head.
    """
    tables = []
    for look in row.looks:
        table = _word_table(look)
        if table:
            tables.append(table)
    return tables


def _word_table(look: Look) -> list[Mapping[str, str]]:
    """Return the shares of words as a table with one row for each word.

    For example, [{"word, as scenes-cosmos weighs it": "dog", "head 1": "12.3%"}]. The table is
    empty if the model does not weigh words.
    """
    word_title = f"word, as {look.info.spec} weighs it"
    captions = [(view.head, view.caption) for view in look.views if view.caption]
    if not captions:
        return []
    _, first_caption = captions[0]
    table_rows: list[Mapping[str, str]] = []
    # All heads read the same words.
    for index, word in enumerate(first_caption.words):
        cells = {word_title: printable(word.text)}
        for head, caption in captions:
            cells[head] = percent(caption.words[index].share)
        table_rows.append(cells)
    return table_rows


def notes(rows: Sequence[Row], out: Path) -> list[str]:
    """Return notes about what a picture does not show.

    There is one line for each text that is cut, and one about characters that a PNG cannot show.

    Args:
        rows: The pairs of image and text, each with the attention of all models.
        out: The file of the picture.
    """
    lines = []
    for row in rows:
        for look in row.looks:
            caption = look.views[0].caption  # all heads read the same words
            if caption and caption.tokens > caption.context:
                lines.append(f"{printable(row.name)}, {look.info.spec}: {cut_line(caption)}")
    all_text = "".join(printable(row.text + row.name) for row in rows)
    missing = _characters_without_glyph(all_text)
    if missing and out.suffix.lower() == ".png":
        lines.append(f"{FAMILY} of the PNG has no {missing}; .svg and .html use the viewer's fonts")
    return lines


def _characters_without_glyph(text: str) -> str:
    """Return the characters of a text that the font of pictures cannot show, each once.

    White space is never among them.
    """
    from matplotlib.font_manager import findfont, get_font

    glyphs = get_font(findfont(FAMILY)).get_charmap()
    missing_characters = ""
    for character in dict.fromkeys(text):
        if not character.isspace() and ord(character) not in glyphs:
            missing_characters += character
    return missing_characters


def to_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return rows for JSON: each row with the looks of all models, each look with its heads."""
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
    """Return the maps of a model for an image and a text, and how they were computed, for JSON.

    The key "heads" has one record for each head, or for the mean of all heads, with the values of
    the patches. `row` is the pair of image and text, and `look` the attention of the model on it.
    """
    info = look.info
    heads = []
    for view in look.views:
        value, x, y = view.peak(row.size)
        heads.append(
            {
                "head": view.head or None,
                "map": view.map.tolist(),
                "peak": {"value": value, "x": x, "y": y},
                "caption": _caption_record(view.caption) if view.caption else None,
            }
        )
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
        "heads": heads,
    }


def _caption_record(caption: CaptionShares) -> dict[str, Any]:
    """Return the shares of a text for JSON: the fields of the record, and a level for each word."""
    word_records = []
    for word in caption.words:
        word_record = word._asdict()
        word_record["level"] = word.level
        word_records.append(word_record)
    record = caption._asdict()
    record["words"] = word_records
    return record
