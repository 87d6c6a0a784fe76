"""Tables for the terminal that fit its width."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

from cosmos_eval.results.labels import shortened
from cosmos_eval.results.leaderboard.board import Board, Shown, boards
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.ranking import NO_TIES, Ties
from cosmos_eval.results.text import one_line

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_FRAME = 3  # a column's two spaces and its rule


class Grid(NamedTuple):
    """Rows of texts, then of cells that must not be broken; all lists of rows are equally long.

    `texts` names the first columns, `titles` the others; `notes` stand below, one per line.
    """

    title: str
    texts: list[str]
    titles: list[str]
    heads: list[list[str]]
    cells: list[list[Text]]
    notes: list[str]


def to_tables(entries: Iterable[Entry], width: int, ties: Ties = NO_TIES) -> list[Table]:
    """Return tables at most `width` characters wide, best in bold, long model names shortened."""
    return [table for board in boards(entries, ties) for table in grid_tables(_grid(board), width)]


def _grid(board: Board) -> Grid:
    names = shortened(row.model for row in board.rows)
    urls = [f"[{number}] {url}" for number, url in enumerate(board.urls, start=1)]
    return Grid(
        title=f"Protocol {board.protocol} (%)",
        texts=board.texts,
        titles=[f"{one_line(c.dataset)}\n{one_line(c.title)}" for c in board.columns],
        heads=[[names[row.model], board.source_of(row)][: len(board.texts)] for row in board.rows],
        cells=[[_cell(cell) for cell in row.cells] for row in board.rows],
        notes=[*board.notes, *urls],
    )


def _cell(cell: Shown) -> Text:
    from rich.text import Text

    ranks = f" ({cell.ranks})" if cell.ranks else ""
    first = Text.assemble((cell.value, "bold green" if cell.best else ""), cell.mark, ranks)
    return Text("\n").join([first, *(Text(text) for text in (cell.interval, cell.delta) if text)])


def grid_tables(grid: Grid, width: int) -> list[Table]:
    """Return a grid as tables at most `width` characters wide; each has all rows' first texts."""
    from rich.text import Text

    grid = _printable(grid)
    widths = [_width(grid, index) for index in range(len(grid.titles))]
    texts = zip(*[grid.texts, *grid.heads], strict=True)
    available = width - 1 - sum(_FRAME + _widest(column) for column in texts)
    parts = list(_parts(widths, available))
    tables = [_table(grid, part, widths) for part in parts]
    for number, table in enumerate(tables, start=1):
        part = f", part {number} of {len(parts)}" if len(parts) > 1 else ""
        table.title = Text(grid.title + part)
    tables[-1].caption = Text("\n".join(grid.notes)) if grid.notes else None
    return tables


def _printable(grid: Grid) -> Grid:
    return grid._replace(
        title=one_line(grid.title),
        titles=["\n".join(map(one_line, title.split("\n"))) for title in grid.titles],
        heads=[list(map(one_line, head)) for head in grid.heads],
        notes=list(map(one_line, grid.notes)),
    )


def _parts(widths: list[int], available: int) -> Iterator[range]:
    """Split columns into consecutive ones that fit, at least one at a time."""
    start, used = 0, 0
    for index, width in enumerate(widths):
        if index > start and used + _FRAME + width > available:
            yield range(start, index)
            start, used = index, 0
        used += _FRAME + width
    yield range(start, len(widths))


def _width(grid: Grid, index: int) -> int:
    """Return the width that breaks neither cells nor words of the title."""
    words = _widest(grid.titles[index].split())
    return max(words, _widest(row[index].plain for row in grid.cells))


def _widest(texts: Iterable[str]) -> int:
    from rich.cells import cell_len

    return max(cell_len(line) for text in texts for line in text.split("\n"))


def _table(grid: Grid, part: range, widths: list[int]) -> Table:
    """Build a table; columns of numbers have widths and line breaks, which rich finds slowly."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title_justify="left", caption_justify="left")
    for text in grid.texts:
        table.add_column(text, overflow="fold")
    for index in part:
        width = widths[index]
        parts = (wrap(t, width, break_on_hyphens=False) for t in grid.titles[index].split("\n"))
        header = Text("\n".join(line for lines in parts for line in lines))
        table.add_column(header, justify="right", width=width, min_width=width, no_wrap=True)
    for head, cells in zip(grid.heads, grid.cells, strict=True):
        table.add_row(*map(Text, head), *(cells[index] for index in part))
    return table
