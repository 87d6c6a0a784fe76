"""Run a command, guard its output, and end it with an exit status and a line for an error.

This module imports little: `import_and_run` imports the command.
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

from cosmos_core.utils.distributed import LostProcessError, end_process, is_main_process
from cosmos_core.utils.errors import UsageError
from cosmos_core.utils.text import one_line

if TYPE_CHECKING:
    import typer


def import_and_run(module: str, program: str) -> None:
    """Import a module and call its `main`, which exits with the status of the command.

    While the module is imported, Ctrl-C (SIGINT) ends the process at once with status 130: some
    libraries drop an exception that interrupts their import, and then fail in another way.

    Args:
        module: The full name of the module, such as "cosmos_eval.cli".
        program: The name of the command in messages, such as "cosmos-eval".
    """

    def end_at_once(signal_number: int, frame: FrameType | None) -> None:
        """Write a message to standard error, and end the process without any clean-up."""
        os.write(2, f"{program}: interrupted\n".encode())
        os._exit(130)

    former_handler = signal.getsignal(signal.SIGINT)
    # A background job ignores SIGINT instead, and keeps ignoring it.
    handles_interrupts = former_handler is signal.default_int_handler
    if handles_interrupts:
        signal.signal(signal.SIGINT, end_at_once)
    main = import_module(module).main
    signal.signal(signal.SIGINT, former_handler)
    main()


class Ending(NamedTuple):
    """The end of a command that has failed: its message and its exit status."""

    # The message in one line; empty if none is printed.
    message: str
    # The exit status.
    status: int
    # Whether all processes of torchrun have the same error. Then only the first one prints it.
    everywhere: bool = False


class ResumableInterruptError(Exception):
    """Ctrl-C has stopped a command that resumes if it is typed again."""


@contextmanager
def interrupts_are_resumable() -> Iterator[None]:
    """Raise ResumableInterruptError if Ctrl-C stops the block."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise ResumableInterruptError from error


def run_command(
    program: str,
    app: typer.Typer,
    arguments: Sequence[str],
    describe: Callable[[BaseException], Ending | None],
) -> NoReturn:
    """Run a command with its arguments, print an error in one line, and exit with a status.

    The exit status is

    - 0 for success,
    - 1 for a failure,
    - 2 for an error of usage, input or output,
    - 130 for an interrupt (Ctrl-C),
    - 141 if the reader of a pipe has gone, as if SIGPIPE had ended the command.

    Args:
        program: The name of the command in messages, such as "cosmos-eval".
        app: The Typer app of the command.
        arguments: The arguments after the name of the command. With "--debug", which `app` does
            not see, the traceback of an error is printed too.
        describe: A function that returns the message and the status for an error that the program
            itself raises, and None for any other error.
    """
    debug = "--debug" in arguments
    app_arguments = [argument for argument in arguments if argument != "--debug"]
    # Terminals whose width is unknown may set 0, for which rich would print empty tables.
    columns = os.environ.get("COLUMNS", "")
    if not columns.isdecimal() or int(columns) == 0:
        os.environ.pop("COLUMNS", None)
    with guarded_output():
        try:
            _refuse_empty_arguments(app_arguments)
            status: int = app(app_arguments, standalone_mode=False) or 0
            if status == 130:  # some versions of Typer turn an interrupt into this status
                raise KeyboardInterrupt
            sys.stdout.flush()
        except BaseException as error:  # also SystemExit, which a user's model may raise
            ending = _common_ending(error) or describe(error)
            if ending is None:
                ending = Ending(f"{type(error).__name__}: {error} (--debug shows where)", 1)
            status = ending.status
            another_process_prints = ending.everywhere and not is_main_process()
            with suppress(OutputError):  # there is no other stream to write to
                if debug:
                    traceback.print_exc()
                if ending.message and not another_process_prints:
                    print(f"{program}: {one_line(ending.message)}", file=sys.stderr)
    end_process(status)


