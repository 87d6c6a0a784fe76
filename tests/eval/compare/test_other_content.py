"""Results on other images under the same names are not compared, and have columns of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.hub import COMMIT, Hub
from support.models import store
from support.webdatasets import put, refused, shard

import cosmos_eval
from cosmos_eval.results.labels import distinct_results
from cosmos_eval.results.leaderboard.entries import entries_of
from cosmos_eval.results.leaderboard.suite import suite_score
from cosmos_eval.results.store import read_stored, result_paths
from cosmos_eval.types import Suite, SuiteMember, UsageError

MODEL = f"python:{Path(__file__).parents[3] / 'examples/own_model.py'}"
STL10 = "datasets/clip-benchmark/wds_stl10"
OTHER_COMMIT = "f" * 40
A, B = "a" * 64, "b" * 64  # hashes of content
NO_CONTENT = {"content": ""}  # as in results of older versions
NOT_COMPARED = "the content of the images was not compared"


def measure(command: Any, dataset: str, folder: str, name: str, *options: str) -> None:
    run = ("run", "--dataset", dataset, "--model", MODEL, "--name", name, "--output", folder)
    ended = command(*run, *options)
    assert ended.status == 0, ended


def write_baseline(command: Any, *folders: str) -> None:
    ended = command("check", *folders, "--baseline", "base.json", "--update", "--reason", "first")
    assert ended.status == 0, ended


def columns_of(command: Any, *arguments: str) -> set[str]:
    records = json.loads(command("leaderboard", *arguments, "--format", "json").out)
    return {record["dataset"] for record in records}


def test_a_webdataset_at_two_revisions(hub: Hub, command: Any) -> None:
    put(hub, STL10, "red\ngreen\nblue\n", shard(("red", "0"), ("lime", "1"), ("blue", "2")))
    measure(command, "wds/stl10", "r/first", "model", "--download")
    write_baseline(command, "r/first")
    assert command("check", "r/first", "--baseline", "base.json").status == 0
    hub.commit = OTHER_COMMIT
    put(hub, STL10, "red\ngreen\nblue\n", shard(("#ee0000", "0"), ("#00ee00", "1"), ("blue", "2")))
    measure(command, "wds/stl10", "r/second", "model", "--download")
    differences = (f"revision is {COMMIT[:12]} and {OTHER_COMMIT[:12]}", "hashes.content")
    refused(command("compare", "r/first", "r/second"), *differences)
    ended = command("check", "r/second", "--baseline", "base.json")
    assert ended.status == 2
    lines = [line for line in ended.err.splitlines() if "measured otherwise" in line]
    assert len(lines) == 1
    assert all(difference in lines[0] for difference in differences)
    measure(command, "wds/stl10", "r/third", "other", "--download")
    columns = columns_of(command, "r")
    for commit in (COMMIT, OTHER_COMMIT):
        (column,) = (
            name for name in columns if name.startswith(f"wds/stl10 (revision {commit[:8]}")
        )
        assert ", content " in column
    assert len(columns) == 2


def test_another_revision_of_the_same_images(hub: Hub, command: Any) -> None:
    put(hub, STL10, "red\ngreen\nblue\n", shard(("red", "0"), ("lime", "1"), ("blue", "2")))
    measure(command, "wds/stl10", "first", "model", "--download")
    hub.commit = OTHER_COMMIT
    measure(command, "wds/stl10", "second", "model", "--download")
    ended = command("compare", "first", "second")
    refused(ended, f"revision is {COMMIT[:12]} and {OTHER_COMMIT[:12]}")
    assert "hashes.content" not in ended.err


def test_a_folder_whose_files_were_overwritten(command: Any, save_colour: Any) -> None:
    for colour in ("red", "green", "blue"):
        for number in range(4):
            save_colour(Path(f"photos/{colour}/{number}.png"), colour)
    Path("mine.yaml").write_text("kind: cls\nfolder: photos\ntemplates: ['a {}']\n")
    data = ("--data-root", ".")
    measure(command, "mine.yaml", "first", "model", *data)
    write_baseline(command, "first")
    measure(command, "mine.yaml", "again", "model", *data)
    assert command("check", "again", "--baseline", "base.json").status == 0
    for number in range(3):
        save_colour(Path(f"photos/red/{number}.png"), "blue")
    measure(command, "mine.yaml", "second", "model", *data)
    ended = command("check", "second", "--baseline", "base.json")
    assert ended.status == 2
    assert "hashes.content (images, label maps and labels that were measured) is" in ended.err
    refused(command("compare", "first", "second"), "hashes.content")


@pytest.mark.parametrize("field", ["repository", "revision"])
def test_repository_and_revision_count_without_a_content(
    field: str, command: Any, tmp_path: Path
) -> None:
    store(tmp_path / "a", provenance={field: "one"})
    store(tmp_path / "b", provenance={field: "two"})
    refused(command("compare", "a", "b"), f"{field} is one and two")
    write_baseline(command, "a")
    ended = command("check", "b", "--baseline", "base.json")
    assert ended.status == 2
    assert f"{field} is one and two" in ended.err
    (tmp_path / "b").rename(tmp_path / "a/b")
    other = {"spec": "cosmos:other.pt"}
    store(tmp_path / "a", model=other, provenance={field: "two"})
    labels = {f"scenes-cls ({field} {value})" for value in ("one", "two")}
    assert columns_of(command, "a") == labels


@pytest.mark.parametrize("lacking", ["first", "second", "both"])
def test_results_without_the_hash_are_compared_with_a_note(
    lacking: str, command: Any, tmp_path: Path
) -> None:
    for folder, skill in (("first", 0.6), ("second", 0.7)):
        hashes = NO_CONTENT if lacking in (folder, "both") else {"content": A}
        store(tmp_path / "r" / folder, skill=skill, hashes=hashes, provenance={"revision": "one"})
    comparison = json.loads(command("compare", "r/first", "r/second", "--json").out)
    assert any(NOT_COMPARED in note for note in comparison["notes"])
    write_baseline(command, "r/first")
    ended = command("check", "r/second", "--baseline", "base.json")
    assert ended.status in (0, 1)
    assert f"{NOT_COMPARED}, since the baseline or a result does not record it" in ended.err
    store(tmp_path / "r/first", model={"spec": "cosmos:other.pt"}, hashes={"content": A})
    (tmp_path / "r/second").rename(tmp_path / "second")
    assert columns_of(command, "r") == {"scenes-cls"}
    text = " ".join(command("leaderboard", "r", "--format", "md").out.split())
    note = "Not compared: the content of the images, which older results do not record."
    assert (note in text) == (lacking != "second")


def test_with_the_hash_in_both_nothing_is_noted(command: Any, tmp_path: Path) -> None:
    store(tmp_path / "r/a", hashes={"content": A})
    store(tmp_path / "r/b", skill=0.7, hashes={"content": A}, model={"spec": "cosmos:other.pt"})
    comparison = json.loads(command("compare", "r/a", "r/b", "--json").out)
    assert not any("content" in note for note in comparison["notes"])
    assert "content" not in command("leaderboard", "r", "--format", "md").out
    write_baseline(command, "r/a")
    assert "content" not in command("check", "r/a", "--baseline", "base.json").err


def test_columns_of_two_contents_and_of_none(command: Any, tmp_path: Path) -> None:
    for spec, hashes in (("a", {"content": A}), ("b", {"content": B}), ("c", NO_CONTENT)):
        store(tmp_path / "r", model={"spec": f"cosmos:{spec}.pt"}, hashes=hashes)
    labels = {f"scenes-cls (content {value})" for value in (A[:8], B[:8], "not recorded")}
    assert columns_of(command, "r") == labels
    assert columns_of(command, "r", "--datasets", "scenes-cls") == labels
    only_a = columns_of(command, "r", "--datasets", "*aaaaaaaa*")
    assert only_a == {"scenes-cls (content aaaaaaaa)"}


def test_one_model_on_two_contents(command: Any, tmp_path: Path) -> None:
    """A table has both; a comparison needs one of them."""
    store(tmp_path / "r/a", hashes={"content": A})
    store(tmp_path / "r/b", hashes={"content": B}, skill=0.7)
    assert len(columns_of(command, "r")) == 2
    store(tmp_path / "s", hashes={"content": B}, model={"spec": "cosmos:other.pt"})
    refused(command("compare", "r", "s"), "results of scenes-cosmos on other data", "keep one")


def test_an_older_result_of_the_same_measurement_repeats_it(tmp_path: Path) -> None:
    store(tmp_path / "a", hashes={"content": A})
    store(tmp_path / "b", hashes=NO_CONTENT)
    assert len(distinct_results(read_stored(result_paths(tmp_path)))) == 1


def test_an_edited_hash_moves_no_other_result(command: Any, tmp_path: Path) -> None:
    store(tmp_path / "r", hashes={"content": A})
    path = store(tmp_path / "r", hashes={"content": A}, model={"spec": "cosmos:other.pt"})
    path.write_text(path.read_text().replace(A, B))
    assert columns_of(command, "r") == {"scenes-cls"}


def test_trainings_of_a_group_are_compared_with_each_other(command: Any, tmp_path: Path) -> None:
    """Also where the first of them does not record its content."""
    contents = {"a": [NO_CONTENT, {"content": A}], "b": [{"content": A}, {"content": B}]}
    for group, of_group in contents.items():
        for seed, hashes in enumerate(of_group):
            training = {"group": group, "seed": seed, "recipe_sha256": None, "data_sha256": None}
            training |= {"samples": None, "flops": None}
            model = {"spec": f"cosmos:{group}{seed}.pt", "training": training}
            store(tmp_path / "r", seed=seed, model=model, hashes=hashes)
    ended = command("compare", "r", "--group", "a", "--group", "b")
    refused(ended, "hashes.content")
    assert ended.out == ""


def test_a_check_of_trainings_compares_all_of_them(command: Any, tmp_path: Path) -> None:
    for seed, hashes in enumerate([NO_CONTENT, {"content": A}, {"content": A}, {"content": B}]):
        training = {"group": "g", "seed": seed, "recipe_sha256": None, "data_sha256": None}
        training |= {"samples": None, "flops": None}
        model = {"spec": f"cosmos:{seed}.pt", "training": training}
        folder = tmp_path / ("new" if seed == 3 else "old")
        store(folder, seed=seed, model=model, hashes=hashes)
    write_baseline(command, "old")
    ended = command("check", "new", "--baseline", "base.json")
    assert ended.status == 2
    assert "hashes.content" in ended.err


def test_a_suite_does_not_pair_models_of_other_content(tmp_path: Path) -> None:
    member = SuiteMember("cls", "scenes-cls", "scenes", ("acc1",))
    suite = Suite("mine", (), (), (), (member,), {}, "")
    for spec, content in (("a", A), ("b", B)):
        store(tmp_path / "r", model={"spec": f"cosmos:{spec}.pt"}, hashes={"content": content})
    score = suite_score(suite, entries_of(read_stored(result_paths(tmp_path / "r"))))
    assert [row.present for row in score.rows] == [1, 1]
    assert any("Not paired" in note and "scenes-cls" in note for note in score.notes)
    store(tmp_path / "r/more", model={"spec": "cosmos:a.pt"}, hashes={"content": B})
    with pytest.raises(UsageError, match=r"cosmos:a.pt has several results of scenes-cls"):
        suite_score(suite, entries_of(read_stored(result_paths(tmp_path / "r"))))


def test_a_report_has_both_columns_and_compares_only_within(tmp_path: Path, command: Any) -> None:
    for spec, content in (("a", A), ("b", A), ("c", B)):
        store(tmp_path / "r", model={"spec": f"cosmos:{spec}.pt"}, hashes={"content": content})
    with pytest.warns(UserWarning, match="not compared, since data or settings differ"):
        results = cosmos_eval.read_results(tmp_path / "r")
    assert len(results) == 3
    ended = command("report", "r", "--output", "page.html")
    assert ended.status == 0, ended
    page = Path("page.html").read_text()
    assert "scenes-cls (content aaaaaaaa)" in page
    assert "scenes-cls (content bbbbbbbb)" in page
