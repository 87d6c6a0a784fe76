"""What is said about maps and captions, the same in every form of output."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from cosmos_eval.models.heatmaps import LONGEST
from cosmos_eval.report.attention.records import CaptionShares, Level, Look, Row, View

MAPS = (
    "Maps: each from its least value (0) to its largest (1), linear between the centres of patches."
)
SUBSTITUTE = "text-to-patch similarity (this model has no cross-attention)"
WORDS = (
    "Words: share of the cross-attention of the image over the caption, a word's tokens summed; "
    "from the least of the caption (0) to the largest (1), in thirds."
)


_SHOWN = 40  # characters of a word that is named
LEVEL_NAMES: dict[Level, str] = {
    "low": "low: below 1/3",
    "middle": "middle",
    "high": "high: from 2/3 on",
}


def printable(text: str) -> str:
    """In one line, and without what XML and UTF-8 do not take."""
    return "".join(_printable(character) for character in " ".join(text.split()))


def _printable(character: str) -> str:
    """Control characters, halves of characters and code points that are none are replaced."""
    no_character = ord(character) & 0xFFFE == 0xFFFE
    wrong = unicodedata.category(character) in ("Cc", "Cs") or no_character
    return "\N{REPLACEMENT CHARACTER}" if wrong else character


def title(look: Look) -> str:
    """What a map shows; a substitute is called one."""
    return look.kind if look.kind == "cross-attention" or look.usual != look.kind else SUBSTITUTE


def percent(share: float) -> str:
    """A share of the attention."""
    return f"{100 * share:.1f}%"


def value_text(look: Look, value: float) -> str:
    """A value of a map: a share of the weight, or a cosine."""
    if look.kind == "cross-attention":
        return percent(value)
    return f"{round(value, 3) + 0.0:.3f}"  # never -0.000


def said(row: Row, look: Look, view: View) -> str:
    """A map for those who do not see it."""
    peak = view.peak(row.size)
    head = f", {view.head}" if view.head else ""
    return (
        f"{title(look)} of “{printable(row.text)}” over {printable(row.name)} by "
        f"{printable(look.info.spec)}{head}: most, {value_text(look, peak.value)}, at x {peak.x}, "
        f"y {peak.y}"
    )


def range_line(look: Look, view: View) -> str:
    """What 0 and 1 of a map are, and what all patches would be if they were equal."""
    low, high = (value_text(look, float(end)) for end in (view.map.min(), view.map.max()))
    if look.kind != "cross-attention":
        return f"cosine {low} to {high}"
    return f"{low} to {high} a patch, even: {percent(1 / view.map.size)}"


def padding_line(caption: CaptionShares) -> str:
    """Where the attention goes that no word has."""
    apart = (
        f"padding got {percent(caption.padding)} of the weight, "
        f"the start of text {percent(caption.start)}, its end {percent(caption.end)}, not drawn"
    )
    return f"{apart}. {cut_line(caption)}" if caption.tokens > caption.context else apart


def cut_line(caption: CaptionShares) -> str:
    """What of a caption the model does not read."""
    unread = len(caption.unread.split())
    last = printable(caption.words[-1].text)
    parts = [f"“{last[:_SHOWN]}” is read in part"] if caption.halved else []
    if unread:
        words = "the last word is" if unread == 1 else f"the last {unread} words are"
        parts.append(f"{words} not read")
    said = ", ".join(parts)
    return f"The text has {caption.tokens} tokens and is cut to {caption.context}: {said}"


def model_line(look: Look) -> str:
    """Which weights a model has, and how it looks."""
    info = look.info
    weights = "random weights" if info.random else f"weights {(info.weights_sha256 or '')[:12]}"
    parts = [info.spec, weights, *([info.weights] if info.weights else []), info.precision]
    heads = [view.head for view in look.views if view.head]
    if look.attention:
        how = f"{look.kind} with the last block {look.attention}"
    else:
        how = f"{look.kind}, {heads[0] if len(heads) == 1 else f'each of {len(heads)} heads'}"
    return f"{', '.join(parts)}: {how}"


def footer(rows: Sequence[Row]) -> list[str]:
    """What a reader must know of a sheet, a line each."""
    looks = [look for row in rows for look in row.looks]
    lines = [MAPS, *([WORDS] if any(has_words(look) for look in looks) else [])]
    if any(max(row.size) > LONGEST * min(row.size) for row in rows):
        lines.append(f"Images more than {LONGEST} times as long as wide are squeezed to that.")
    return [*lines, *dict.fromkeys(model_line(look) for look in looks)]


def has_words(look: Look) -> bool:
    """Whether a look weighs the words of its text."""
    return any(view.caption for view in look.views)
