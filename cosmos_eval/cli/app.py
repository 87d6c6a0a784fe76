"""`cosmos-eval`: the commands, and how they end."""

import errno
import os
import sys
from typing import Annotated

import typer

from cosmos_core.utils.command import Ending, run_command
from cosmos_eval._version import __version__
from cosmos_eval.cli import completion, data, draw
from cosmos_eval.cli.audit import audit
from cosmos_eval.cli.check import check
from cosmos_eval.cli.convert import convert
from cosmos_eval.cli.diagnose import diagnose
from cosmos_eval.cli.options import Command, CommandGroup
from cosmos_eval.cli.overlap import overlap
from cosmos_eval.cli.plot import plot
from cosmos_eval.cli.results import compare, export, leaderboard, report, reproduce, verify
from cosmos_eval.cli.run import run
from cosmos_eval.cli.scaling import scaling
from cosmos_eval.cli.tune import tune
from cosmos_eval.types import CosmosEvalError, UsageError

_PROGRAM = "cosmos-eval"

app = typer.Typer(
    name=_PROGRAM,
    cls=CommandGroup,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
)
_COMMANDS = {
    "Measure": (run, tune, diagnose),
    "Results": (leaderboard, report, reproduce, compare, check, audit, scaling, verify, export),
    "Models and data": (data.list_known, draw.segment, draw.attend, convert, overlap),
}
for panel, commands in _COMMANDS.items():
    for command in commands:
        name = command.__name__.partition("_")[0]  # `list` of list_known
        app.command(name, cls=Command, rich_help_panel=panel)(command)
app.add_typer(plot, name="plot", rich_help_panel="Results")
app.add_typer(data.data, name="data", rich_help_panel="Models and data")
app.add_typer(data.cache, name="cache", rich_help_panel="Models and data")

# Errors of the operating system that the name or the permissions of a user's file cause.
_USAGE_ERRNOS = (
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
)


def _print_version(is_wanted: bool) -> None:
    """Print the version and end the command, if the option `--version` is given."""
    if is_wanted:
        print(f"{_PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            metavar="",
            help="Show the version and exit.",
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", metavar="", help="Show the traceback of an error; at any position."
        ),
    ] = False,
) -> None:
    """Measure CLIP-like models: retrieval, classification, segmentation, caption selection."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit. Its arguments are by default the arguments of the process."""
    if arguments is None:
        arguments = sys.argv[1:]
    if completion.VARIABLE in os.environ:
        completion.print_completions(app)
    elif completion.OPTIONS & set(arguments):
        completion.run_option(app, arguments)
    run_command(_PROGRAM, app, arguments, _ending_of)


def _ending_of(error: BaseException) -> Ending | None:
    """Return the message and the exit status of an error; None for an error of the program.

    The status is 2 if the user's input or options are wrong, and 1 for other errors that a user
    can do something about.
    """
    if isinstance(error, CosmosEvalError):
        status = 2 if isinstance(error, UsageError) else 1
        return Ending(str(error), status, everywhere=True)
    if isinstance(error, OSError) and error.errno in _USAGE_ERRNOS:
        return Ending(f"{error.filename or 'a file'} cannot be used: {error.strerror}", 2)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        reason = str(error).partition(". ")[0]
        return Ending(f"{reason}: use a smaller --batch-size, or --precision bf16", 1)
    if isinstance(error, SystemExit):
        message = f"a model or library called sys.exit({error.code!r}) (--debug shows where)"
        return Ending(message, 2)
    if isinstance(error, ImportError) and ".so" in str(error):
        return Ending(f"a system library is missing ({error}); see Requirements in README.md", 1)
    return None
