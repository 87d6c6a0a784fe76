"""A model is identified by its weights, code and arguments, not by its path: in rows, in files and
by the gate."""

import json
import re
from pathlib import Path

import pytest
from support.models import store
from support.rows import MODEL, make_row

import cosmos_eval
from cosmos_eval.results import labels
from cosmos_eval.results.identity import model_identity, model_sha256
from cosmos_eval.results.labels import StoredResult, label_results
from cosmos_eval.results.leaderboard.entries import entries_of
from cosmos_eval.results.store import read_result, read_samples, read_stored, result_paths

SHA = "a" * 64


def put(folder, spec, task="cls", sha=SHA, skill=0.6, seed=1, **model):
    return store(folder, task, skill, seed, model={"spec": spec, "weights_sha256": sha, **model})


def rows_of(command, folder):
    records = json.loads(command("leaderboard", folder, "--format", "json").out)
    return {(record["model"], record["dataset"]) for record in records}


def test_two_paths_to_one_file_are_one_model(command, tmp_path):
    put(tmp_path / "r", "cosmos:runs/a/last.pt")
    put(tmp_path / "r", "cosmos:last.pt", "seg")
    put(tmp_path / "r", "cosmos:last.pt", sha="b" * 64, task="retrieval")
    named = {("cosmos:last.pt (weights aaaaaaaa)", f"scenes-{task}") for task in ("cls", "seg")}
    other = ("cosmos:last.pt (weights bbbbbbbb)", "scenes-retrieval")
    assert rows_of(command, "r") == {*named, other}
    shown = " ".join(command("leaderboard", "r", "--format", "md").out.split())
    assert "names cosmos:last.pt, cosmos:runs/a/last.pt, and is called cosmos:last.pt." in shown
    assert "2 models are called cosmos:last.pt: their weights differ" in shown


def test_the_identity_of_a_result_is_computed_once(monkeypatch):
    """Computing its hashes again for every label takes most of the time of labels."""
    rows = []

    def identity_of(row):
        rows.append(row)
        return model_identity(row)

    monkeypatch.setattr(labels, "model_identity", identity_of)
    specs = ("cosmos:runs/a/last.pt", "cosmos:last.pt", "cosmos:other.pt")
    results = []
    for spec, sha256 in zip(specs, (SHA, SHA, "b" * 64), strict=True):
        for dataset in ("pets", "food101"):
            row = make_row(model={"spec": spec, "weights_sha256": sha256}, dataset=dataset)
            results.append(StoredResult(Path(f"{len(results)}.json"), row))
    labelled_results = label_results(label_results(results))
    assert {result.label for result in labelled_results} == {specs[1], specs[2]}
    assert [entry.spec_label for entry in entries_of(labelled_results[:2])] == [specs[0]] * 2
    assert len(rows) == len(results)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "other"},
        {"code_sha256": "2" * 64},
        {"weights": "student"},
        {"random": True, "weights_sha256": None},
    ],
)
def test_each_of_these_changes_makes_another_model(tmp_path, changes):
    put(tmp_path, "cosmos:a.pt")
    put(tmp_path, "cosmos:b.pt", **changes)
    assert len({result.label for result in read_stored(result_paths(tmp_path))}) == 2


def test_files_of_one_model_are_linked_by_what_was_loaded(command, tmp_path):
    """The third result, which is of an earlier version, has the weights of the first one only."""
    loaded = {"loaded_sha256": "c" * 64}
    put(tmp_path / "r", "openclip:folder", sha="1" * 64, architecture="{}", **loaded)
    put(tmp_path / "r", "openclip:A/tag", "seg", sha="2" * 64, architecture="A", **loaded)
    put(tmp_path / "r", "openclip:other-folder", "retrieval", sha="1" * 64, architecture="{}")
    put(tmp_path / "r", "openclip:A/tag2", "select", sha="2" * 64, architecture="A")
    tasks = ("cls", "seg", "retrieval", "select")
    assert rows_of(command, "r") == {("openclip:A/tag", f"scenes-{task}") for task in tasks}
    names = "openclip:A/tag, openclip:A/tag2, openclip:folder, openclip:other-folder"
    shown = " ".join(command("leaderboard", "r", "--format", "md").out.split())
    assert f"names {names}, and is called openclip:A/tag." in shown
    # Another code makes another model of the same tensors.
    put(tmp_path / "r", "python:a.py", sha="3" * 64, code_sha256="4" * 64, **loaded)
    assert ("python:a.py", "scenes-cls") in rows_of(command, "r")


