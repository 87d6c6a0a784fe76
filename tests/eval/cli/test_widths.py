"""Tables at the widths of terminals: no number and no name of a metric is cut or broken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cosmos_eval.cli.output import print_records
from cosmos_eval.tasks import known_tasks

ROOT = Path(__file__).parents[3]
RESULTS = str(ROOT / "results")
MODELS = ("--model", "scenes-cosmos", "--model", "scenes-clip")
COMMANDS = (
    *(("list", what) for what in ("models", "tasks", "datasets", "protocols", "suites")),
    ("leaderboard", RESULTS),
    ("leaderboard", RESULTS, "--published", "--facts", "--ranks", "--decimals", "2"),
    ("leaderboard", RESULTS, "--transpose", "--no-intervals"),
    ("leaderboard", RESULTS, "--suite", "robustness", "--published"),
    ("reproduce", RESULTS),
    ("compare", RESULTS, RESULTS, *MODELS),
    ("check", RESULTS, "--baseline", str(ROOT / "benchmarks" / "baselines" / "scenes.json")),
    ("data", "doctor", "scenes-retrieval", "scenes-cls", "scenes-seg"),
    ("run", "--dry-run", "--no-cache"),
    ("cache", "info"),
)
NUMBER = re.compile(r"[<>+±-]?\[?[+-]?\d[\d.,e+/x%-]*\]?")
NAMES = {name for task in known_tasks().values() for name in task.by_name}


def words(text: str) -> set[str]:
    """Numbers, intervals and names of metrics; nothing of notes."""
    found = {word.strip(",;") for word in text.split()}
    return {word for word in found if NUMBER.fullmatch(word) or word in NAMES}


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_no_number_and_no_metric_is_cut(arguments, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    expected = words(command(*arguments).out)
    for width in (80, 100, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        text = command(*arguments).out
        assert "…" not in text
        tables = re.split(r"(?m)^(?:baseline:|checked for)", text)[0]  # sentences follow
        assert max(map(len, tables.splitlines())) <= width
        assert expected - words(text) == set()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_tables_of_tuning_and_overlap(width, capsys, monkeypatch):
    """Columns as `tune` and `overlap` print them, of long names."""
    monkeypatch.setenv("COLUMNS", str(width))
    path = "/data/" + "training-images-of-2024/" * 6 + "00001.tar"
    print_records([{"image": path, "found in": path, "distance": 3, "cosine": 0.9731}])
    names = [f"cosmos:{path}", "openclip:ViT-B-32-quickgelu/laion400m_e32", "scenes-cosmos"]
    row = {"": "best of 100", **dict.fromkeys(names, "51.25 [50.61, 52.12]")}
    print_records([row, {**row, "": "worst_group_mean_recall"}])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    assert "0.9731" in text
    assert text.count("51.25 [50.61, 52.12]") == 6
    assert "worst_group_mean_recall" in text
