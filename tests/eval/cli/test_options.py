"""Options: one name and one help text for the same thing, in panels, on one screen."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperCommand
from typer.testing import CliRunner

from cosmos_core.cli import app as train_app
from cosmos_eval.cli.app import app

MANY = 10  # parameters of a command that has panels
FILES = {"FILE", "DIR"}
# What a command writes beside its output, or reads.
OTHER_FILES = {
    *("summary", "junit", "baseline", "save_predictions", "predictions", "trainings", "settings"),
    *("space", "csv", "data_root"),
}
RESULTS = Path(__file__).parents[3] / "results"
WITHOUT_RESULT = {"report", "export", "convert"}  # which print the name of a file


def commands_of(app: typer.Typer) -> dict[str, Any]:
    found = dict(typer.main.get_group(app).commands)
    for group in [name for name, one in found.items() if hasattr(one, "commands")]:
        inner = found.pop(group).commands
        found |= {f"{group} {name}": one for name, one in inner.items()}
    return found


COMMANDS = commands_of(app)


def options_of(command: TyperCommand) -> list[Any]:
    return [one for one in command.params if one.param_type_name == "option" and not one.hidden]


def help_of(words: str, width: int, of: typer.Typer = app) -> list[str]:
    ended = CliRunner().invoke(of, [*words.split(), "--help"], env={"COLUMNS": str(width)})
    return ended.stdout.splitlines()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_help_of_run_is_one_screen(width):
    lines = help_of("run", width)
    assert max(map(len, lines)) <= width
    assert len(lines) < 60
    assert not [line for line in lines if "…" in line]


@pytest.mark.parametrize("name", COMMANDS)
def test_many_options_are_in_panels(name):
    command = COMMANDS[name]
    panels = {one.rich_help_panel for one in options_of(command)} - {None}
    assert bool(panels) == (len(command.params) >= MANY)
    shown = "\n".join(help_of(name, 80))
    assert all(f"─ {panel} ─" in shown for panel in panels)
    assert all(one.help for one in options_of(command))


def test_the_same_thing_has_one_name_and_one_type():
    """An option has one meaning: a value or none, and of values the same form, in all commands."""
    forms = defaultdict(lambda: defaultdict(set))
    parameters = defaultdict(set)
    for name, command in COMMANDS.items():
        for one in options_of(command):
            option = one.opts[0]
            forms[option][one.metavar or "none"].add(name)
            parameters[one.name].add(option)
    assert {name: options for name, options in parameters.items() if len(options) > 1} == {}
    # A file or a folder is written, one of several forms is printed.
    free = {"--output", "--format"}
    several = {o: dict(by) for o, by in forms.items() if len(by) > 1 and o not in free}
    assert several == {}


@pytest.mark.parametrize(
    "name", [*COMMANDS, *(f"cosmos-train {n}" for n in commands_of(train_app))]
)
def test_what_is_written_is_named_by_output(name):
    command = COMMANDS.get(name) or commands_of(train_app)[name.removeprefix("cosmos-train ")]
    names = {one.opts[0] for one in options_of(command)}
    assert not names & {"--out", "--out-dir", "--output-dir", "--file", "--json"}
    assert "output" not in {one.name for one in command.params if one.param_type_name != "option"}
    others = {one.name for one in options_of(command) if (one.metavar or "") in FILES}
    assert others <= {"output", *OTHER_FILES}


@pytest.mark.parametrize("name", COMMANDS)
def test_results_are_printed_as_json_by_format(name):
    by_name = {one.name: one for one in options_of(COMMANDS[name])}
    assert ("format" in by_name) == (name not in WITHOUT_RESULT)
    if "format" in by_name:
        assert "--json" in by_name["format"].help


@pytest.mark.parametrize("name", ["leaderboard", "compare", "check", "reproduce"])
def test_commands_that_print_numbers_share_the_options_of_tables(name):
    names = {option for one in options_of(COMMANDS[name]) for option in one.opts}
    assert names >= {"--decimals", "--intervals", "--sort"}
    # Of a check all metrics are shown: each of them may have regressed.
    assert ("--metrics" in names) == (name != "check")


def test_former_spellings(command, tmp_path):
    """`--json` is short for `--format json`, and `--out` the former name of `--output`."""
    listed = command("list", "suites", "--format", "json").out
    assert listed == command("list", "suites", "--json").out
    assert listed.startswith("[")
    assert command("leaderboard", RESULTS, "--format", "csv", "--out", "board.csv").status == 0
    assert (tmp_path / "board.csv").read_text("utf-8").startswith("model,task")


@pytest.mark.slow
def test_options_of_tables_reach_a_comparison(command):
    models = ("--model", "scenes-cosmos", "--model", "scenes-clip")
    every = json.loads(command("compare", RESULTS, RESULTS, *models, "--json").out)
    chosen = json.loads(
        command("compare", RESULTS, *models, "--metrics", "mIoU,acc1", "--json").out
    )
    kept = [test for test in every["tests"] if test["metric"] in ("mIoU", "acc1")]
    assert chosen["tests"] == kept  # with Holm's p-values of all
    how = ("--decimals", "3", "--no-intervals", "--sort", "A - B", "--metrics", "acc1,acc5,mIoU")
    shown = command("compare", RESULTS, *models, *how).out
    found = [float(one) for one in re.findall(r"(?<= )[+-]\d+\.\d{3}(?= )", shown)]
    tests = [test for test in every["tests"] if test["metric"] in ("acc1", "acc5", "mIoU")]
    expected = sorted(100 * test["difference"] for test in tests)
    assert found == pytest.approx(expected, abs=0.0006)
    assert "[" not in shown.partition("─")[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "leaderboard {} --suite robustness --published --sort acc1",
            "--sort acc1: give model or rank, or add",
        ),
        (
            "leaderboard {} --suite robustness --published --metrics acc1",
            "need --members with --suite",
        ),
        ("reproduce {} --sort size", "--sort size: give a column of the table: model, published"),
        ("reproduce {} --metrics acc", "no metric is called 'acc'; there are"),
        ("compare {}", "Missing argument 'B': name it, or give --model or --group twice"),
        ("compare {} {} --plan", "--plan and --same-seeds need --group, given twice"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words, message, command):
    ended = command(*words.replace("{}", str(RESULTS)).split())
    assert (ended.status, ended.out) == (2, "")
    assert message in ended.err
