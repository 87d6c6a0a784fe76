"""The installed command, from an empty folder to a table."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.encoders import CHECKPOINT, CONFIG

from cosmos_eval.results.checked import read_results

pytestmark = pytest.mark.slow  # starts processes of its own


def program() -> list[str]:
    """The installed program beside this Python, or the module where it is not installed."""
    installed = shutil.which("cosmos-eval", path=str(Path(sys.executable).parent))
    return [installed] if installed else [sys.executable, "-m", "cosmos_eval"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("empty")
    cache = {"COSMOS_EVAL_CACHE": str(tmp_path_factory.mktemp("cache")), "HF_HUB_OFFLINE": "1"}
    model = ["--model", f"cosmos:{CHECKPOINT}", "--arch", str(CONFIG)]
    words = [*program(), "run", *model, "--limit", "10", "--json", "--device", "cpu"]
    environment = {**os.environ, **cache}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_all_tasks_are_measured_and_stored(finished):
    folder, _ = finished
    rows = read_results(folder / "runs" / "eval")
    assert sorted(row.task for row in rows) == ["cls", "retrieval", "seg", "select"]
    for row in rows:
        assert row.provenance["limit"] == 10
        assert row.provenance["device"] == "cpu"
        assert row.n_samples >= 10
        assert set(row.intervals) <= set(row.metrics)
        assert (folder / "runs" / "eval" / row.samples).is_file()
    (seg,) = [row for row in rows if row.task == "seg"]
    assert {"mIoU", "mAcc", "aAcc", "mIoU_things", "mIoU_stuff"} <= set(seg.metrics)
    assert seg.provenance["attention"] == "csa"
    assert len(seg.per_class) == 18


def test_standard_output_is_one_document_of_the_stored_results(finished):
    folder, done = finished
    stored = [json.loads(p.read_text()) for p in (folder / "runs" / "eval").glob("*.json")]
    printed = json.loads(done.stdout)
    assert sorted(map(json.dumps, printed)) == sorted(map(json.dumps, stored))
    assert done.stderr.count("wrote runs/eval/") == 4


def test_the_leaderboard_marks_them_as_partial(finished, command, monkeypatch):
    monkeypatch.chdir(finished[0])
    assert "(first 10 only)" in command("leaderboard", "--format", "md").out


def test_they_are_verified(finished, command, monkeypatch):
    monkeypatch.chdir(finished[0])
    assert command("verify").out.endswith("4 results: 4 verified\n")
