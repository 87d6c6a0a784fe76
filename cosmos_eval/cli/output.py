"""What commands print: tables and JSON on standard output, notes on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos_eval.results.table import of_records, sorted_by
from cosmos_eval.results.terminal import to_terminal
from cosmos_eval.results.text import json_text, one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

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


def print_records(
    records: Sequence[Mapping[str, Any]],
    *,
    as_json: bool = False,
    section: Sequence[str] = (),
    texts: int = 1,
    sort: str = "",
) -> None:
    """Print records that have the same keys as JSON, or as a table without its empty columns, where
    the keys `section` are headings and the next `texts` name a row, in the order of a column."""
    if as_json:
        print_json(records)
        return
    table = sorted_by(of_records(records, section=section, texts=texts), sort)
    print_tables(lambda width: to_terminal(table, width, can_turn=False))


def print_tables(texts_of: Callable[[int], Iterable[Text]], out: Path | None = None) -> None:
    """Print texts that are made for the console's width, a blank line between them, or write them
    to a file."""
    if out is not None:
        write_text("\n\n".join(text.plain for text in texts_of(_FILE_WIDTH)) + "\n", out)
        return
    shown = console()
    for number, text in enumerate(texts_of(shown.width)):
        blank = ["\n"] * (number > 0)
        shown.print(*blank, text, sep="", no_wrap=True, overflow="ignore", crop=False)


def write_text(text: str, out: Path | None = None) -> None:
    """Write a text to standard output, or to a file."""
    if out is None:
        sys.stdout.write(text)
        return
    from cosmos_core.utils.files import write_atomically

    write_atomically(out, text.encode())
    print_written(out)


def print_json(content: Any) -> None:
    """Print one JSON document; where standard output is not UTF-8, with JSON's own escapes."""
    is_ascii = (sys.stdout.encoding or "").lower() != "utf-8"
    print(json_text(content, indent=2, sort_keys=True, ensure_ascii=is_ascii))


def console() -> Console:
    """Standard output as a rich console, which interprets nothing in texts."""
    from rich.console import Console

    is_known = sys.stdout.isatty() or os.environ.get("COLUMNS")
    width = None if is_known else _FILE_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)
