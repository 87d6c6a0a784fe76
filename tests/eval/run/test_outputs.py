"""Folders that a run writes to are tested before anything is measured."""

from __future__ import annotations

import os

import pytest
from support.writing import Writing

from cosmos_core.utils import files
from cosmos_eval import models as encoders

RUN = ("run", "--device", "cpu")


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model fails the test."""

    def fail(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(encoders, "load_encoder", fail)


@pytest.mark.parametrize(
    ("arguments", "cache", "message"),
    [
        (["--output", "file/out"], "cache", "file/out: Not a directory; choose another folder by"),
        (["--save-predictions", "file/p"], "cache", "file/p: Not a directory; choose another"),
        ([], "file", "file/embeddings: Not a directory; choose another folder by COSMOS_EVAL_"),
    ],
)
def test_a_folder_that_cannot_be_written_is_named_first(
    command, own_suite, tmp_path, monkeypatch, no_model, arguments, cache, message
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COSMOS_EVAL_CACHE", str(tmp_path / cache))
    before = sorted(tmp_path.iterdir())
    done = command(*RUN, "--suite", str(own_suite), *arguments)
    assert done.status == 2
    assert done.err.startswith("cosmos-eval: cannot write to ")
    assert message in done.err
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_tested_where_nothing_is_measured(command, own_suite, tmp_path, monkeypatch):
    run = (*RUN, "--no-cache", "--output", "out", "--suite", str(own_suite))
    assert command(*run).status == 0

    def refuse(folder):
        raise ValueError("cannot write to it")

    monkeypatch.setattr("cosmos_eval.runner.plan.require_writable", refuse)
    done = command(*run)
    assert done.status == 0, done.err
    next((tmp_path / "out").glob("*.json")).unlink()
    assert command(*run).status == 2


def test_what_a_killed_run_left_among_results_is_removed_by_the_next(command, own_suite, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    living = Writing(out)
    try:
        (written_now,) = os.listdir(out)
        Writing(out).kill()
        (out / ".notes.tmp").touch()
        files._cleared.clear()
        run = (*RUN, "--no-cache", "--output", "out", "--suite", str(own_suite))
        assert command(*run).status == 0
        hidden = {name for name in os.listdir(out) if name.startswith(".")}
        assert hidden - {".partial"} == {written_now, ".notes.tmp"}
    finally:
        living.kill()


@pytest.mark.parametrize(
    "words",
    [
        ["attend", "scene.jpg", "--text", "a", "--output", "{}/a.png"],
        ["segment", "scene.jpg", "--output", "{}/a.png"],
        ["report", ".", "--output", "{}/a.html"],
        ["export", ".", "--output", "{}/a.csv"],
    ],
)
def test_a_file_that_cannot_be_written_is_named_first(command, tmp_path, no_model, words):
    (tmp_path / "file").touch()
    done = command(*(word.format("file/below") for word in words))
    assert done.status == 2
    assert done.err.startswith("cosmos-eval: cannot write file/below/a.")
    assert done.err.endswith(": Not a directory\n")
    done = command(*words[:-1], ".")
    assert done.status == 2
    assert "cannot write .: it is a folder; name a file" in done.err
