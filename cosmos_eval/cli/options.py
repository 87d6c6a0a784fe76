"""Options and arguments: one name, help text and panel for the same thing in every command."""

import difflib
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from typer import Argument, BadParameter, Option
from typer.core import TyperCommand, TyperGroup

from cosmos_eval import types
from cosmos_eval.cli.completion import dataset_names, model_names, suite_names
from cosmos_eval.results.table import NamePatterns, TableOptions

MODELS, DATA, COMPUTATION = "Models", "Data", "Computation"
CONTENT, LAYOUT = "Content of tables", "Layout of tables"
METHODS = "Methods, by groups of trainings"
_LEAST_FOR_PANELS = 10  # parameters of a command, with --help, whose help has panels


# The class of usage errors of Click, or of Typer's own copy of Click.
_ClickUsageError: Any = BadParameter.__base__


class _Spelling(NamedTuple):
    """Another spelling of an option, which no help lists."""

    name: str
    # The value that the spelling stands for; None if a value follows it.
    value: Any
    # Whether the option had this name in earlier versions. Its use prints the new name.
    is_former_name: bool = False


_HIDDEN_SPELLINGS = {
    "--format": _Spelling("--json", "json"),
    "--no-cache": _Spelling("--cache", False),
    "--output": _Spelling("--out", None, is_former_name=True),
    "--tuned": _Spelling("--settings", None, is_former_name=True),
}


class Command(TyperCommand):
    """A command with hidden spellings of options, such as `--json` for `--format json`.

    Its help shows panels only if it has many options.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        # Lines of a paragraph are joined, so that the terminal's width wraps them.
        self.help = re.sub(r"(?<=\S)\n(?=\S)", " ", self.help or "")
        if len(self.params) < _LEAST_FOR_PANELS:
            for parameter in self.params:
                parameter.rich_help_panel = None  # type: ignore[attr-defined]

    def make_parser(self, ctx: Any) -> Any:
        """Return click's parser of the command, which also knows the hidden spellings.

        `--json` then sets the parameter `format` to `json`, and `--out FILE` sets `output`.
        """
        parser: Any = super().make_parser(ctx)
        for parameter in self.params:
            for option_name in parameter.opts:
                spelling = _HIDDEN_SPELLINGS.get(option_name)
                if spelling is None:
                    continue
                takes_value = spelling.value is None
                parser.add_option(
                    parameter,
                    opts=[spelling.name],
                    dest=parameter.name,
                    action="store" if takes_value else "store_const",
                    const=spelling.value,
                )
        return parser

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of the command, and print the new name of every former option.

        For example `note: --out is now called --output`. The message for a wrong choice gets the
        nearest possible one, and the message for surplus arguments how to give an option several
        values.
        """
        options_of_command = {name for parameter in self.params for name in parameter.opts}
        arguments_without_values = {argument.partition("=")[0] for argument in args}
        for option_name, spelling in _HIDDEN_SPELLINGS.items():
            is_known = option_name in options_of_command
            is_used = spelling.name in arguments_without_values
            if is_known and is_used and spelling.is_former_name:
                print(f"note: {spelling.name} is now called {option_name}", file=sys.stderr)
        try:
            return super().parse_args(ctx, list(args))  # the parser takes them out of its list
        except BadParameter as error:
            error.message = suggest_choice(error.message)
            raise
        except _ClickUsageError as error:
            if "unexpected extra argument" in error.message:
                error.message += self._advice_to_repeat(args)
            raise

    def _advice_to_repeat(self, arguments: list[str]) -> str:
        """Return how to give several values to the repeatable options among the arguments.

        For example, ": repeat --dataset for each value" for `run --dataset voc20 voc21`. The text
        is empty without such an option.
        """
        repeatable_options = []
        for parameter in self.params:
            is_used = any(name in arguments for name in parameter.opts)
            if is_used and getattr(parameter, "multiple", False):
                repeatable_options.append(parameter.opts[0])
        if not repeatable_options:
            return ""
        return f": repeat {' or '.join(repeatable_options)} for each value"


def suggest_choice(message: str) -> str:
    """Return Typer's message for a wrong choice, with the nearest choice if one is similar.

    Other messages stay as they are.

    Example:
        "Value error, 'latex' is not one of 'md', 'tex'." gives "'latex' is not one of 'md', 'tex'.
        Did you mean 'tex'?"
    """
    match = re.search(r"'(.*)' is not one of (.*)\.$", message)
    if match is None:
        return message
    wrong_choice, choices_text = match.groups()
    choices = re.findall("'([^']+)'", choices_text)
    nearest_choices = difflib.get_close_matches(wrong_choice, choices, n=1)
    suggestion = f" Did you mean '{nearest_choices[0]}'?" if nearest_choices else ""
    return match.group() + suggestion


class CommandGroup(TyperGroup):
    """A group of commands. Without a command, it prints its help and ends with status 0."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of the group, or show its help if there are none."""
        is_completed_by_a_shell = ctx.resilient_parsing
        if not args and not is_completed_by_a_shell:
            args = ["--help"]
        return super().parse_args(ctx, args)


