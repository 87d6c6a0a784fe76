"""`cosmos-eval`: the commands, and how they end."""

from __future__ import annotations

import errno
import signal
import sys
import traceback
from contextlib import suppress
from typing import Annotated, Any

import typer

from cosmos_core.utils.distributed import end_process, is_main_process
from cosmos_eval.cli import (
    attend,
    cache,
    check,
    compare,
    data,
    export,
    leaderboard,
    listing,
    report,
    run,
    segment,
    verify,
)
from cosmos_eval.cli.output import OutputError, guarded_output
from cosmos_eval.results.text import one_line
from cosmos_eval.types import CosmosEvalError, UsageError

app = typer.Typer(
    name="cosmos-eval",
    help="Measure CLIP-like models: retrieval, classification, segmentation, caption selection.",
    add_completion=False,
    rich_markup_mode=None,  # its tables leave too few columns for help texts
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("segment")(segment.segment)
app.command("attend")(attend.attend)
app.command("list")(listing.list_known)
app.add_typer(data.app, name="data")
app.add_typer(cache.app, name="cache")
app.command("leaderboard")(leaderboard.leaderboard)
app.command("report")(report.report)
app.command("reproduce")(leaderboard.reproduce)
app.command("compare")(compare.compare)
app.command("check")(check.check)
app.command("verify")(verify.verify)
app.command("export")(export.export)

# Errors of names that users give, and of permissions, whichever access to a file finds them.
_USERS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR)

# The parser's error for a wrong command line. Some versions of Typer bring their own copy of Click,
# so that the class is only available as an ancestor of the one that Typer exports.
_ParseError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


@app.callback()
def _global_options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; at any position.")
    ] = False,
) -> None:
    """Measure CLIP-like models: retrieval, classification, segmentation, caption selection."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 done, 1 failed, 2 usage, input or output error, 130 interrupted.

    An error is one line on standard error; --debug shows its traceback. The status is 141 where the
    reader of a pipe has gone, as for a program that the signal ends.
    """
    given = sys.argv[1:] if arguments is None else arguments
    with guarded_output():
        code = _run([word for word in given if word != "--debug"], debug="--debug" in given)
    end_process(code)


def _run(arguments: list[str], *, debug: bool) -> int:
    """Run a command line and return its exit status."""
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:  # SystemExit too: it comes from a user's model, never from here
        if debug:
            with suppress(OutputError):
                traceback.print_exc()
        return _end(error)
    # Some versions of Typer turn an interrupt into this status, others into Abort.
    return _end(KeyboardInterrupt()) if code == 130 else code or 0


def _end(error: BaseException) -> int:
    """Print one line about what went wrong; return the exit status.

    Of an error that all processes of one torchrun have, only the first prints it.
    """
    if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
        error = error.__cause__  # of a file: Typer expects it from a prompt only
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        message = "interrupted; results written so far are complete"
        return _fail(message, 130, silent=not is_main_process())
    if isinstance(error, OutputError):
        if error.is_closed_pipe:
            return 128 + signal.SIGPIPE
        return _fail(f"cannot write the output: {error}", 2)
    if isinstance(error, UsageError):
        return _fail(str(error), 2, silent=not is_main_process())
    if isinstance(error, CosmosEvalError):
        return _fail(str(error), 1, silent=not is_main_process())
    if isinstance(error, _ParseError):
        return _fail(f"{error.format_message()} (see --help)", 2, silent=not is_main_process())
    if isinstance(error, OSError) and error.errno in _USERS:
        return _fail(f"{error.filename or 'a file'} cannot be used: {error.strerror}", 2)
    if isinstance(error, SystemExit):
        return _fail(f"a model or library called sys.exit({error.code!r}) (--debug shows where)", 2)
    if isinstance(error, ImportError) and ".so" in str(error):
        return _fail(f"a system library is missing ({error}); see Set-up in README.md", 1)
    return _fail(f"{type(error).__name__}: {error} (--debug shows where)", 1)


def _fail(message: str, code: int, *, silent: bool = False) -> int:
    if not silent:
        with suppress(OutputError):  # no other stream is left
            print(f"cosmos-eval: {one_line(message)}", file=sys.stderr)
    return code
