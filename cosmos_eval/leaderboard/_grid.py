"""Tables for the terminal that fit its width."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

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
    """A grid as tables at most `width` characters wide.

    One with more columns than fit becomes several tables, each with all rows' first texts.
    """
    from rich.text import Text

    least = [_narrowest(grid, place) for place in range(len(grid.titles))]
    heads = [[Text(text) for text in row] for row in [grid.texts, *grid.heads]]
    room = width - 1 - sum(_FRAME + _widest(column) for column in zip(*heads, strict=True))
    parts = list(_parts(least, room))
    tables = [_table(grid, part, least) for part in parts]
    for number, table in enumerate(tables, start=1):
        part = f", part {number} of {len(parts)}" if len(parts) > 1 else ""
        table.title = Text(grid.title + part)
    tables[-1].caption = Text("\n".join(grid.notes)) if grid.notes else None
    return tables


def _parts(least: list[int], room: int) -> Iterator[range]:
    """Consecutive columns that fit into a room, at least one at a time."""
    start, used = 0, 0
    for place, needed in enumerate(least):
        if place > start and used + _FRAME + needed > room:
            yield range(start, place)
            start, used = place, 0
        used += _FRAME + needed
    yield range(start, len(least))


def _narrowest(grid: Grid, place: int) -> int:
    """The width at which a column's cells and the words of its title are whole."""
    from rich.text import Text

    words = map(Text, grid.titles[place].split())
    return max(_widest(words), _widest(row[place] for row in grid.cells))


def _widest(texts: Iterable[Text]) -> int:
    return max(line.cell_len for text in texts for line in text.split() or [text])


def _table(grid: Grid, part: range, least: list[int]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title_justify="left", caption_justify="left")
    for text in grid.texts:
        table.add_column(text, overflow="fold")
    for place in part:
        table.add_column(Text(grid.titles[place]), justify="right", min_width=least[place])
    for head, cells in zip(grid.heads, grid.cells, strict=True):
        table.add_row(*map(Text, head), *(cells[place] for place in part))
    return table
