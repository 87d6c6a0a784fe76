"""What README.md and docs/ tell people to type works as written; what they link to is there."""

from __future__ import annotations

import ast
import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image
from support.packages import forget_tasks, install
from support.pages import PAGES, README, ROOT, Typed, blocks, links, typed
from typer.testing import CliRunner

import cosmos_eval
from cosmos_core.cli import COMMANDS as COMMANDS_OF_TRAIN
from cosmos_core.cli import app
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override
from cosmos_eval.cli.app import _ending_of, main

COMMANDS = typed()


def of(program: str) -> list[Typed]:
    return [command for command in COMMANDS if command.words[0] == program]


def started(program: str, *launched: str) -> list[Typed]:
    """Commands of a program, also those that torchrun or sbatch starts, as if typed themselves."""
    commands = of(program)
    for line, program_of in itertools.product(of("torchrun") + of("sbatch"), launched):
        _, named, words = line.line.partition(f" {program_of} ")
        commands += [line._replace(line=f"{program} {words}")] if named else []
    return commands


def each_once(commands: list[Typed]) -> list[Typed]:
    """The commands without those whose arguments another page has as well."""
    return list({tuple(command.arguments): command for command in commands}.values())


TRAINED = started("cosmos-train", "-m cosmos_core.train", "examples/train.sbatch")
MEASURED = started("cosmos-eval", "-m cosmos_eval")


def test_every_command_is_of_a_kind_that_is_tested_here():
    programs = {"cosmos-eval", "cosmos-train", "torchrun", "sbatch", "python", "pip", "python3"}
    assert {command.words[0] for command in COMMANDS} == programs
    assert len(TRAINED) + len(MEASURED) == sum(
        len(of(name)) for name in ("cosmos-eval", "cosmos-train", "torchrun", "sbatch")
    )


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "index.md"])
def test_set_up_is_two_lines_each_enough_by_itself(page):
    run, tests = [line for line in "".join(blocks(page, "sh")).splitlines() if "venv" in line]
    assert run.endswith("&& .venv/bin/cosmos-eval run")
    assert tests.endswith("&& .venv/bin/python -m pytest")
    for line in (run, tests):
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install -e ")


def test_programs_and_packages_that_are_named_are_there():
    for command in of("python"):
        assert (ROOT / command.words[1]).is_file(), command
    for command in of("pip"):
        assert (ROOT / command.words[2] / "pyproject.toml").is_file(), command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the pages' commands name: YAML files, examples, a photo."""
    folder = tmp_path_factory.mktemp("user")
    for page in (README, ROOT / "docs" / "your-data.md"):
        names = re.findall(r"`(my-[a-z]+\.yaml)`:", page.read_text("utf-8"))
        for name, text in zip(names, blocks(page, "yaml"), strict=True):
            (folder / name).write_text(text)
    for copied in ("examples", "docs/pictures"):
        shutil.copytree(ROOT / copied, folder / copied)
    install(
        folder / "site",
        "image-retrieval-task",
        {"image-retrieval": "image_retrieval:ImageRetrieval"},
    )
    (folder / "data").mkdir()
    Image.new("RGB", (60, 40), "green").save(folder / "my-photo.jpg")
    for run in ("short", "cc3m"):
        (folder / "runs" / run).mkdir(parents=True)
        (folder / "runs" / run / "checkpoint.safetensors").touch()
    return folder


@pytest.fixture(scope="module")
def own_task(folder: Path) -> Iterator[None]:
    """The package of the example's task is installed."""
    with pytest.MonkeyPatch.context() as patch:
        for path in (folder / "site", folder / "examples" / "own_task"):
            patch.syspath_prepend(path)
        forget_tasks("image_retrieval")
        yield
    forget_tasks("image_retrieval")


@pytest.fixture
def users_folder(folder: Path, own_task: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, as the current one and the user's home."""
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    return folder


# Commands that need results or data of the user's.
HELP_ONLY = (
    *("leaderboard", "data", "segment", "verify", "export", "reproduce"),
    *("compare", "check", "audit", "report", "overlap", "tune", "plot", "diagnose", "scaling"),
)


@pytest.mark.parametrize("command", each_once(MEASURED), ids=str)
def test_measuring_commands(command, users_folder, capsys):
    arguments = [re.sub("^~", str(users_folder), word) for word in command.arguments]
    if arguments[0] in HELP_ONLY or "--tuned" in arguments:  # which tune writes
        arguments.append("--help")
    elif arguments[0] == "run":
        arguments.append("--dry-run")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize("command", each_once(TRAINED), ids=str)
def test_training_commands(command):
    name, *words = command.arguments
    kind = name if name in COMMANDS_OF_TRAIN else "train"
    usage = CliRunner().invoke(app, [kind, "--help"], env={"COLUMNS": "200"}).stdout
    assert [word for word in words if word.startswith("--") and word not in usage] == []
    if kind == "train":
        pairs = itertools.pairwise(words)
        override(RECIPES[name](), [value for option, value in pairs if option == "--set"])


def test_python_examples_name_what_there_is():
    for block in (block for page in PAGES for block in blocks(page, "python")):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cosmos_eval":
                assert hasattr(cosmos_eval, node.attr)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page):
    targets = [link.partition("#")[0] for link in links(page)]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_is_in_the_sites_menu():
    sections = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    named = [page for section in sections for pages in section.values() for page in pages]
    files = sorted(file for page in named for file in page.values())
    assert files == sorted(page.name for page in PAGES if page != README)


def test_the_first_page_lists_every_page():
    index = ROOT / "docs" / "index.md"
    listed = {link.partition("#")[0] for link in links(index)}
    assert {page.name for page in PAGES if page not in (README, index)} <= listed


def test_the_message_about_system_libraries_names_a_part_of_the_readme():
    ending = _ending_of(ImportError("libGL.so.1: cannot open shared object file"))
    assert ending is not None
    (heading,) = re.findall(r"see (\w+) in README.md", ending.message)
    assert f"<summary>{heading}:" in README.read_text("utf-8")


def test_the_readme_is_short():
    assert len(README.read_text("utf-8").splitlines()) <= 150
