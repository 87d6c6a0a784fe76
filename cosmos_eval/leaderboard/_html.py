"""Boards as one web page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from cosmos_eval.leaderboard._boards import Board, boards
from cosmos_eval.leaderboard._entries import Entry
from cosmos_eval.leaderboard._standings import NO_TIES, Ties


def to_html(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    """A page with a table a board, best in bold; published numbers link to where they stand."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cosmos_eval.leaderboard", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    listed = boards(entries, ties)
    return environment.get_template("page.html").render(
        boards=[(board, _datasets(board)) for board in listed]
    )


def _datasets(board: Board) -> list[tuple[str, int]]:
    """Data sets in the order of the columns, and how many columns each has."""
    groups = groupby(board.columns, key=lambda column: column.dataset)
    return [(dataset, len(list(columns))) for dataset, columns in groups]
