"""Shell completion: the names that options take, and the words of a line as bash splits them.

Typer writes the scripts that bash, zsh and fish load (`cosmos-eval --install-completion`). For each
completion, such a script runs the program with the line that is typed in the environment.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from typer import Typer

VARIABLE = "_COSMOS_EVAL_COMPLETE"
"""The environment variable by which Typer's scripts ask for completions."""
OPTIONS = frozenset(("--install-completion", "--show-completion"))
"""The options that Typer adds. It ends the program itself after them."""

_ZSH_CALL = '\n_cosmos_eval_completion "$@"\n'
_SEPARATORS = (":", "=")  # characters of names that bash takes for words of their own


def model_names() -> list[str]:
    """Return the bundled and the released models, as `--model` takes them."""
    from cosmos_eval.models.specs import BUNDLED, RELEASED

    return [*BUNDLED, *(f"cosmos:{name}" for name in RELEASED)]


def dataset_names() -> list[str]:
    """Return the names of all known data sets."""
    from cosmos_eval.protocols import named_protocols
    from cosmos_eval.protocols.languages import language_protocols, language_sets
    from cosmos_eval.protocols.sets import set_names

    return [*named_protocols(), *set_names(), *language_sets(), *language_protocols()]


def protocol_names() -> list[str]:
    """Return the names of all protocols."""
    from cosmos_eval.runner.catalog import protocols

    return [record["protocol"] for record in protocols()]


def task_names() -> list[str]:
    """Return the names of all tasks, and `all`, as `--task` takes them."""
    from cosmos_eval.tasks import known_tasks

    return ["all", *known_tasks()]


def suite_names() -> list[str]:
    """Return the names of the suites of this package."""
    from cosmos_eval.protocols import suite_names as names_of_suites

    return names_of_suites()


def run_option(app: Typer, arguments: Sequence[str]) -> NoReturn:
    """Install or print the script of the current shell, as one of OPTIONS says, and exit.

    zsh runs the file of a completion at the first completion, in which Typer's file only defines a
    function. A line is added that also calls this function.
    """
    try:
        app(arguments, prog_name=app.info.name)
    finally:
        zsh_file = Path.home() / ".zfunc" / f"_{app.info.name}"
        if zsh_file.is_file():
            script = zsh_file.read_text("utf-8")
            if not script.endswith(_ZSH_CALL):
                zsh_file.write_text(script + _ZSH_CALL, "utf-8")
    raise AssertionError("Typer ends the program after these options")


def print_completions(app: Typer) -> NoReturn:
    """Print what can complete the line of a shell, which the environment holds, and exit.

    Typer completes `--model=scenes-` to `scenes-clip`, without the option. Each shell replaces
    another part of the line by a completion:
    - bash splits a line at colons and equals signs, and replaces what follows the last one: for
      `--model cosmos:vitb16_`, the completion is `vitb16_cc3m` instead of `cosmos:vitb16_cc3m`.
    - zsh replaces what follows the equals sign if the builtin `compset` tells it to. It evaluates
      the printed text.
    - fish replaces the whole word, so that the completion is `--model=scenes-clip`.
    """
    removed_prefix = added_prefix = ""
    shell = os.environ[VARIABLE].removeprefix("complete_")
    if shell == "bash":
        words = os.environ["COMP_WORDS"].split("\n")
        joined_words, removed_prefix = join_words(words, int(os.environ["COMP_CWORD"]))
        os.environ["COMP_WORDS"] = "\n".join(joined_words)
        os.environ["COMP_CWORD"] = str(len(joined_words) - 1)
    elif shell == "zsh":
        print("compset -P '--*=';")
    elif shell == "fish":
        current_word = os.environ["_TYPER_COMPLETE_ARGS"].rpartition(" ")[2]
        if current_word.startswith("-"):
            option, equals_sign, _ = current_word.partition("=")
            added_prefix = option + equals_sign if equals_sign else ""
    completions = io.StringIO()
    status = 0
    with redirect_stdout(completions):
        try:
            app(prog_name=app.info.name)
        except SystemExit as ending:
            status = int(ending.code or 0)
    for completion in completions.getvalue().splitlines():
        print(added_prefix + completion.removeprefix(removed_prefix))
    raise SystemExit(status)


def join_words(words: Sequence[str], current: int) -> tuple[list[str], str]:
    """Join the words of a line that bash has split at colons and equals signs.

    Args:
        words: The words of the line, in which each separator is a word.
        current: The index of the word that is completed. Later words are left out.

    Returns:
        The words up to the one that is completed, and the beginning of its value that bash does not
        replace, up to the last separator.

    Example:
        (["cosmos-eval", "run", "--model", "cosmos", ":", "vit"], 5) gives (["cosmos-eval", "run",
        "--model", "cosmos:vit"], "cosmos:").
    """
    joined_words: list[str] = []
    continues = False
    for word in words[: current + 1]:
        is_separator = word in _SEPARATORS
        if joined_words and (is_separator or continues):
            joined_words[-1] += word
        else:
            joined_words.append(word)
        continues = is_separator
    value = joined_words[-1]
    if value.startswith("-"):
        value = value.partition("=")[2]  # the option is no part of a completion
    end_of_prefix = max(value.rfind(separator) for separator in _SEPARATORS) + 1
    return joined_words, value[:end_of_prefix]
