"""What README.md tells people to type works as written."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import cosmos_eval
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override
from cosmos_core.train import COMMANDS as COMMANDS_OF_TRAIN
from cosmos_core.train import app
from cosmos_eval.cli.app import main

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text("utf-8"), re.M | re.S)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]
MEASURE = [line for line in COMMANDS if line.startswith("cosmos-eval ")]
TRAIN = [line for line in COMMANDS if line.startswith("cosmos-train ")]
SET_UP = [line for line in COMMANDS if line.startswith("python3 -m venv")]


def test_every_command_is_of_a_kind_that_is_tested_here():
    assert sorted(COMMANDS) == sorted(MEASURE + TRAIN + SET_UP)


def test_set_up_is_two_lines_each_enough_by_itself():
    run, tests = SET_UP
    assert run.endswith("&& .venv/bin/cosmos-eval run")
    assert tests.endswith("&& .venv/bin/python -m pytest")
    for line in SET_UP:
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install -e ")


@pytest.fixture
def users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the README's own YAML files, a photo and an empty data root."""
    names = re.findall(r"`(my-[a-z]+\.yaml)`:", README.read_text("utf-8"))
    for name, text in zip(names, blocks("yaml"), strict=True):
        (tmp_path / name).write_text(text)
    (tmp_path / "data").mkdir()
    Image.new("RGB", (60, 40), "green").save(tmp_path / "my-photo.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Commands that need results or data of the user's.
HELP_ONLY = (
    *("leaderboard", "data", "segment", "verify", "export", "reproduce"),
    *("compare", "check"),
)


@pytest.mark.parametrize("line", MEASURE)
def test_measuring_commands(line, users_folder, capsys):
    arguments = [re.sub("^~", str(users_folder), word) for word in shlex.split(line)[1:]]
    if arguments[0] in HELP_ONLY:
        arguments.append("--help")
    if arguments[0] == "run":
        arguments.append("--dry-run")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize("line", TRAIN)
def test_training_commands(line):
    _, name, *words = shlex.split(line)
    command = name if name in COMMANDS_OF_TRAIN else "train"
    usage = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    assert [word for word in words if word.startswith("--") and word not in usage] == []
    if command == "train":
        pairs = itertools.pairwise(words)
        override(RECIPES[name](), [value for option, value in pairs if option == "--set"])


def test_python_examples_name_what_there_is():
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cosmos_eval":
                assert hasattr(cosmos_eval, node.attr)


def test_linked_files_exist():
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README.read_text("utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
