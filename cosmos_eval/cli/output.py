"""What commands print: tables and JSON on standard output, notes on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos_eval.results.text import json_text, one_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_FILE_WIDTH = 200  # enough for any table, where no terminal states its width


def print_line(text: str, *, error: bool = False) -> None:
    """Print one line on standard output, or on standard error."""
    print(one_line(text), file=sys.stderr if error else sys.stdout)


def print_notes(notes: Iterable[str]) -> None:
    """Print notes on standard error, one per line."""
    for note in notes:
        print_line(f"note: {note}", error=True)


def print_written(path: Path, details: str = "") -> None:
    """Report on standard error that a file is written."""
    print_line(f"wrote {path}{details}", error=True)


def print_records(records: Sequence[Mapping[str, Any]], *, as_json: bool = False) -> None:
    """Print records that have the same keys as JSON, or as a table without its empty columns."""
    if as_json:
        print_json(records)
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = [name for name in records[0] if any(r[name] not in ("", None) for r in records)]
    for name in columns:
        table.add_column(one_line(name), overflow="fold")
    for record in records:
        cells = ("" if record[name] is None else str(record[name]) for name in columns)
        table.add_row(*map(one_line, cells))
    console().print(table)


def print_tables(tables_of: Callable[[int], Iterable[RenderableType]]) -> None:
    """Print the rich tables of the console's width."""
    for table in tables_of(console().width):
        console().print(table)


def print_json(content: Any) -> None:
    """Print one JSON document; where standard output is not UTF-8, with JSON's own escapes."""
    is_ascii = (sys.stdout.encoding or "").lower() != "utf-8"
    print(json_text(content, indent=2, sort_keys=True, ensure_ascii=is_ascii))


def console() -> Console:
    """Standard output as a rich console, which interprets nothing in texts."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _FILE_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)
