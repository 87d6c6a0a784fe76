"""What writing a baseline puts beside other files, and what it leaves alone."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from support.models import make_result, store

from cosmos_eval.results.gate.baseline import baseline_samples, read_baseline, replace_baseline
from cosmos_eval.results.verify import VerifiedResult, verify_all
from cosmos_eval.types import UsageError

WHY = ["--update", "--reason", "a test"]
VERSION_1 = Path(__file__).parent / "version_1"  # as this project once stored its own baseline
RESULTS = Path(__file__).parents[3] / "results"
SETS = ("cls", "retrieval", "seg", "select")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_baseline_beside_the_folder_of_its_results_leaves_them_alone(command, tmp_path):
    for task in SETS:
        store(tmp_path / "results", task)
    before = files_of(tmp_path / "results")
    for update in (("results",), ("results/scenes-cosmos__scenes-cls__scenes.json",), ("results",)):
        ended = command("check", *update, "--baseline", "results.json", *WHY)
        assert ended.status == 0
        assert before.items() <= files_of(tmp_path / "results").items()
        assert command("check", *update, "--baseline", "results.json").status == 0
    assert {verdict.outcome for verdict in verify_all([tmp_path / "results"])} == {"verified"}


def test_only_baseline_samples_the_replaced_baseline_are_removed(command, tmp_path):
    store(tmp_path / "one", "cls")
    store(tmp_path / "two", "cls", 0.7)
    command("check", "one", "--baseline", "base.json", *WHY)
    (first,) = (tmp_path / "base").iterdir()
    other_files = [
        "x.npz",
        "scenes-cosmos__scenes-cls__scenes.01234567.npz",
        "y.01234567.baseline.npz",
    ]
    for name in other_files:
        (tmp_path / "base" / name).write_bytes(b"somebody else's")
    command("check", "two", "--baseline", "base.json", *WHY)
    assert not first.exists()
    assert set(files_of(tmp_path / "base")) > set(other_files)
    command("check", "two", "--baseline", "base.json", *WHY, "--metrics-only")
    assert set(files_of(tmp_path / "base")) == set(other_files)


@pytest.mark.parametrize("name", ["base", "base.v2", "base.txt", ".json"])
def test_baselines_do_not_share_a_folder(command, tmp_path, name):
    store(tmp_path / "new", "cls")
    ended = command("check", "new", "--baseline", name, *WHY)
    assert ended.status == 2
    assert "the name of a baseline ends with .json" in ended.err
    assert {path.name for path in tmp_path.iterdir()} == {"new"}


def test_an_edited_baseline_is_not_replaced(command, tmp_path):
    store(tmp_path / "new", "cls")
    command("check", "new", "--baseline", "base.json", *WHY)
    text = (tmp_path / "base.json").read_text().replace('"tolerance": 0.0', '"tolerance": 0.5')
    (tmp_path / "base.json").write_text(text)
    ended = command("check", "new", "--baseline", "base.json", *WHY)
    assert ended.status == 2
    assert "base.json was edited" in ended.err
    assert (tmp_path / "base.json").read_text() == text


def test_a_baseline_that_cannot_be_written_is_named(command, tmp_path):
    store(tmp_path / "new", "cls")
    (tmp_path / "base").write_text("no folder")
    ended = command("check", "new", "--baseline", "base.json", *WHY)
    assert ended.status == 2
    assert ended.err.startswith("cosmos-eval: cannot write base.json: ")
    assert not (tmp_path / "base.json").exists()


def test_of_two_writers_of_one_baseline_one_wins_with_its_samples(tmp_path):
    path = tmp_path / "base.json"
    results = [[VerifiedResult(path, *make_result("cls", skill))] for skill in (0.4, 0.8)]
    barrier = Barrier(2)

    def write(number: int) -> None:
        barrier.wait()
        replace_baseline(path, results[number], [], reason="x")

    with ThreadPoolExecutor(2) as pool:
        for _ in range(8):
            list(pool.map(write, (0, 1)))
            (entry,) = read_baseline(path).results
            assert baseline_samples(path, entry) is not None
            assert len(list((tmp_path / "base").iterdir())) == 1


def test_a_baseline_of_version_1_is_still_read(command):
    new = [RESULTS / f"scenes-cosmos__scenes-{name}__scenes.json" for name in SETS]
    ended = command("check", *new, "--baseline", VERSION_1 / "scenes.json")
    assert ended.status == 0
    assert "no regression shown, of 5 metrics (14 more for information)" in ended.out
    assert "scenes.json has version 1 and no hash of itself: write it with" in ended.err


def test_baseline_samples_version_1_are_left_when_it_is_replaced(command, tmp_path):
    """They have names that results have, too."""
    shutil.copy(VERSION_1 / "scenes.json", tmp_path)
    shutil.copytree(VERSION_1 / "scenes", tmp_path / "scenes")
    before = files_of(tmp_path / "scenes")
    new = RESULTS / "scenes-cosmos__scenes-cls__scenes.json"
    assert command("check", new, "--baseline", "scenes.json", *WHY).status == 0
    assert before.items() < files_of(tmp_path / "scenes").items()
    assert json.loads((tmp_path / "scenes.json").read_text())["schema_version"] == 2


def test_the_schema_allows_what_update_does():
    results = [VerifiedResult(Path("x"), *make_result("cls"))]
    with pytest.raises(UsageError, match=r"\$.tolerance"):
        replace_baseline(Path("never.json"), results, [], reason="x", tolerance=0.5000001)
    assert not Path("never.json").exists()
