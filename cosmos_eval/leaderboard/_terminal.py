"""Boards for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from cosmos_eval.leaderboard._boards import Board, Column, Row, Shown, boards
from cosmos_eval.leaderboard._entries import Entry
from cosmos_eval.leaderboard._names import shortened
from cosmos_eval.leaderboard._standings import NO_TIES, Ties

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_FRAME = 3  # a column's two spaces and its rule


def to_tables(entries: Iterable[Entry], width: int, ties: Ties = NO_TIES) -> list[Table]:
    """Tables at most `width` characters wide, best in bold.

    A board with more columns than fit becomes several tables, each with all its models.
    """
    return [table for board in boards(entries, ties) for table in _tables(board, width)]


def _tables(board: Board, width: int) -> Iterator[Table]:
    heads = _heads(board)
    room = width - 1 - sum(_FRAME + _width(head) for head in zip(*heads, strict=True))
    parts = list(_parts(board, room))
    for number, part in enumerate(parts, start=1):
        yield _table(board, heads, part, f" (part {number} of {len(parts)})" if parts[1:] else "")


def _heads(board: Board) -> list[list[Text]]:
    """What stands before the numbers, a list a row, titles first."""
    from rich.text import Text

    names = shortened(row.model for row in board.rows)
    heads = [["model", "source"], *([names[row.model], _source(row, board)] for row in board.rows)]
    texts = 2 if board.shows_source else 1
    return [[Text(word) for word in words[:texts]] for words in heads]


def _source(row: Row, board: Board) -> str:
    return f"{row.source} [{board.urls.index(row.url) + 1}]" if row.url else row.source


def _parts(board: Board, room: int) -> Iterator[range]:
    """Consecutive columns that fit into a room, at least one at a time."""
    start, used = 0, 0
    for place, column in enumerate(board.columns):
        needed = _FRAME + _narrowest(column, [row.cells[place] for row in board.rows])
        if place > start and used + needed > room:
            yield range(start, place)
            start, used = place, 0
        used += needed
    yield range(start, len(board.columns))


def _narrowest(column: Column, cells: Iterable[Shown]) -> int:
    """The width at which no number and no word of the title is broken."""
    from rich.text import Text

    words = [Text(word) for word in f"{column.dataset} {column.title}".split()]
    return max(_width(words), _width(map(_cell, cells)))


def _width(texts: Iterable[Text]) -> int:
    return max(line.cell_len for text in texts for line in text.split() or [text])


def _table(board: Board, heads: Sequence[Sequence[Text]], part: range, addition: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = Text(f"Protocol {board.protocol} (%){addition}")
    table = Table(title=title, title_justify="left", caption_justify="left")
    for word in heads[0]:
        table.add_column(word, overflow="fold")
    for place in part:
        column = board.columns[place]
        least = _narrowest(column, [row.cells[place] for row in board.rows])
        header = Text(f"{column.dataset}\n{column.title}")
        table.add_column(header, justify="right", min_width=least)
    for words, row in zip(heads[1:], board.rows, strict=True):
        table.add_row(*words, *(_cell(row.cells[place]) for place in part))
    urls = (f"[{number}] {url}" for number, url in enumerate(board.urls, start=1))
    notes = "\n".join([*board.notes, *urls])
    table.caption = Text(notes) if notes else None
    return table


def _cell(cell: Shown) -> Text:
    """The number with its places on a line, its interval and difference below."""
    from rich.text import Text

    ranks = f" ({cell.ranks})" if cell.ranks else ""
    first = Text.assemble((cell.value, "bold green" if cell.best else ""), cell.mark, ranks)
    return Text("\n").join([first, *(Text(text) for text in (cell.interval, cell.delta) if text)])
