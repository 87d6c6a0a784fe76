"""Where everything is in a picture: image, maps and caption of every row, then what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cosmos_eval.report.attention.captions import caption_block, level_legend
from cosmos_eval.report.attention.colours import coloured, laid_over, scale_bar
from cosmos_eval.report.attention.fonts import shortened
from cosmos_eval.report.attention.marks import (
    INK,
    SMALL,
    SOFT,
    Block,
    Box,
    Raster,
    Text,
    beside,
    moved,
    paragraph,
    remark,
    stacked,
)
from cosmos_eval.report.attention.records import Look, Row, View
from cosmos_eval.report.attention.words import footer, has_words, printable, range_line, said, title

_MARGIN, _GAP, _ROW_GAP = 20, 12, 18
_WIDTH = 940  # about that of a page's text
_PANEL = (180, 340)  # sides of a panel, at least and at most
_IN_LINE = 4  # maps beside an image
_HEADED = 8  # rows under one heading
_RULE = "#d5d8dc"
_NOTHING = Block(0, 0, [])


def page(rows: Sequence[Row]) -> Block:
    """The whole picture, its margins included."""
    columns = 1 + max(len(line) for line in _lines(rows[0].looks))
    side = (_WIDTH - _GAP * (columns - 1)) / columns
    panel = min(max(side, _PANEL[0]), _PANEL[1])
    width = columns * panel + _GAP * (columns - 1)
    rule = Block(width, 1, [Box(0, 0, width, 1, _RULE)])
    drawn = []
    for number, row in enumerate(rows):
        headed = number % _HEADED == 0 or len(_lines(row.looks)) > 1
        drawn += [_row(row, panel, width, headed), rule]
    content = stacked([*drawn, _legend(rows, width)], _ROW_GAP)
    marks = moved(content, _MARGIN, _MARGIN)
    return Block(width + 2 * _MARGIN, content.height + 2 * _MARGIN, marks)


def _lines(looks: Sequence[Look]) -> list[list[tuple[Look, View]]]:
    """Views that stand beside each other: of all models, or a few heads of one."""
    if all(len(look.views) == 1 for look in looks):
        groups = [[(look, look.views[0]) for look in looks]]
    else:
        groups = [[(look, view) for view in look.views] for look in looks]
    return [
        group[start : start + _IN_LINE]
        for group in groups
        for start in range(0, len(group), _IN_LINE)
    ]


class _Cell(NamedTuple):
    """What stands above, in and below a panel."""

    heading: Block
    image: Block
    notes: Block
    caption: Block


def _row(row: Row, panel: float, width: float, headed: bool) -> Block:
    """An image, its maps, and what the words of the text weigh."""
    first, *others = _lines(row.looks)
    starts = [_image_cell(row, panel), *(_Cell(*[_NOTHING] * 4) for _ in others)]
    lines = [
        _line([start, *(_map_cell(row, *shown, panel) for shown in line)], panel, headed)
        for start, line in zip(starts, (first, *others), strict=True)
    ]
    return stacked([*lines, *_captions(row, width)], _GAP)


def _line(cells: Sequence[_Cell], panel: float, headed: bool) -> Block:
    """Cells beside each other, each part of them in a line of its own."""
    parts = [
        beside([part._replace(width=panel) for part in parts], _GAP)
        for parts in zip(*cells, strict=True)
    ]
    return stacked([part for part in parts[0 if headed else 1 :] if part.height], 4)


def _image_cell(row: Row, panel: float) -> _Cell:
    name = printable(row.name)
    shown = _fitted(Raster(0, 0, 0, 0, row.picture, name), panel)
    size = f"{row.size[0]} x {row.size[1]} px"
    lines = [remark(line, panel) for line in (shortened(name, SMALL, panel), size)]
    return _Cell(_NOTHING, shown, stacked(lines, 0), _NOTHING)


def _map_cell(row: Row, look: Look, view: View, panel: float) -> _Cell:
    model = shortened(printable(look.info.spec), SMALL, panel, bold=True)
    shows = f"{title(look)}, {view.head}" if view.head else title(look)
    heading = [
        Block(panel, 15, [Text(0, SMALL, model, SMALL, INK, True)]),
        remark(shows, panel),
    ]
    over = laid_over(coloured(view, row.picture.size), row.picture)
    shown = _fitted(Raster(0, 0, 0, 0, over, said(row, look, view)), panel)
    notes = remark(range_line(look, view), panel)
    # The words of one head of several stand below its map, else there is room for a whole line.
    own = view.caption if len(look.views) > 1 else None
    caption = _NOTHING if own is None else caption_block(own, panel)
    return _Cell(stacked(heading, 2), shown, notes, caption)


def _fitted(raster: Raster, panel: float) -> Block:
    """An image as large as a panel allows."""
    width, height = (side * panel / max(raster.image.size) for side in raster.image.size)
    return Block(panel, height, [raster._replace(width=width, height=height)])


def _captions(row: Row, width: float) -> Iterator[Block]:
    """Captions on their colours, named where there are several; without any, the text."""
    shown = [look for look in row.looks if len(look.views) == 1 and look.views[0].caption]
    if not any(has_words(look) for look in row.looks):
        yield paragraph(printable(row.text), width)
    for look in shown:
        caption = look.views[0].caption
        assert caption is not None
        yield caption_block(caption, width, printable(look.info.spec) if len(shown) > 1 else "")


def _legend(rows: Sequence[Row], width: float) -> Block:
    looks = [look for row in rows for look in row.looks]
    kinds = " / ".join(dict.fromkeys(title(look) for look in looks))
    bar = Block(
        176,
        14,
        [
            Text(0, 12, "0", SMALL, SOFT),
            Raster(12, 1, 150, 13, scale_bar(), "colours from 0 to 1"),
            Text(167, 12, "1", SMALL, SOFT),
        ],
    )
    scale = beside([bar, paragraph(kinds, width - 190, size=SMALL)], _GAP)
    levels = [level_legend()] if any(has_words(look) for look in looks) else []
    lines = [remark(line, width) for line in footer(rows)]
    return stacked([scale, *levels, stacked(lines, 2)], 8)
