"""What commands print: tables and JSON on standard output, notes on standard error.

Errors of these streams are another kind of error than those of the command's work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from cosmos_eval.results.text import json_text, one_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# Wide enough for any table where no terminal states its width.
_FILE_WIDTH = 200


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


def print_tables(tables: Iterable[RenderableType]) -> None:
    """Print rich tables."""
    target = console()
    for table in tables:
        target.print(table)


def print_json(content: Any) -> None:
    """Print one JSON document; where standard output is not UTF-8, with JSON's own escapes."""
    is_ascii = (sys.stdout.encoding or "").lower() != "utf-8"
    print(json_text(content, indent=2, sort_keys=True, ensure_ascii=is_ascii))


def console() -> Console:
    """Standard output as a rich console, which interprets nothing in texts."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _FILE_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


class OutputError(OSError):
    """Standard output or standard error cannot be written.

    It has no `errno`: Typer ends a program with status 1 on the errno of a closed pipe.
    """

    @property
    def is_closed_pipe(self) -> bool:
        """Whether the reader has gone, as `head` does."""
        return isinstance(self.__cause__, BrokenPipeError)


@contextmanager
def guarded_output() -> Iterator[None]:
    """Raise OutputError where a standard stream cannot be written, up to its last byte.

    Text that the stream cannot encode is escaped. What cannot be written at the end is dropped,
    since the interpreter would otherwise try again and replace the exit status.
    """
    streams = sys.stdout, sys.stderr
    # Python has None for a stream that was closed at the start. A replacement that is open for
    # reading refuses to be written; messages for a closed standard error are meant to get lost.
    out, err = sys.stdout or _null_file("r"), sys.stderr or _null_file("w")
    for stream in (out, err):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = _Guarded(out), _Guarded(err)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in (out, err):
            _flush_or_drop(stream)


def _null_file(mode: str) -> TextIO:
    return cast(TextIO, open(os.devnull, mode))


class _Guarded:
    """A text stream that raises OutputError instead of other kinds of OSError."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _as_output_error():
            return self._stream.write(text)

    def flush(self) -> None:
        with _as_output_error():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _as_output_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(error.strerror or str(error)) from error


def _flush_or_drop(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        with suppress(OSError):  # of a stream without a file descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