def test_two_models_of_one_name_and_one_of_them_in_two_files(command, tmp_path):
    """Both files of the first model have the hash of its first result, and one row."""
    first = {"name": "mine", "loaded_sha256": "c" * 64}
    put(tmp_path / "r", "openclip:A/tag", sha="1" * 64, **first)
    put(tmp_path / "r", "openclip:folder", "seg", sha="2" * 64, **first)
    put(tmp_path / "r", "openclip:B/tag", "select", sha="3" * 64, name="mine")
    rows = rows_of(command, "r")
    assert len({model for model, _ in rows}) == 2
    assert ("mine (weights 33333333)", "scenes-select") in rows


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1)])
def test_links_do_not_depend_on_the_order(order):
    """Two groups that a later result joins: {a}, {b} and {a, b}."""
    hashes = [("a" * 64, None), ("b" * 64, "c" * 64), ("a" * 64, "c" * 64)]
    rows = []
    for sha, loaded in (hashes[i] for i in order):
        model = {"loaded_sha256": loaded} if loaded else {}
        rows.append(make_row(model={**MODEL, "weights_sha256": sha, **model}))
    results = label_results(StoredResult(Path(), row) for row in rows)
    assert len({result.model_sha256 for result in results}) == 1


def test_the_same_result_twice_is_shown_once_and_another_is_shown_beside(command, tmp_path):
    for spec in ("cosmos:a.pt", "cosmos:bb.pt"):
        put(tmp_path / "r", spec)
    done = command("leaderboard", "r")
    shown = " ".join(done.out.split())
    assert "One model has the names cosmos:a.pt, cosmos:bb.pt, and is called cosmos:a.pt." in shown
    note = "left out: 1 results that repeat another one of the same model, data set and protocol"
    assert note in done.err
    assert rows_of(command, "r") == {("cosmos:a.pt", "scenes-cls")}
    put(tmp_path / "r", "cosmos:bb.pt", seed=2)
    assert rows_of(command, "r") == {(f"cosmos:{n}.pt", "scenes-cls") for n in ("a", "bb")}
    done = command("leaderboard", "r", "--format", "csv")
    assert "one model has the names cosmos:a.pt, cosmos:bb.pt, under which its results" in done.err


def test_a_given_name_comes_first(command, tmp_path):
    put(tmp_path / "r", "cosmos:a.pt")
    put(tmp_path / "r", "cosmos:/long/path/to/a.pt", "seg", name="the baseline")
    assert {model for model, _ in rows_of(command, "r")} == {"the baseline"}
    comparison = json.loads(command("compare", "r", "r", "--model", "cosmos:a.pt", "--json").out)
    assert comparison["a"] == "the baseline"
    assert {test["dataset"] for test in comparison["tests"]} == {"scenes-cls", "scenes-seg"}


def test_comparing_a_model_with_itself_is_said(command, tmp_path):
    put(tmp_path / "a", "cosmos:a.pt")
    put(tmp_path / "b", "cosmos:b.pt")
    comparison = json.loads(command("compare", "a", "b", "--json").out)
    assert (comparison["a"], comparison["b"]) == ("cosmos:a.pt", "cosmos:b.pt")
    assert comparison["notes"][0] == f"A and B are one model, of weights {'a' * 12}"


