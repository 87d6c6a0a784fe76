"""Results side by side: one table a protocol family, never two families in one ranking.

`measured` and `published` give entries; each writer takes entries and what samples told of close
pairs, and gives the same bytes for the same input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from cosmos_eval.results.labels import shortened
from cosmos_eval.results.leaderboard.board import Board, Column, Row, Shown, boards
from cosmos_eval.results.leaderboard.entries import (
    Entry,
    Key,
    entries_of,
    headlines_of,
    measured,
    published,
)
from cosmos_eval.results.leaderboard.ranking import (
    NO_TIES,
    Pair,
    Rank,
    TieRule,
    Ties,
    close_pairs,
    find_ties,
    rank_entries,
)
from cosmos_eval.results.leaderboard.reproduce import (
    Reproduction,
    reproductions,
    reproductions_to_json,
    reproductions_to_markdown,
    reproductions_to_tables,
)
from cosmos_eval.results.leaderboard.terminal import to_tables
from cosmos_eval.results.leaderboard.writers import to_csv, to_html, to_json, to_latex, to_markdown
from cosmos_eval.results.text import bounds, difference, percent, shown_text

__all__ = [
    "NO_TIES",
    "WRITERS",
    "Board",
    "Column",
    "Entry",
    "Format",
    "Key",
    "Pair",
    "Rank",
    "Reproduction",
    "Row",
    "Shown",
    "TieRule",
    "Ties",
    "boards",
    "bounds",
    "close_pairs",
    "difference",
    "entries_of",
    "find_ties",
    "headlines_of",
    "measured",
    "percent",
    "published",
    "rank_entries",
    "reproductions",
    "reproductions_to_json",
    "reproductions_to_markdown",
    "reproductions_to_tables",
    "shortened",
    "shown_text",
    "to_csv",
    "to_html",
    "to_json",
    "to_latex",
    "to_markdown",
    "to_tables",
]

Format = Literal["table", "md", "csv", "tex", "html", "json"]

WRITERS: Mapping[str, Callable[..., str]] = MappingProxyType(
    {"md": to_markdown, "csv": to_csv, "tex": to_latex, "html": to_html, "json": to_json}
)
"""What writes entries in each form but the terminal's."""
