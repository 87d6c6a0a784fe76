"""Boards for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cosmos_eval.results.escaping import one_line
from cosmos_eval.results.leaderboard.board import Board, Row, Shown, boards
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.grid import Grid, grid_tables
from cosmos_eval.results.leaderboard.names import shortened
from cosmos_eval.results.leaderboard.ranking import NO_TIES, Ties

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


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