def test_a_model_of_the_same_name_moves_the_former_result_aside(command, tmp_path):
    first = put(tmp_path, "cosmos:last.pt")
    before = first.read_bytes(), read_samples(first)
    put(tmp_path, "cosmos:last.pt", sha="b" * 64, skill=0.8)
    (aside,) = tmp_path.glob(f"{first.stem}__*.json")
    assert aside.read_bytes() == before[0]
    assert {k: v.tolist() for k, v in read_samples(aside).items()} == {
        k: v.tolist() for k, v in before[1].items()
    }
    assert read_result(first).model["weights_sha256"] == "b" * 64
    done = command("verify", tmp_path)
    assert done.status == 0
    assert sorted(re.findall("figures of (.*)", done.out)) == [
        f"cosmos:last.pt, weights {state * 8}" for state in "ab"
    ]
    # The first model again, with another result: it takes its place, and leaves nothing behind.
    put(tmp_path, "cosmos:last.pt", skill=0.7)
    assert not aside.exists()
    assert read_result(first).model["weights_sha256"] == SHA
    assert len([*tmp_path.glob("*.json")]) == len([*tmp_path.glob("*.npz")]) == 2
    assert command("verify", tmp_path).status == 0


def test_samples_that_two_models_share_stay(tmp_path):
    first = put(tmp_path, "cosmos:last.pt")
    put(tmp_path, "cosmos:last.pt", sha="b" * 64)  # the same samples, in the same file
    put(tmp_path, "cosmos:last.pt", sha="b" * 64, seed=2)
    (aside,) = tmp_path.glob(f"{first.stem}__*.json")
    assert len(read_samples(aside)) == len(read_samples(first)) > 0


def test_columns_of_a_table(tmp_path):
    put(tmp_path, "cosmos:a.pt", weights="student", name="mine")
    table = cosmos_eval.load_results(tmp_path)
    (row,) = table[table["metric"] == "acc1"].to_dict("records")
    names = row["model"], row["name"], row["variant"]
    assert names == ("cosmos:a.pt", "mine (student)", "student")
    assert row["weights_sha256"] == SHA
    assert row["low"] < row["value"] < row["high"]
    (path,) = tmp_path.glob("*.json")
    assert row["model_sha256"] == model_sha256(read_result(path))


@pytest.fixture
def update(command):
    def update_baseline(*paths):
        return command("check", *paths, "--baseline", "b.json", "--update", "--reason=x")

    return update_baseline


def check(command, *paths):
    return command("check", *paths, "--baseline", "b.json")


def test_a_name_makes_another_path_the_same_model_to_the_gate(command, update, tmp_path):
    put(tmp_path / "old", "cosmos:old/last.pt", name="ours")
    put(tmp_path / "new", "cosmos:new/last.pt", sha="b" * 64, name="ours")
    assert update("old").status == 0
    done = check(command, "new")
    assert done.status == 0
    assert "note: ours: weights bbbbbbbb, in the baseline aaaaaaaa" in done.err
    assert "note: ours: weights aaaaaaaa, as in the baseline" in check(command, "old").err


def test_the_same_weights_under_another_path_are_found_in_the_baseline(command, update, tmp_path):
    put(tmp_path / "old", "cosmos:old/last.pt")
    put(tmp_path / "same", "cosmos:new/last.pt")
    put(tmp_path / "other", "cosmos:new/last.pt", sha="b" * 64)
    update("old")
    done = check(command, "same")
    assert done.status == 0
    assert "as in the baseline, called cosmos:new/last.pt in the results" in done.err
    assert check(command, "other").status == 2


def test_former_results_are_left_out_and_a_mixture_decides_nothing(command, update, tmp_path):
    for task in ("cls", "seg"):
        put(tmp_path / "r", "cosmos:last.pt", task)
    assert update("r").status == 0
    for task in ("cls", "seg"):
        put(tmp_path / "r", "cosmos:last.pt", task, sha="b" * 64)
    done = check(command, "r")
    assert done.status == 0
    assert done.err.count("note: left out: r/cosmos-last.pt") == 2
    assert update("r").status == 0
    put(tmp_path / "r", "cosmos:last.pt", "seg", sha="c" * 64)
    for done in (check(command, "r"), update("r")):
        assert done.status == 2
        for state in "bc":
            assert f"has weights {state * 8}, and other results of cosmos:last.pt have" in done.err
