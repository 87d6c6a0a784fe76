"""Print tables and JSON on standard output, and notes on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos_eval.results.table import sorted_by, table_of_records
from cosmos_eval.results.terminal import draw_as_list, to_terminal
from cosmos_eval.results.text import json_text, one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_FILE_WIDTH = 200  # characters; for output that goes to a file and not to a terminal


def print_line(text: str, *, error: bool = False) -> None:
    """Print one line on standard output, or on standard error."""
    print(one_line(text), file=sys.stderr if error else sys.stdout)


def print_notes(notes: Iterable[str]) -> None:
    """Print notes on standard error, one per line."""
    for note in notes:
        print_line(f"note: {note}", error=True)


def print_left_out(n_results: int, way_to_show: str) -> None:
    """Print a note on results that a table leaves out, if there are any.

    Args:
        n_results: The number of these results.
        way_to_show: The option or the command that shows them.
    """
    if n_results:
        reasons = "variants of protocols, or other settings"
        print_notes([f"results not shown: {n_results}, {reasons} ({way_to_show} shows them)"])


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
    """Print records that have the same keys, as JSON or as a table without its empty columns.

    Args:
        records: The rows. Their keys are the headings of the columns.
        as_json: True if the records are printed as JSON.
        section: The first keys of the records, whose values become headings between the rows.
        texts: How many of the next keys name a row.
        sort: The column whose values give the order of the rows; empty: their own order.
    """
    if as_json:
        print_json(records)
        return
    table = sorted_by(table_of_records(records, section=section, n_text_columns=texts), sort)
    print_tables(to_terminal(table, table_width(), can_turn=False))


def print_details(records: Sequence[Mapping[str, Any]]) -> None:
    """Print records that have the same keys, with every value on a line behind its key."""
    table = table_of_records(records)
    print_tables([draw_as_list(table, table_width())])


def table_width(out: Path | None = None) -> int:
    """Return the width in characters of tables in a file, or on standard output if it is None."""
    return console().width if out is None else _FILE_WIDTH


def print_tables(texts: Iterable[Text], out: Path | None = None) -> None:
    """Print tables with blank lines between them, or write them to a file.

    Args:
        texts: The tables, not wider than `table_width(out)`.
        out: The file to write; None: standard output.
    """
    if out is not None:
        write_text("\n\n".join(text.plain for text in texts) + "\n", out)
        return
    terminal = console()
    for number, text in enumerate(texts):
        if number > 0:
            terminal.print()
        terminal.print(text, no_wrap=True, overflow="ignore", crop=False)


def shows_styles(out: Path | None = None) -> bool:
    """Return whether printed text can be bold: in a terminal, but not in a pipe or a file.

    Args:
        out: The file to write; None: standard output.
    """
    return out is None and console().color_system is not None


def write_text(text: str, out: Path | None = None) -> None:
    """Write a text to standard output, or to a file."""
    if out is None:
        sys.stdout.write(text)
        return
    from cosmos_core.utils.files import write_atomically

    write_atomically(out, text.encode())
    print_written(out)


def print_json(content: Any) -> None:
    """Print one JSON document, in ASCII with JSON's escapes unless standard output is UTF-8."""
    is_utf8 = (sys.stdout.encoding or "").lower() == "utf-8"
    print(json_text(content, indent=2, sort_keys=True, ensure_ascii=not is_utf8))


def console() -> Console:
    """Return standard output as a rich console that does not interpret markup in texts."""
    from rich.console import Console

    has_width = sys.stdout.isatty() or os.environ.get("COLUMNS")
    width = None if has_width else _FILE_WIDTH  # None: rich finds out the width
    return Console(width=width, highlight=False, markup=False, emoji=False)
