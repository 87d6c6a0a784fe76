"""How far a command is, when it will end, and how Ctrl-C ends it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cosmos_eval.cli import progress as bars
from cosmos_eval.runner.overall import OVERALL, OverallProgress, Stage
from cosmos_eval.types import Progress

PICTURES = Path(__file__).parents[3] / "examples"


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    monkeypatch.setenv("NO_COLOR", "1")
    clock = Clock()
    monkeypatch.setattr(bars, "time", clock)
    return clock


def test_lines_say_how_long_is_left(clock, capsys):
    """After 10 s, 20 of 100 images in 10 s: 40 s. Cached ones and a new beginning do not count."""
    steps = (
        (0, Progress("images", 0, 100), ""),
        (10, Progress("images", 20, 100), "a: images 20/100, 0:00:40 left\n"),
        (5, Progress("images", 40, 100), ""),
        (5, Progress("images", 60, 100), "a: images 60/100, 0:00:13 left\n"),
        # Thirty images are ready at once.
        (0, Progress("images", 90, 100, "30 are ready"), "a: 30 are ready\n"),
        (10, Progress("images", 95, 100), "a: images 95/100, 0:00:10 left\n"),
        # The next set begins.
        (10, Progress("images", 0, 8), "a: images 0/8\n"),
        (20, Progress("images", 5, 8), "a: images 5/8, 0:00:12 left\n"),
        (10, Progress("images", 8, 8), "a: images 8/8, 0:00:00 left\n"),
    )
    with bars.Progress() as progress:
        for seconds, step, expected in steps:
            clock.now += seconds
            progress.step("a", step)
            assert capsys.readouterr().err == expected


def test_the_state_of_a_decision_takes_the_place_of_the_count(clock, capsys):
    state = "A - B: +2.1 [-0.4, 4.6] after 512 of 5,000 images"
    with bars.Progress() as progress:
        progress.step("a", Progress("decision", 480, 5000, state="A - B: +2.0 [-0.5, 4.5]"))
        clock.now += 10
        progress.step("a", Progress("decision", 512, 5000, state=state))
    assert capsys.readouterr().err == f"a: decision {state}, 0:23:22 left\n"


def test_bars_say_how_long_is_left(clock, capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with bars.Progress() as progress:
        progress.step(OVERALL, Progress("all results", 0, 10_000))
        progress.step("a", Progress("images", 0, 100))
        progress._bars.refresh()
        begun = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
        assert re.search(r"overall: all results .* 0% +-:--:--", begun)
        assert re.search(r"a: images .* 0/100 +-:--:--", begun)
        clock.now += 30
        progress.step("a", Progress("images", 25, 100))
        progress.step(OVERALL, Progress("all results", 1250, 10_000))
        progress._bars.refresh()
        later = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
        assert re.search(r"overall: all results .* 12% +0:03:30", later)
        assert re.search(r"a: images .* 25/100 +0:01:30", later)
        progress.hide_bars()
        progress._bars.refresh()
        last = capsys.readouterr().err.rpartition("all results")[2]
        assert "a: images" not in last


def overall_of(steps: list[tuple[str, Progress]]) -> list[float]:
    return [step.done / step.total for title, step in steps if title == OVERALL]


def test_the_whole_is_weighed_by_sizes():
    """Two sets of 300 and 100 images, of which one has twelve captions in between."""
    steps: list[tuple[str, Progress]] = []

    def show(title, step):
        steps.append((title, step))

    overall = OverallProgress(show, "all", [Stage("images", 300), Stage("images", 100)])
    overall.show("a", Progress("load", 1, 1))
    overall.show("a", Progress("images", 150, 300))
    overall.show("a", Progress("captions", 6, 12))
    overall.show("a", Progress("images", 10, 300))
    overall.show("a", Progress("images", 300, 300))
    overall.end_stage()
    overall.show("a", Progress("images", 20, 100))
    overall.end_stage()
    assert overall_of(steps) == [0, 0.375, 0.375, 0.75, 0.75, 0.8, 1]
    shown = [(title, step.phase, step.done) for title, step in steps if title != OVERALL]
    assert shown == [
        *(("a", "load", 1), ("a", "images", 150), ("a", "captions", 6), ("a", "images", 10)),
        *(("a", "images", 300), ("a", "images", 20)),
    ]


def test_a_later_phase_ends_the_stages_before():
    steps: list[tuple[str, Progress]] = []

    def note_step(name: str, step: Progress) -> None:
        steps.append((name, step))

    stages = [Stage("compare", 1), Stage("open", 1), Stage("compute", 2), Stage("draw", 1)]
    overall = OverallProgress(note_step, "report", stages)
    overall.show("report", Progress("compare", 1, 2))
    overall.show("report", Progress("open", 0, 3))
    overall.show("report", Progress("draw", 4, 8))  # nothing to compute
    assert overall_of(steps) == [0, 0.1, 0.2, 0.9]


def test_a_single_stage_has_no_overall_progress():
    steps: list[tuple[str, Progress]] = []

    def note_step(name: str, step: Progress) -> None:
        steps.append((name, step))

    overall = OverallProgress(note_step, "all", [Stage("images", 5)])
    overall.show("a", Progress("images", 1, 5))
    overall.end_stage()
    assert steps == [("a", Progress("images", 1, 5))]


@pytest.fixture
def slow_model(tmp_path, monkeypatch) -> str:
    """A model that says when it begins to encode images, and then takes long."""
    monkeypatch.chdir(tmp_path)
    content = (PICTURES / "own_model.py").read_text()
    begin = "    return nearest(images).mean"
    assert begin in content
    waiting = f"    open('begun', 'w').close()\n    __import__('time').sleep(60)\n{begin}"
    Path("colours.py").write_text(content.replace(begin, waiting))
    shutil.copy(PICTURES / "own_model.py", "plain.py")
    return "python:colours.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "interrupted; the same command resumes"),
        (["--no-cache"], "interrupted; files written so far are complete"),
    ],
)
def test_ctrl_c_says_that_the_same_command_resumes(slow_model, tmp_path, more, message):
    arguments = ["run", "--dataset", "scenes-cls", "--limit", "8", "--model", slow_model, *more]
    process = subprocess.Popen(
        [sys.executable, "-m", "cosmos_eval", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COSMOS_EVAL_CACHE": str(tmp_path / "cache")},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not Path("begun").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == f"cosmos-eval: {message}"


def test_a_run_of_several_results_shows_the_whole(slow_model, command, monkeypatch):
    """Every step is a line here. The whole begins at 0%, never goes back, and ends at 100%."""
    monkeypatch.setattr(bars, "_INTERVAL", 0.0)
    pair = ["--model", "python:plain.py", "--dataset", "scenes-cls", "--limit", "8"]
    ended = command("run", *pair)
    assert ended.status == 0, ended.err
    assert OVERALL not in ended.err
    ended = command("run", *pair, "--dataset", "scenes-select")
    assert ended.status == 0, ended.err
    percents = [int(text) for text in re.findall(r"overall: all results (\d+)%", ended.err)]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (0, 100)
    assert len(set(percents)) > 2
