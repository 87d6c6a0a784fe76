"""How a command starts, prints and ends. Light: its imports take place under `start`."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TextIO

from cosmos_core.utils.distributed import end_process, is_main_process
from cosmos_core.utils.text import one_line

if TYPE_CHECKING:
    import typer


def start(module: str, program: str) -> None:
    """Import a module and run its `main`, which exits with the status of the command. Until it is
    imported, SIGINT ends the process at once with status 130: some libraries drop an exception that
    interrupts their import, and then fail in another way."""

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, f"{program}: interrupted\n".encode())
        os._exit(130)

    former = signal.getsignal(signal.SIGINT)
    if former is signal.default_int_handler:  # else it is ignored, as in a background job
        signal.signal(signal.SIGINT, end)
    main = import_module(module).main
    signal.signal(signal.SIGINT, former)
    main()


class Ending(NamedTuple):
    """An error line, if any, and a status; `everywhere`: all processes of a torchrun have it."""

    message: str
    status: int
    everywhere: bool = False


def run_command(
    program: str,
    app: typer.Typer,
    arguments: Sequence[str],
    describe: Callable[[BaseException], Ending | None],
) -> NoReturn:
    """Run a command and exit: 0 done, 1 failed, 2 usage, input or output error, 130 interrupted,
    141 where the reader of a pipe has gone, as by the signal. An error is one line on standard
    error; --debug shows its traceback. `describe` gives the ending by the program's own errors."""
    words = [word for word in arguments if word != "--debug"]
    with guarded_output():
        try:
            status: int = app(words, standalone_mode=False) or 0
            if status == 130:  # some versions of Typer turn an interrupt into this status
                raise KeyboardInterrupt
            sys.stdout.flush()
        except BaseException as error:  # SystemExit too, which a user's model may raise
            ending = _ending(error) or describe(error)
            message, status, everywhere = ending or Ending(
                f"{type(error).__name__}: {error} (--debug shows where)", 1
            )
            with suppress(OutputError):  # no other stream is left
                if "--debug" in arguments:
                    traceback.print_exc()
                if message and (is_main_process() or not everywhere):
                    print(f"{program}: {one_line(message)}", file=sys.stderr)
    end_process(status)


def _ending(error: BaseException) -> Ending | None:
    import typer

    # Some versions of Typer bring their own copy of Click, whose class is an ancestor of this one.
    kinds = typer.BadParameter.__mro__
    parse_error: Any = next(kind for kind in kinds if kind.__name__ == "ClickException")
    if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
        # Of a file: Typer expects it from a prompt only.
        return Ending(f"EOFError: {error.__cause__} (--debug shows where)", 1)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return Ending("interrupted; files written so far are complete", 130, everywhere=True)
    if isinstance(error, parse_error):
        return Ending(f"{error.format_message()} (see --help)", 2, everywhere=True)
    if isinstance(error, OutputError) and isinstance(error.__cause__, BrokenPipeError):
        return Ending("", 128 + signal.SIGPIPE)
    if isinstance(error, OutputError):
        return Ending(f"cannot write the output: {error}", 2)
    return None


class OutputError(OSError):
    """Standard output or standard error cannot be written. It has no `errno`: Typer ends a program
    with status 1 on the errno of a closed pipe."""


@contextmanager
def guarded_output() -> Iterator[None]:
    """Raise OutputError where a standard stream cannot be written, up to its last byte. Text that
    the stream cannot encode is escaped. What cannot be written at the end is dropped, since the
    interpreter would otherwise try again and replace the exit status."""
    streams = sys.stdout, sys.stderr
    # Python has None for a stream that was closed at the start. A replacement that is open for
    # reading refuses to be written; messages for a closed standard error are meant to get lost.
    out = sys.stdout or open(os.devnull)  # noqa: SIM115
    err = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (out, err):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = _Guarded(out), _Guarded(err)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in (out, err):
            try:
                stream.flush()
            except OSError:
                with suppress(OSError):  # of a stream without a file descriptor
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Guarded:
    """A text stream that raises OutputError instead of other kinds of OSError."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._guard(lambda: self._stream.write(text))

    def flush(self) -> None:
        self._guard(self._stream.flush)

    def _guard(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except OSError as error:
            raise OutputError(error.strerror or str(error)) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
