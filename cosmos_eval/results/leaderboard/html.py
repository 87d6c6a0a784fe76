"""Boards as one web page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from cosmos_eval.results.leaderboard.board import Board, boards
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.ranking import NO_TIES, Ties
from cosmos_eval.results.templates import html_templates


def to_html(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    """A page with a table a board, best in bold; published numbers link to where they stand."""
    listed = [(board, _datasets(board)) for board in boards(entries, ties)]
    page = html_templates("cosmos_eval.results.leaderboard").get_template("page.html")
    return page.render(boards=listed)


def _datasets(board: Board) -> list[tuple[str, int]]:
    """Data sets in the order of the columns, and how many columns each has."""
    groups = groupby(board.columns, key=lambda column: column.dataset)
    return [(dataset, len(list(columns))) for dataset, columns in groups]