def _refuse_empty_arguments(arguments: Sequence[str]) -> None:
    """Raise UsageError for an empty argument, such as a variable of a shell that is not set.

    Python would read an empty path as the current folder. `--text` has a message of its own.
    """
    former_argument = ""
    for argument in arguments:
        option_name, equals_sign, value = argument.partition("=")
        is_empty_value = option_name.startswith("--") and equals_sign != "" and value == ""
        is_text = "--text" in (option_name, former_argument)
        if (argument == "" or is_empty_value) and not is_text:
            named_option = option_name if is_empty_value else former_argument
            place = f" of {named_option}" if named_option.startswith("-") else ""
            raise UsageError(
                f"the value{place} is empty (a variable that is not set?); to name the current "
                "folder, write ."
            )
        former_argument = argument


def _common_ending(error: BaseException) -> Ending | None:
    """Return the message and the exit status for an error that all programs handle alike.

    These errors are interrupts, errors of usage, output that cannot be written, and the end of
    another process. Return None for any other error.
    """
    import typer

    if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
        # A file has ended too early. Typer aborts as if the input at a prompt had ended.
        return Ending(f"EOFError: {error.__cause__} (--debug shows where)", 1)
    if isinstance(error, ResumableInterruptError):
        return Ending("interrupted; the same command resumes", 130, everywhere=True)
    if isinstance(error, typer.Abort) or _is_interrupt(error):
        return Ending("interrupted; files written so far are complete", 130, everywhere=True)
    if isinstance(error, _click_exception()):
        return Ending(f"{error.format_message()} (see --help)", 2, everywhere=True)
    if isinstance(error, LostProcessError):
        return Ending(str(error), 1)
    if isinstance(error, OutputError) and isinstance(error.__cause__, BrokenPipeError):
        return Ending("", 128 + signal.SIGPIPE)
    if isinstance(error, OutputError):
        return Ending(f"cannot write the output: {error}", 2)
    return None


def _click_exception() -> Any:
    """Return Click's class of usage errors.

    Some versions of Typer bring their own copy of Click. So the class is looked up by its name
    among the ancestors of a class of Typer.
    """
    import typer

    return next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def _is_interrupt(error: BaseException) -> bool:
    """Return whether an error is Ctrl-C, or was raised while Ctrl-C ended what ran.

    For example, an interrupt may leave a file that is closed twice, which raises an OSError.
    """
    errors_to_visit: list[BaseException | None] = [error]
    visited_errors: set[int] = set()
    while errors_to_visit:
        next_error = errors_to_visit.pop()
        if next_error is None or id(next_error) in visited_errors:
            continue
        if isinstance(next_error, KeyboardInterrupt):
            return True
        visited_errors.add(id(next_error))
        errors_to_visit += [next_error.__cause__, next_error.__context__]
    return False


class OutputError(OSError):
    """Standard output or standard error cannot be written.

    This error has no `errno`: for the errno of a closed pipe, Typer would end the program with
    status 1.
    """


@contextmanager
def guarded_output() -> Iterator[None]:
    """Make standard output and standard error raise OutputError if a write in the block fails.

    Characters that a stream cannot encode are escaped. At the end of the block, text that still
    cannot be written is dropped. Otherwise the interpreter would try again at its exit, and replace
    the exit status.
    """
    former_streams = sys.stdout, sys.stderr
    # Python has None for a stream that was closed when the process started. A closed standard
    # output is replaced by a file that is open for reading, so that every write fails. A closed
    # standard error is replaced by the null device, so that messages are dropped.
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
                # Let the stream write to the null device, so that the interpreter can flush its
                # buffer at the exit. `fileno` raises an OSError if the stream is not a file.
                with suppress(OSError):
                    null_device = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(null_device, stream.fileno())


class _GuardedStream:
    """A text stream whose `write` and `flush` raise OutputError for every OSError."""

    def __init__(self, stream: TextIO) -> None:
        """Guard a text stream."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, and return its number of characters."""
        try:
            return self._stream.write(text)
        except OSError as error:
            raise OutputError(error.strerror or str(error)) from error

    def flush(self) -> None:
        """Write the text that is still in the buffer of the stream."""
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputError(error.strerror or str(error)) from error

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the guarded stream, such as `encoding`."""
        return getattr(self._stream, name)
