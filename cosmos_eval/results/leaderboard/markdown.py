"""Boards as GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from cosmos_eval.results.escaping import markdown_code, markdown_text
from cosmos_eval.results.leaderboard.board import Board, Row, Shown, boards
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.ranking import NO_TIES, Ties


def to_markdown(entries: Iterable[Entry], ties: Ties = NO_TIES) -> str:
    """Tables as GitHub's Markdown, best in bold; published numbers link to where they stand."""
    return "\n".join(_markdown(board) for board in boards(entries, ties))


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]], texts: int) -> str:
    """A table of cells that are Markdown already; the columns after the first `texts` are numbers.

    Ends with a line break.
    """
    titles = list(header)
    marks = ["---"] * texts + ["--:"] * (len(titles) - texts)
    lines = (f"| {' | '.join(cells)} |\n" for cells in (titles, marks, *rows))
    return "".join(lines)


def _markdown(board: Board) -> str:
    texts = ["model", "source"] if board.shows_source else ["model"]
    titles = (f"{markdown_text(c.dataset)} {markdown_text(c.title)}" for c in board.columns)
    rows = ([*_texts(row)[: len(texts)], *map(_cell, row.cells)] for row in board.rows)
    table = markdown_table([*texts, *titles], rows, len(texts))
    notes = "".join(f"- {markdown_text(note)}\n" for note in board.notes)
    return f"### Protocol {markdown_code(board.protocol)} (%)\n\n{table}" + (
        f"\n{notes}" if notes else ""
    )


def _texts(row: Row) -> list[str]:
    source = f"[{row.source}](<{row.url}>)" if row.url else row.source
    return [markdown_text(row.model), source]


def _cell(cell: Shown) -> str:
    value = f"**{cell.value}**" if cell.best else f"{cell.value}{cell.mark}"
    details = ", ".join(text for text in (cell.ranks and f"rank {cell.ranks}", cell.delta) if text)
    numbers = f"{value} {cell.interval}".strip()
    return f"{numbers}<br>{details}" if details else numbers
