"""If standard output cannot be written, the status is 2, or that of a closed pipe, but never 1."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from support.models import store

from cosmos_eval.cli.app import main
from cosmos_eval.results.store import read_samples

pytestmark = pytest.mark.slow  # starts processes of its own

BASE = ["--baseline", "base.json"]


def status_of(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@contextmanager
def closed_pipe() -> Iterator[io.TextIOWrapper]:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", buffering=1) as stream:
        yield stream


def full_device() -> io.TextIOWrapper:
    return open("/dev/full", "w", buffering=1)


def unbuffered_full_device() -> io.TextIOWrapper:
    return io.TextIOWrapper(open("/dev/full", "wb", buffering=0), write_through=True)


@pytest.fixture
def regressed(command, tmp_path: Path) -> Path:
    """A folder whose results are worse than those of the baseline `base.json` beside it."""
    store(tmp_path / "old", "cls", 0.7)
    store(tmp_path / "new", "cls", 0.4, 2)
    assert command("check", "old", *BASE, "--update", "--reason", "why").status == 0
    assert command("check", "new", *BASE).status == 1
    return tmp_path / "new"


COMMANDS = (
    *("check new --baseline base.json", "check new --baseline base.json --json"),
    *("verify new", "verify new --json", "compare new new", "leaderboard new"),
    *("leaderboard new --format md", "reproduce", "list datasets", "--help"),
)


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize(
    ("broken", "status"), [(full_device, 2), (unbuffered_full_device, 2), (closed_pipe, 141)]
)
def test_standard_output(regressed, monkeypatch, capsys, words, broken, status):
    capsys.readouterr()
    with broken() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert status_of(*words.split()) == status
        assert sys.stdout is stream
    message = "cosmos-eval: cannot write the output: No space left on device"
    assert [line for line in capsys.readouterr().err.splitlines() if "cosmos-eval" in line] == (
        [message] if status == 2 else []
    )


@pytest.mark.parametrize(
    ("arguments", "full", "closed"),
    [
        (["list", "datasets"], 0, 0),  # which writes none
        (["check", "nowhere", *BASE], 2, 141),
        (["check", "nowhere", *BASE, "--debug"], 2, 141),
        (["nonsense"], 2, 2),
        (["nonsense", "--debug"], 2, 2),
    ],
)
def test_standard_error(regressed, monkeypatch, arguments, full, closed):
    for broken, status in ((full_device, full), (closed_pipe, closed)):
        with broken() as stream:
            monkeypatch.setattr(sys, "stderr", stream)
            assert status_of(*arguments) == status


def test_reports_are_written_all_the_same(regressed, monkeypatch, tmp_path):
    with full_device() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert status_of("check", "new", *BASE, "--junit", "j.xml", "--summary", "s.md") == 2
    assert int(ET.parse(tmp_path / "j.xml").getroot().get("failures", 0)) > 0
    assert "regression shown" in (tmp_path / "s.md").read_text()


def test_one_report_is_written_where_another_cannot_be(regressed, command, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for broken, writable in (("--junit", "--summary"), ("--summary", "--junit")):
        ended = command("check", "new", *BASE, broken, "old", writable, "report.txt")
        assert ended.status == 2
        assert "cannot write the report: " in ended.err
        assert "::error " in ended.err
        assert "acc1" in (tmp_path / "report.txt").read_text()


def test_a_file_that_ends_too_early_is_no_interrupt(regressed, command, monkeypatch):
    def end(*_: object) -> None:
        raise EOFError("No data left in file")

    monkeypatch.setattr("cosmos_core.utils.files.unpack_arrays", end)
    ended = command("compare", "new", "new")
    assert ended.status == 1
    assert "EOFError: No data left in file" in ended.err
    with pytest.raises(EOFError):
        read_samples(next(regressed.glob("*.json")))


def test_text_that_the_stream_cannot_encode(regressed, monkeypatch, tmp_path):
    (regressed / "caf\xe9_\udcff.json").write_text("{}")
    with open(tmp_path / "out.txt", "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert status_of("verify", "new") == 2
    assert r"new/caf\xe9_\udcff.json: not a result" in (tmp_path / "out.txt").read_text("ascii")


@pytest.mark.parametrize(
    ("redirection", "status"),
    [("> /dev/full", 2), ("| true", 141), (">&-", 2), ("2>&-", 0), ("2> /dev/full", 0)],
)
def test_a_process(redirection, status):
    """Also what the interpreter does at its end, when it flushes standard output again."""
    line = f'"{sys.executable}" -m cosmos_eval list datasets {redirection}'
    done = subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True
    )
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == (status == 2)
