"""Standard output and standard error, whose failures are no failures of the command's work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class OutputError(OSError):
    """Standard output or standard error cannot be written.

    It has no `errno`: Typer ends a program with status 1 where that of a closed pipe reaches it.
    """

    @property
    def is_closed_pipe(self) -> bool:
        """Whether the reader has gone, as `head` does: nobody wants to know more."""
        return isinstance(self.__cause__, BrokenPipeError)


@contextmanager
def guarded_output() -> Iterator[None]:
    """Raise OutputError where a standard stream cannot be written, up to its last byte.

    Text that the stream cannot encode is escaped. At the end what cannot be written is given up,
    since the interpreter would otherwise try again and replace the exit status.
    """
    streams = sys.stdout, sys.stderr
    # Python has None for a stream that was closed at the start. One for reading refuses to be
    # written; messages for a closed standard error are meant to get lost.
    out, err = sys.stdout or _nowhere("r"), sys.stderr or _nowhere("w")
    for stream in (out, err):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = _Guarded(out), _Guarded(err)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in (out, err):
            _flush_or_give_up(stream)


def _nowhere(mode: str) -> TextIO:
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


def _flush_or_give_up(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        with suppress(OSError):  # of a stream without a file descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