def option(metavar: str, help: str, panel: str | None = None, **settings: Any) -> Any:
    """Return an option that takes a value.

    Args:
        metavar: The text that stands for the value in the help, such as `DIR`.
        help: The line that the help shows.
        panel: The heading under which the help lists the option; None: the usual one.
        settings: Further arguments of `typer.Option`, such as `min=1`.

    Example:
        `data_root: Annotated[str, option("DIR", "Folder of data sets.")]` gives `--data-root DIR`.
    """
    return Option(metavar=metavar, help=help, rich_help_panel=panel, **settings)


def flag(names: str, help: str, panel: str | None = None) -> Any:
    """Return an option without a value.

    Args:
        names: `--name`, or `--name/--no-name` for an option that can also be switched off.
        help: The line that the help shows.
        panel: The heading under which the help lists the option; None: the usual one.
    """
    return Option(names, help=help, rich_help_panel=panel, metavar="")


def output_file(metavar: str, help: str) -> Any:
    """Return the option `--output` of a file to write.

    A file that cannot be written is refused before its content is computed.
    """
    return Option("--output", metavar=metavar, callback=require_writable, help=help)


def require_writable(path: Path | None) -> Path | None:
    """Return the path that an option names. Raises UsageError if no file can be written there."""
    from cosmos_core.utils.files import require_replaceable

    if path is None:
        return None
    try:
        require_replaceable(path)
    except ValueError as error:
        raise types.UsageError(str(error)) from error
    return path


def make_table_options(
    metrics: list[str] | None, decimals: int | None, intervals: bool | None, sort: str
) -> TableOptions:
    """Return the options of a table from the command-line options that all tables share.

    Args:
        metrics: Lists of metrics such as `acc1,acc5`, which may hold `*`; None: the usual ones.
        decimals: Digits after the point; None: the usual number for each metric.
        intervals: True if confidence intervals are shown; None: they are.
        sort: The column whose values give the order of the rows; empty: the usual order.
    """
    return TableOptions(
        patterns=NamePatterns.split(metrics=metrics),
        decimals=decimals,
        intervals=intervals is not False,
        sort=sort,
    )


Text = str | None
Texts = list[str] | None
File = Path | None

Format = Annotated[
    Literal["table", "json"],
    option("table|json", "Form of what is printed; or just --json.", show_default=False),
]

Suite = Annotated[
    Text,
    option(
        "NAME|FILE",
        "A suite of data sets, and perhaps of models.",
        autocompletion=suite_names,
    ),
]
Dataset = Annotated[
    str, option("NAME|FILE", "A known data set or YAML file.", autocompletion=dataset_names)
]
Datasets = Annotated[
    Texts,
    option("NAME|FILE", "A known data set or YAML file; repeatable.", autocompletion=dataset_names),
]
Model = Annotated[
    str, option("SPEC", "A model, see `cosmos-eval list models`.", autocompletion=model_names)
]
Names = Annotated[Texts, option("NAME", "Name of a model in tables; one per --model.")]
ResultFolder = Annotated[Path, Argument(metavar="[DIR]", help="A folder of results.")]
Labs = Annotated[
    bool, flag("--labs", "Name and compare labs, each of which has a folder in DIR.", CONTENT)
]
Strict = Annotated[bool, flag("--strict", "Refuse results of edited code or an unknown commit.")]

Arch = Annotated[Text, option("NAME|FILE", "OpenCLIP architecture of a checkpoint.", MODELS)]
Weights = Annotated[types.Weights, option("NAME", "teacher or student.", MODELS)]
Attention = Annotated[
    types.Attention | None,
    option(
        "NAME",
        "Last block of the image tower: vanilla, csa, maskclip, clearclip, naclip, proxy or "
        "crossmodal. Default: the protocol's.",
        MODELS,
    ),
]
Auxiliary = Annotated[
    Text,
    option("SPEC", "Encoder that guides --attention proxy.", MODELS, autocompletion=model_names),
]

DataRoot = Annotated[Text, option("DIR", "Folder of downloaded data sets.", DATA)]

Precision = Annotated[
    types.Precision, option("NAME", "fp32, bf16, fp16, or amp as published.", COMPUTATION)
]
Device = Annotated[str, option("NAME", "cpu, cuda or cuda:N; auto: a GPU if any.", COMPUTATION)]
Workers = Annotated[int, option("N", "Threads that read images.", COMPUTATION, min=0)]

Published = Annotated[
    bool, flag("--published/--no-published", "Show numbers that others published.", CONTENT)
]
Metrics = Annotated[
    Texts, option("NAME,...", "Only these metrics, as JSON names them; `*` is any text.", CONTENT)
]
ScalingGroups = Annotated[
    Texts,
    option("NAME,...", "A method: recipes or groups; `*` is any text; repeatable.", METHODS),
]
HoldOut = Annotated[
    Text, option("BUDGET|largest", "Fit without this budget, and predict it.", CONTENT)
]
Decimals = Annotated[int | None, option("N", "Digits after the point.", LAYOUT, min=0, max=6)]
Intervals = Annotated[
    bool | None,
    flag(
        "--intervals/--no-intervals",
        "95% intervals. Default: not in leaderboards for tex.",
        LAYOUT,
    ),
]
PaperColumns = Annotated[
    int | None,
    option("1|2", "Columns of a paper that a table spans; for tex.", LAYOUT, min=1, max=2),
]
Caption = Annotated[
    bool, flag("--caption", "Captions with n, methods of intervals, version; for tex.", LAYOUT)
]
Sort = Annotated[str, option("COLUMN", "Order of the rows, by the values of a column.", LAYOUT)]
