"""How wide text is, where its lines break, and which characters the pictures' font lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import ImageFont

FAMILY = "DejaVu Sans"
"""Of pictures; matplotlib brings it, so that it is the same everywhere."""


@lru_cache(maxsize=32)
def font(size: float, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font at a size in pixels."""
    return ImageFont.truetype(str(_file(bold)), size)


def _file(bold: bool) -> Path:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name


@lru_cache(maxsize=1)
def _known() -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_file(False))).get_charmap())


def lacking(text: str) -> str:
    """The characters of a text for which the font has no picture, each once."""
    shown = (character for character in text if not character.isspace())
    return "".join(dict.fromkeys(c for c in shown if ord(c) not in _known()))


def width_of(text: str, size: float, bold: bool = False) -> float:
    """In pixels."""
    return font(size, bold).getlength(text)


def shortened(text: str, size: float, width: float, bold: bool = False) -> str:
    """The end of a text that fits: of a path, that is what tells it from others."""
    if width_of(text, size, bold) <= width:
        return text
    start = next(
        (n for n in range(1, len(text)) if width_of(f"…{text[n:]}", size, bold) <= width), len(text)
    )
    return f"…{text[start:]}"


class Item(NamedTuple):
    """A piece of running text with its width; `gap` is what keeps it from the one before."""

    text: str
    width: float
    gap: float


class Placed(NamedTuple):
    """An item in a line, both counted from 0, and its left edge."""

    item: int
    line: int
    left: float


def flowed(items: Sequence[Item], width: float) -> list[Placed]:
    """Items in lines of a width; lines break at gaps, and elsewhere only where they must."""
    placed: list[Placed] = []
    line, right = 0, 0.0
    for run in _runs(items):
        run_width = sum(items[index].width for index in run)
        if right and right + items[run[0]].gap + run_width > width:
            line, right = line + 1, 0.0
        for index in run:
            gap = items[index].gap if right else 0.0
            if right and right + gap + items[index].width > width:
                line, right, gap = line + 1, 0.0, 0.0
            placed.append(Placed(index, line, right + gap))
            right += gap + items[index].width
    return placed


def _runs(items: Sequence[Item]) -> Iterator[list[int]]:
    """Indices of items that touch."""
    run: list[int] = []
    for index, item in enumerate(items):
        if run and item.gap:
            yield run
            run = []
        run.append(index)
    if run:
        yield run


def broken(text: str, size: float, width: float) -> list[str]:
    """A word in pieces that are no wider than a line."""
    pieces, piece = [], ""
    for character in text:
        if piece and width_of(piece + character, size) > width:
            pieces.append(piece)
            piece = ""
        piece += character
    return [*pieces, piece]


def wrapped(text: str, size: float, width: float) -> list[str]:
    """A text in lines of a width."""
    gap = width_of(" ", size)
    items = [
        Item(piece, width_of(piece, size), 0.0 if number else gap)
        for word in text.split()
        for number, piece in enumerate(broken(word, size, width))
    ]
    lines: dict[int, list[str]] = {}
    for place in flowed(items, width):
        item = items[place.item]
        lines.setdefault(place.line, []).append(
            f" {item.text}" if item.gap and place.left else item.text
        )
    return ["".join(pieces) for pieces in lines.values()]
