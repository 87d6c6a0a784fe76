"""Start a command, guard its output, and end it with a status and a line for an error.

This module imports little: `start` imports the command.
"""

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
    """Import a module and run its `main`, which exits with the status of the command.

    While it is imported, SIGINT ends the process at once with status 130: some libraries drop an
    exception that interrupts their import, and then fail in another way.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, f"{program}: interrupted\n".encode())
        os._exit(130)

    former_handler = signal.getsignal(signal.SIGINT)
    # In a background job SIGINT is ignored, which is not changed.
    if former_handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)
    main = import_module(module).main
    signal.signal(signal.SIGINT, former_handler)
    main()


class Ending(NamedTuple):
    """How a command ends with an error."""

    # The error line; empty if none is printed.
    message: str
    # The exit status.
    status: int
    # Whether all processes of torchrun have the same error: the first one prints it.
    everywhere: bool = False


def run_command(
    program: str,
    app: typer.Typer,
    arguments: Sequence[str],
    describe: Callable[[BaseException], Ending | None],
) -> NoReturn:
    """Run a command and exit with its status.

    The status is 0 for success, 1 for a failure, 2 for an error of usage, input or output, 130 for
    an interrupt, and 141, as by the signal, if the reader of a pipe has gone. An error is one line
    on standard error; --debug shows its traceback. `describe` returns the ending for errors of the
    program itself.
    """
    debug = "--debug" in arguments
    app_arguments = [argument for argument in arguments if argument != "--debug"]
    with guarded_output():
        try:
            status: int = app(app_arguments, standalone_mode=False) or 0
            if status == 130:  # some versions of Typer turn an interrupt into this status
                raise KeyboardInterrupt
            sys.stdout.flush()
        except BaseException as error:  # also SystemExit, which a user's model may raise
            ending = _common_ending(error) or describe(error)
            if ending is None:
                ending = Ending(f"{type(error).__name__}: {error} (--debug shows where)", 1)
            status = ending.status
            with suppress(OutputError):  # there is no other stream to write to
                if debug:
                    traceback.print_exc()
                if ending.message and (is_main_process() or not ending.everywhere):
                    print(f"{program}: {one_line(ending.message)}", file=sys.stderr)
    end_process(status)


def _common_ending(error: BaseException) -> Ending | None:
    """Return the ending for errors that all programs have in common."""
    import typer

    # Some versions of Typer bring their own copy of Click, whose class is an ancestor of this one.
    ancestors = typer.BadParameter.__mro__
    parse_error: Any = next(kind for kind in ancestors if kind.__name__ == "ClickException")
    if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
        # The end of a file. Typer aborts for it as if it were the end of a prompt.
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
    """Standard output or standard error cannot be written.

    It has no `errno`, because Typer ends a program with status 1 for the errno of a closed pipe.
    """


@contextmanager
def guarded_output() -> Iterator[None]:
    """Raise OutputError in the block if a standard stream cannot be written, up to its last byte.

    Text that a stream cannot encode is escaped. Text that cannot be written at the end is dropped:
    the interpreter would otherwise try again, and replace the exit status.
    """
    former_streams = sys.stdout, sys.stderr
    # Python has None for a stream that was closed at the start. A replacement that is open for
    # reading refuses to be written; messages for a closed standard error are meant to get lost.
    stdout = sys.stdout or open(os.devnull)  # noqa: SIM115
    stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (stdout, stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = _GuardedStream(stdout), _GuardedStream(stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = former_streams
        for stream in (stdout, stderr):
            try:
                stream.flush()
            except OSError:
                # Some streams have no file descriptor.
                with suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _GuardedStream:
    """A text stream that raises OutputError instead of other kinds of OSError."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _output_errors():
            return self._stream.write(text)

    def flush(self) -> None:
        with _output_errors():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _output_errors() -> Iterator[None]:
    """Raise OutputError for an OSError of the block."""
    try:
        yield
    except OSError as error:
        raise OutputError(error.strerror or str(error)) from error
