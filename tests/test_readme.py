"""What README.md tells people to type works as written."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import cosmos_eval
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
    """An empty folder, the current one, with the README's own YAML files and a data root."""
    names = re.findall(r"`(my-[a-z]+\.yaml)`:", README.read_text("utf-8"))
    for name, text in zip(names, blocks("yaml"), strict=True):
        (tmp_path / name).write_text(text)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", MEASURE)
def test_measuring_commands(line, users_folder, capsys):
    arguments = [re.sub("^~", str(users_folder), word) for word in shlex.split(line)[1:]]
    if arguments[0] == "leaderboard":
        arguments.append("--help")
    if arguments[0] == "run":
        arguments.append("--dry-run")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code, capsys.readouterr().err


def test_training_commands():
    command = [sys.executable, "-m", "cosmos_core.train", "--help"]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for line in TRAIN:
        _, recipe, *options = shlex.split(line)
        assert recipe in usage
        assert all(word in usage for word in options if word.startswith("--"))


def test_python_examples_name_what_there_is():
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cosmos_eval":
                assert hasattr(cosmos_eval, node.attr)


def test_linked_files_exist():
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README.read_text("utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
