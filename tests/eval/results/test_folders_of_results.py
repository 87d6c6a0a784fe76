"""What is found in folders of results: linked folders, baselines, edited results for exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.models import store

from cosmos_eval.results.store import list_results

OTHER = {"spec": "cosmos:other.pt"}


def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    """The folder `r` has links to a folder outside, to a part of it, to itself and its parent."""
    outside = store(tmp_path / "outside/part", model=OTHER)
    inside = store(tmp_path / "r/inside")
    links = {"all": "outside", "part": "outside/part", "itself": "r", "again": "r/inside"}
    for name, target in links.items():
        (tmp_path / "r" / name).symlink_to(tmp_path / target)
    paths, faults = list_results(tmp_path / "r")
    assert faults == []
    assert sorted(path.name for path in paths) == sorted([inside.name, outside.name])
    assert inside in paths
    (tmp_path / "r/parent").symlink_to(tmp_path)
    assert len(list_results(tmp_path / "r")[0]) == 2


def test_a_linked_folder_of_results_is_in_the_leaderboard(command: Any, tmp_path: Path) -> None:
    store(tmp_path / "r")
    store(tmp_path / "elsewhere", model=OTHER)
    (tmp_path / "r/link").symlink_to(tmp_path / "elsewhere")
    records = json.loads(command("leaderboard", "r", "--json").out)
    assert {record["model"] for record in records} == {"scenes-cosmos", "cosmos:other.pt"}


@pytest.mark.parametrize("baseline", ["r/base.json", "r/new/base.json"])
def test_no_baseline_is_written_into_a_folder_of_results(
    baseline: str, command: Any, tmp_path: Path
) -> None:
    store(tmp_path / "r")
    ended = command("check", "r", "--baseline", baseline, "--update", "--reason", "first")
    assert ended.status == 2
    assert f"{baseline} would lie in the folder of results" in ended.err
    assert "name a --baseline outside of it" in ended.err
    assert not Path(baseline).exists()
    assert command("leaderboard", "r").status == 0


@pytest.mark.parametrize("place", ["r", "r/*.json"])
def test_a_baseline_may_lie_where_no_results_are_read(
    place: str, command: Any, tmp_path: Path
) -> None:
    """Hidden folders are not searched, and single files are not a folder."""
    store(tmp_path / "r")
    places = [str(path) for path in Path().glob(place)]
    baseline = "r/.gate/base.json" if place == "r" else "r/base.json"
    Path(baseline).parent.mkdir(exist_ok=True)
    done = command("check", *places, "--baseline", baseline, "--update", "--reason", "first")
    assert done.status == 0, done.err
    assert command("check", *places, "--baseline", baseline).status == 0


def test_a_baseline_among_results_is_called_one(command: Any, tmp_path: Path) -> None:
    store(tmp_path / "r")
    done = command("check", "r", "--baseline", "base.json", "--update", "--reason", "first")
    assert done.status == 0
    (tmp_path / "base.json").rename(tmp_path / "r/base.json")
    for arguments in (["leaderboard", "r"], ["verify", "r"]):
        ended = command(*arguments)
        assert ended.status == 2
        assert "is a baseline of `check`, not a result: move it out" in ended.out + ended.err


FORMATS = ("clip-benchmark", "every-eval-ever", "huggingface")


@pytest.mark.parametrize("format", FORMATS)
def test_no_export_has_an_edited_value(format: str, command: Any, tmp_path: Path) -> None:
    store(tmp_path / "r")
    edited = store(tmp_path / "r", "cls", 0.4, model=OTHER)
    record = json.loads(edited.read_text())
    record["metrics"]["acc1"] = 0.98765
    edited.write_text(json.dumps(record))
    ended = command("export", "r", "--format", format, "--output", "out")
    assert ended.status == 0
    assert "results not written: 1, edited after they were measured" in ended.err
    texts = [path.read_text() for path in Path("out").rglob("*") if path.is_file()]
    assert texts
    assert not any("0.98765" in text or "98.765" in text for text in texts)
    alone = command(
        "export",
        str(edited.rename(tmp_path / edited.name)),
        "--format",
        format,
        "--output",
        "alone",
    )
    assert alone.status == 2
    assert "nothing to write" in alone.err
    assert not Path("alone").exists()


def test_an_export_has_one_setting_of_a_model(command: Any, tmp_path: Path) -> None:
    store(tmp_path / "r/a", hashes={"templates": "a" * 64})
    store(tmp_path / "r/b", hashes={"templates": "b" * 64})
    ended = command("export", "r", "--format", "clip-benchmark", "--output", "out")
    assert ended.status == 2
    assert "with other settings: scenes-cls (templates aaaaaaaa)" in ended.err
