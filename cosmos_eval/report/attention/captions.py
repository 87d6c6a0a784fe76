"""Captions whose words stand on the colours of their weights."""

from __future__ import annotations

from typing import NamedTuple

from cosmos_eval.report.attention.colours import LEVELS, PLAIN, Ink
from cosmos_eval.report.attention.fonts import Item, broken, flowed, width_of
from cosmos_eval.report.attention.marks import BODY, Block, Box, Mark, Text, beside, remark, stacked
from cosmos_eval.report.attention.records import CaptionShares
from cosmos_eval.report.attention.words import LEVEL_NAMES, padding_line, percent, printable

_PAD = 4.0  # between a word and the edge of its ground
_HEIGHT = 24.0
_LINE = 29.0
_UNREAD = Ink("#ffffff", "#8a9099")


class _Chip(NamedTuple):
    """A word, or a piece of one that is wider than a line."""

    text: str
    ink: Ink
    gap: float
    title: str = ""

    @property
    def width(self) -> float:
        return width_of(self.text, BODY) + 2 * _PAD


def caption_block(caption: CaptionShares, width: float, label: str = "") -> Block:
    """Words on their colours in lines of a width, and what the rest of the attention went to."""
    named = [remark(label, width)] if label else []
    line = remark(padding_line(caption), width)
    return stacked([*named, _flow(_chips(caption, width), width), line], 4)


def level_legend() -> Block:
    """The three colours, named."""
    chips = [_Chip(LEVEL_NAMES[level], ink, _PAD) for level, ink in LEVELS.items()]
    return beside([Block(chip.width, _HEIGHT, _drawn(chip, 0, 0)) for chip in chips], _PAD)


def _chips(caption: CaptionShares, width: float) -> list[_Chip]:
    chips = []
    for word in caption.words:
        ink = LEVELS[word.level] if word.level else PLAIN
        title = f"{printable(word.text)}: {percent(word.share)} of the weight"
        gap = _PAD if word.spaced else 0.0
        chips += _pieces(printable(word.text), width, _Chip("", ink, gap, title))
    for text in caption.unread.split():
        chips += _pieces(printable(text), width, _Chip("", _UNREAD, _PAD, "not read"))
    return chips


def _pieces(text: str, width: float, like: _Chip) -> list[_Chip]:
    pieces = broken(text, BODY, width - 2 * _PAD)
    return [like._replace(text=t, gap=0.0 if n else like.gap) for n, t in enumerate(pieces)]


def _flow(chips: list[_Chip], width: float) -> Block:
    places = flowed([Item(chip.text, chip.width, chip.gap) for chip in chips], width)
    marks: list[Mark] = []
    for place in places:
        marks += _drawn(chips[place.item], place.left, place.line * _LINE)
    right = max(place.left + chips[place.item].width for place in places)
    return Block(right, places[-1].line * _LINE + _HEIGHT, marks)


def _drawn(chip: _Chip, x: float, y: float) -> list[Mark]:
    return [
        Box(x, y, chip.width, _HEIGHT, chip.ink.ground),
        Text(x + _PAD, y + 17, chip.text, BODY, chip.ink.text, title=chip.title),
    ]
