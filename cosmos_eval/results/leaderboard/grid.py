"""Tables for the terminal that fit its width."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

from cosmos_eval.results.escaping import one_line

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_FRAME = 3  # a column's two spaces and its rule


class Grid(NamedTuple):
    """Rows of texts, then of cells that must not be broken; all lists of rows are equally long.

    `texts` names the first columns, `titles` the others; `notes` stand below, a line each.
    """

    title: str
    texts: list[str]
    titles: list[str]
    heads: list[list[str]]
    cells: list[list[Text]]
    notes: list[str]


def grid_tables(grid: Grid, width: int) -> list[Table]:
    """A grid as tables at most `width` characters wide; its texts may be any.

    One with more columns than fit becomes several tables, each with all rows' first texts.
    """
    from rich.text import Text

    grid = _printable(grid)
    widths = [_width(grid, place) for place in range(len(grid.titles))]
    texts = zip(*[grid.texts, *grid.heads], strict=True)
    room = width - 1 - sum(_FRAME + _widest(column) for column in texts)
    parts = list(_parts(widths, room))
    tables = [_table(grid, part, widths) for part in parts]
    for number, table in enumerate(tables, start=1):
        part = f", part {number} of {len(parts)}" if len(parts) > 1 else ""
        table.title = Text(grid.title + part)
    tables[-1].caption = Text("\n".join(grid.notes)) if grid.notes else None
    return tables


def _printable(grid: Grid) -> Grid:
    """The grid with texts that a terminal shows as they are; titles keep their line breaks."""
    return grid._replace(
        title=one_line(grid.title),
        titles=["\n".join(map(one_line, title.split("\n"))) for title in grid.titles],
        heads=[list(map(one_line, head)) for head in grid.heads],
        notes=list(map(one_line, grid.notes)),
    )


def _parts(widths: list[int], room: int) -> Iterator[range]:
    """Consecutive columns that fit into a room, at least one at a time."""
    start, used = 0, 0
    for place, width in enumerate(widths):
        if place > start and used + _FRAME + width > room:
            yield range(start, place)
            start, used = place, 0
        used += _FRAME + width
    yield range(start, len(widths))


def _width(grid: Grid, place: int) -> int:
    """The width at which a column's cells and the words of its title are whole."""
    words = _widest(grid.titles[place].split())
    return max(words, _widest(row[place].plain for row in grid.cells))


def _widest(texts: Iterable[str]) -> int:
    from rich.cells import cell_len

    return max(cell_len(line) for text in texts for line in text.split("\n"))


def _table(grid: Grid, part: range, widths: list[int]) -> Table:
    """Columns of numbers have their widths and line breaks: finding them takes long."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title_justify="left", caption_justify="left")
    for text in grid.texts:
        table.add_column(text, overflow="fold")
    for place in part:
        title = Text(_broken(grid.titles[place], widths[place]))
        table.add_column(
            title, justify="right", width=widths[place], min_width=widths[place], no_wrap=True
        )
    for head, cells in zip(grid.heads, grid.cells, strict=True):
        table.add_row(*map(Text, head), *(cells[place] for place in part))
    return table


def _broken(title: str, width: int) -> str:
    """A title with the line breaks that it has or needs."""
    lines = (wrap(line, width, break_on_hyphens=False) for line in title.split("\n"))
    return "\n".join(part for parts in lines for part in parts)
