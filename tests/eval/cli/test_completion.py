"""Completion in real shells, which run on terminals of their own as users have them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cosmos_eval.cli.completion import join_words

ROOT = Path(__file__).parents[3]
TERMINAL = ROOT / "tests" / "support" / "terminal.py"

# What is typed before the tab, and what the shell adds.
COMPLETED = {
    "cosmos-eval leaderb": "oard",
    "cosmos-eval list prot": "ocols",
    "cosmos-eval run --task ret": "rieval",
    "cosmos-eval list datasets --task mul": "tilabel",
    "cosmos-eval run --model cosmos:vitb32_pix": "elprose",
    "cosmos-eval run --dataset coco-k": "arpathy",
    "cosmos-eval run --protocol kar": "pathy",
    "cosmos-eval run --suite datacomp-3": "8",
    "cosmos-eval data doctor imagenet-s": "ketch",
    "cosmos-eval leaderboard --format te": "x",
    "cosmos-eval leaderboard my-res": "ults",
    "cosmos-eval run --model=scenes-clip-l": "ong",
    "cosmos-eval run --model=cosmos:vitb32_pix": "elprose",
    "cosmos-eval run --limit=5 --dataset=coco-k": "arpathy",
    "cosmos-eval run --output=my-res": "ults",
}
# bash takes a colon for the end of a word, so that what follows may be a file.
COMPLETED_BY_BASH = {"cosmos-eval run --model python:my-mo": "del.py"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of a user who has the program, results, a data set and a model."""
    home = tmp_path / "home"
    (home / "my-results").mkdir(parents=True)
    for name in ("my-pictures.yaml", "my-model.py"):
        (home / name).touch()
    program = tmp_path / "bin" / "cosmos-eval"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\nPYTHONPATH={ROOT} OMP_NUM_THREADS=1 exec {sys.executable} -m cosmos_eval "
        '"$@"\n'
    )
    program.chmod(0o755)
    return home


def type_lines(shell: str, home: Path, *lines: str) -> list[str]:
    """Type lines into a shell; return what it completes those with a tab to.

    zsh removes the slash of a folder again when the cursor moves, so that slashes are left out.
    """
    path = f"{home.parent / 'bin'}:{os.environ['PATH']}"
    ended = subprocess.run(
        [sys.executable, TERMINAL, shell, home, *lines],
        env={"PATH": path, "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [line.rstrip(" /") for line in ended.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "shell",
    [
        pytest.param(shell, marks=pytest.mark.program(shell, install=f"apt install {shell}"))
        for shell in ("bash", "zsh", "fish")
    ],
)
def test_a_shell_completes_names_after_the_installation(shell, home):
    assert type_lines(shell, home, "cosmos-eval --install-completion") == []
    expected = dict(COMPLETED)
    if shell == "bash":
        expected.update(COMPLETED_BY_BASH)
    completed = type_lines(shell, home, *(f"{line}\t" for line in expected))
    assert completed == [line + ending for line, ending in expected.items()]


@pytest.mark.parametrize(
    ("words", "current", "joined", "prefix"),
    [
        (["run"], 0, ["run"], ""),
        (["run", "--model", "scenes"], 2, ["run", "--model", "scenes"], ""),
        (["--model", "cosmos", ":", "vit"], 3, ["--model", "cosmos:vit"], "cosmos:"),
        (["--model", "cosmos", ":"], 2, ["--model", "cosmos:"], "cosmos:"),
        (["--model", "=", "sce"], 2, ["--model=sce"], ""),
        (["--model", "=", "cosmos", ":", "vit"], 4, ["--model=cosmos:vit"], "cosmos:"),
        (["--model", "a", ":", "b", "--task", "seg"], 5, ["--model", "a:b", "--task", "seg"], ""),
        (["--task", "se", "--model", "a", ":", "b"], 1, ["--task", "se"], ""),
    ],
)
def test_words_that_bash_splits(words, current, joined, prefix):
    assert join_words(words, current) == (joined, prefix)
