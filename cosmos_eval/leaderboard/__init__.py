"""Results side by side: one table a protocol family, never two families in one ranking.

`measured` and `published` give entries; each writer takes entries and what samples told of close
pairs, and gives the same bytes for the same input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

from cosmos_eval.leaderboard._boards import Board, Column, Row, Shown, boards
from cosmos_eval.leaderboard._csv import to_csv
from cosmos_eval.leaderboard._entries import (
    Entry,
    Key,
    entries_of,
    headlines_of,
    measured,
    published,
)
from cosmos_eval.leaderboard._html import to_html
from cosmos_eval.leaderboard._json import to_json
from cosmos_eval.leaderboard._latex import to_latex
from cosmos_eval.leaderboard._markdown import to_markdown
from cosmos_eval.leaderboard._names import shortened
from cosmos_eval.leaderboard._numbers import bounds, difference, percent, shown_text
from cosmos_eval.leaderboard._reproduce import (
    Reproduction,
    reproductions,
    reproductions_to_json,
    reproductions_to_markdown,
    reproductions_to_tables,
)
from cosmos_eval.leaderboard._standings import NO_TIES, Pair, Standing, Ties, close_pairs, standings
from cosmos_eval.leaderboard._terminal import to_tables
from cosmos_eval.leaderboard._ties import TieRule, find_ties

__all__ = [
    "NO_TIES",
    "WRITERS",
    "Board",
    "Column",
    "Entry",
    "Format",
    "Key",
    "Pair",
    "Reproduction",
    "Row",
    "Shown",
    "Standing",
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
    "reproductions",
    "reproductions_to_json",
    "reproductions_to_markdown",
    "reproductions_to_tables",
    "shortened",
    "shown_text",
    "standings",
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
