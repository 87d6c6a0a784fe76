"""Tasks that packages bring: what a package may get wrong, reported in a line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.packages import forget_tasks, install
from support.rows import make_row, write_result

from cosmos_eval.cli.app import main
from cosmos_eval.runner import catalog
from cosmos_eval.tasks import TASKS, find_protocol, known_tasks, packages_of, task_named
from cosmos_eval.types import ClassificationProtocol, UsageError

MODULE = """
from dataclasses import dataclass
from cosmos_eval.tasks import Metric, Task
from cosmos_eval.types import Protocol

@dataclass(frozen=True, kw_only=True)
class Mine(Protocol):
    task = "third"
    places: int
    lists: bytes = b""

class Third(Task):
    protocol = Mine
    metrics = (Metric("share", primary=True),)
    truth = ("label",)
    checked = "nothing"

    def open_data(self, protocol, options):
        return None

    def measure(self, encoder, protocols, data, options, progress):
        yield from ()
"""


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install a package `thirds` with the tasks given, and the module it has them from."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text: str = MODULE, name="thirds", **tasks: str) -> None:
        (tmp_path / "thirds.py").write_text(text)
        install(tmp_path, name, tasks or {"third": "thirds:Third"}, version="1.2")
        forget_tasks("thirds")

    yield write
    monkeypatch.undo()
    forget_tasks("thirds")


def test_without_any_the_tasks_are_those_of_the_table():
    assert list(known_tasks()) == list(TASKS)
    assert len(known_tasks()) == len(TASKS)
    assert all(packages_of(name) == {} for name in TASKS)


def test_an_installed_task_is_one_as_any_other(bring, tmp_path):
    bring()
    assert list(known_tasks()) == [*TASKS, "third"]
    assert task_named("third").headlines == {"share": "share"}
    assert packages_of("third") == {"thirds": "1.2"}
    (tmp_path / "my.yaml").write_text("kind: third\nplaces: 4\n")
    protocol = find_protocol(str(tmp_path / "my.yaml"))
    assert (protocol.dataset, protocol.protocol_name, protocol.places) == ("my", "user", 4)
    assert protocol.task == "third"


def test_fields_that_no_file_can_set(bring, tmp_path):
    bring()
    (tmp_path / "my.yaml").write_text("kind: third\nplaces: 4\nlists: a\n")
    with pytest.raises(UsageError, match=r"my\.yaml: `lists` must be a valid bytes, not 'a'"):
        find_protocol(str(tmp_path / "my.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module", "task 'third' of thirds 1.2 cannot be loaded: ModuleNotFoundErr"),
        ("1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("Fourth = 3", "cannot be loaded: AttributeError: "),
        (
            "Third = 3",
            r"task 'third' of thirds 1\.2: thirds:Third is not a subclass of cosmos_eval",
        ),
        (MODULE.replace("def measure", "def measured"), "abstract method '?measure"),
        (MODULE.replace('task = "third"', ""), "its protocol Mine needs `task: ClassVar"),
        (MODULE.replace('"third"', '"fourth"'), 'needs `task: ClassVar.str. = "third"`'),
    ],
)
def test_a_broken_package_is_named(bring, text, message):
    bring(text)
    with pytest.raises(UsageError, match=message) as raised:
        task_named("third")
    assert "\n" not in str(raised.value)


def test_a_broken_package_leaves_the_other_tasks_alone(bring, tmp_path):
    bring("1 / 0")
    assert task_named("cls").protocol is ClassificationProtocol
    (tmp_path / "photos.yaml").write_text("kind: cls\nfolder: photos\n")
    assert find_protocol(str(tmp_path / "photos.yaml")).task == "cls"
    (tmp_path / "bad.yaml").write_text("kind: clss\n")
    with pytest.raises(UsageError, match=f"give one of {', '.join(TASKS)}, third"):
        find_protocol(str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"Third": "thirds:Third"}, "thirds 1.2 brings a task 'Third': use small letters"),
        ({"all": "thirds:Third"}, "thirds 1.2 brings a task 'all': use small letters"),
        ({"cls": "thirds:Third"}, "thirds 1.2 brings a task 'cls', which cosmos-eval has itself"),
    ],
)
def test_names_that_no_task_can_have_break_no_other_task(bring, tasks, message):
    bring(**tasks)
    (name,) = tasks
    assert list(known_tasks()) == list(TASKS)
    assert find_protocol("scenes-cls").task == "cls"
    assert task_named("cls").protocol is ClassificationProtocol
    fault = catalog.tasks()[-1]
    assert fault["task"] == name
    assert fault["shown"].startswith(message)
    if name not in TASKS:
        with pytest.raises(UsageError, match=message):
            task_named(name)


def test_two_packages_with_one_name(bring):
    bring()
    bring(name="others", third="thirds:Third")
    assert list(known_tasks()) == list(TASKS)
    with pytest.raises(UsageError, match=r"(thirds|others) 1\.2 and .* both bring a task 'third'"):
        task_named("third")


def test_every_protocol_of_this_package_names_its_task():
    for name in TASKS:
        assert task_named(name).protocol.task == name


def test_a_broken_package_leaves_the_tasks_of_other_packages_alone(bring, tmp_path):
    # `broken` comes first by its name, so that a scan meets it before the task that works.
    install(tmp_path, "broken", {"broken": "no_such_module:TASK"}, version="3.4")
    bring()
    (tmp_path / "my.yaml").write_text("kind: third\nplaces: 4\n")
    assert find_protocol(str(tmp_path / "my.yaml")).task == "third"
    with pytest.raises(UsageError, match=r"task 'broken' of broken 3\.4 cannot be loaded"):
        task_named("broken")


def test_tables_and_reports_show_the_results_of_a_broken_package(bring, tmp_path, capsys):
    bring("1 / 0")
    write_result(tmp_path / "results", make_row(), {"unused": np.zeros(4)})
    row = make_row(task="third", dataset="mine", protocol="user", metrics={"share": 0.25},
                   intervals={}, per_class={})  # fmt: skip
    write_result(tmp_path / "results", row, {"unused": np.zeros(4)})
    for command in (["leaderboard"], ["report", "--output", str(tmp_path / "report.html")]):
        with pytest.raises(SystemExit) as ended:
            main([*command, str(tmp_path / "results")])
        printed = capsys.readouterr()
        assert ended.value.code in (None, 0), printed.err
        page = printed.out if command == ["leaderboard"] else (tmp_path / "report.html").read_text()
        assert "whose package cannot be loaded" in " ".join(page.split())
        assert "0.25" in page  # as stored: its unit is unknown
        assert "25.0" in page  # acc1 of the task of this package


def test_packages_are_not_looked_for_by_help(tmp_path):
    install(tmp_path, "thirds", {"Third": "thirds:Third"})
    done = subprocess.run(
        [sys.executable, "-m", "cosmos_eval", "run", "--help"],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
