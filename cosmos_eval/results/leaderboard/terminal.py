"""Tables for the terminal that fit its width."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

from cosmos_eval.results.labels import shortened
from cosmos_eval.results.leaderboard.board import Board, Row, Shown, boards
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.ranking import NO_TIES, Ties
from cosmos_eval.results.text import one_line

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


def to_tables(entries: Iterable[Entry], width: int, ties: Ties = NO_TIES) -> list[Table]:
    """Tables at most `width` characters wide, best in bold, long model names shortened."""
    return [table for board in boards(entries, ties) for table in grid_tables(_grid(board), width)]


def _grid(board: Board) -> Grid:
    names = shortened(row.model for row in board.rows)
    heads = [[names[row.model], _source(row, board)] for row in board.rows]
    texts = 2 if board.shows_source else 1
    urls = [f"[{number}] {url}" for number, url in enumerate(board.urls, start=1)]
    return Grid(
        title=f"Protocol {board.protocol} (%)",
        texts=["model", "source"][:texts],
        titles=[
            f"{one_line(column.dataset)}\n{one_line(column.title)}" for column in board.columns
        ],
        heads=[head[:texts] for head in heads],
        cells=[[_cell(cell) for cell in row.cells] for row in board.rows],
        notes=[*board.notes, *urls],
    )


def _source(row: Row, board: Board) -> str:
    return f"{row.source} [{board.urls.index(row.url) + 1}]" if row.url else row.source


def _cell(cell: Shown) -> Text:
    """The number with its places on a line, its interval and difference below."""
    from rich.text import Text

    ranks = f" ({cell.ranks})" if cell.ranks else ""
    first = Text.assemble((cell.value, "bold green" if cell.best else ""), cell.mark, ranks)
    return Text("\n").join([first, *(Text(text) for text in (cell.interval, cell.delta) if text)])
