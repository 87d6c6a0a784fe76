"""What a picture is made of, whatever file it goes to: texts, boxes and images at their places.

All lengths are in pixels of the SVG; y grows downwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from PIL import Image

from cosmos_eval.report.attention.fonts import width_of, wrapped

INK, SOFT = "#1c1e21", "#5b6169"
BODY, SMALL = 15, 12


class Text(NamedTuple):
    """A line of text whose baseline starts at (x, y); `title` is shown where one points at it."""

    x: float
    y: float
    text: str
    size: float = BODY
    colour: str = INK
    bold: bool = False
    title: str = ""


class Box(NamedTuple):
    """A filled rectangle with round corners."""

    x: float
    y: float
    width: float
    height: float
    colour: str


class Raster(NamedTuple):
    """An image, scaled to a width and height; `title` says what it shows."""

    x: float
    y: float
    width: float
    height: float
    image: Image.Image
    title: str


Mark: TypeAlias = Text | Box | Raster


class Block(NamedTuple):
    """Marks relative to a corner, and the room they take."""

    width: float
    height: float
    marks: Sequence[Mark]


def moved(block: Block, x: float, y: float) -> list[Mark]:
    """The marks of a block at another place."""
    return [mark._replace(x=mark.x + x, y=mark.y + y) for mark in block.marks]


def stacked(blocks: Iterable[Block], gap: float) -> Block:
    """Blocks below each other."""
    width, y, marks = 0.0, -gap, list[Mark]()
    for block in blocks:
        marks += moved(block, 0, y + gap)
        width, y = max(width, block.width), y + gap + block.height
    return Block(width, max(y, 0), marks)


def beside(blocks: Iterable[Block], gap: float) -> Block:
    """Blocks beside each other, their upper edges in a line."""
    x, height, marks = -gap, 0.0, list[Mark]()
    for block in blocks:
        marks += moved(block, x + gap, 0)
        x, height = x + gap + block.width, max(height, block.height)
    return Block(max(x, 0), height, marks)


def paragraph(
    text: str, width: float, *, size: float = BODY, colour: str = INK, bold: bool = False
) -> Block:
    """Running text in lines of a width."""
    step = round(1.4 * size)
    # Bold letters are wider than those that lines are broken by.
    lines = wrapped(text, size, 0.88 * width if bold else width)
    marks = [
        Text(0, number * step + size, line, size, colour, bold) for number, line in enumerate(lines)
    ]
    widest = max((width_of(line, size, bold) for line in lines), default=0.0)
    return Block(widest, step * len(lines), marks)


def remark(text: str, width: float) -> Block:
    """Running text that stays in the background."""
    return paragraph(text, width, size=SMALL, colour=SOFT)
