"""New results are verified against accepted ones: the same data, revision, precision, settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.models import store

from cosmos_eval.cli.app import main


@pytest.fixture
def verify_new(tmp_path: Path, monkeypatch, capsys):
    """Store a new result, verify it against the folder `accepted`; returns status and lines."""
    monkeypatch.chdir(tmp_path)

    def run(*options: str, **changes: Any) -> tuple[int, list[str]]:
        path = store(Path("new"), model={"spec": "openclip:new/one"}, skill=0.4, **changes)
        with pytest.raises(SystemExit) as ended:
            main(["verify", str(path), "--like", "accepted", *options])
        output = capsys.readouterr()
        lines = (output.out + output.err).splitlines()
        return int(ended.value.code or 0), [line.removeprefix(f"{path}: ") for line in lines]

    return run


def test_a_result_of_another_model_with_the_accepted_settings_is_verified(verify_new) -> None:
    store(Path("accepted/lab-a"))
    status, lines = verify_new()
    assert (status, lines[-1]) == (0, "1 results: 1 verified")


FILE = "accepted/scenes-cosmos__scenes-cls__scenes.json"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"hashes": {"content": "e" * 64}},
            "hashes.content (images, label maps and labels that were measured) is eeeeeeeeeeee "
            "and dddddddddddd there",
        ),
        ({"hashes": {"sample_list": "e" * 64}}, "hashes.sample_list is eeeeeeeeeeee and c"),
        ({"hashes": {"templates": "e" * 64}}, "hashes.templates is eeeeeeeeeeee and bbbb"),
        ({"provenance": {"precision": "bf16"}}, "precision is bf16 and fp32 there"),
        ({"provenance": {"limit": 10}}, "limit is 10 and none there"),
        (
            {"provenance": {"repository": "a/b", "revision": "2" * 40}},
            "revision is 222222222222 and 111111111111 there",
        ),
        (
            {"provenance": {"repository": "a/b"}},
            "revision is not recorded: measure again with this version of cosmos-eval",
        ),
        (
            {"hashes": {"content": ""}},
            "hashes.content is not recorded: measure again with this version of cosmos-eval",
        ),
    ],
)
def test_a_result_with_other_settings_differs(verify_new, changes, line) -> None:
    hub = {"repository": "a/b", "revision": "1" * 40}
    uses_hub = "repository" in changes.get("provenance", {})
    store(Path("accepted"), provenance=hub if uses_hub else {})
    status, lines = verify_new(**changes)
    assert (status, lines[-1]) == (1, "1 results: 1 differs")
    assert len(lines) == 2
    assert lines[0].startswith(f"unlike {FILE}: {line}")


def test_a_result_is_like_any_of_several_accepted_ones(verify_new) -> None:
    store(Path("accepted"), provenance={"precision": "bf16"})
    store(Path("accepted"), model={"spec": "openclip:b/c"})
    store(Path("accepted"), "retrieval", model={"spec": "openclip:b/c"})
    assert verify_new()[0] == 0
    assert verify_new(provenance={"precision": "bf16"})[0] == 0
    status, lines = verify_new(provenance={"precision": "amp"})
    assert (status, len(lines)) == (1, 2)


def test_a_field_that_only_the_new_result_records_may_differ(verify_new) -> None:
    store(Path("accepted"), hashes={"content": ""})
    assert verify_new()[0] == 0


def test_new_results_do_not_accept_themselves(command, tmp_path) -> None:
    for model in ("a", "b"):
        store(tmp_path / "all" / "new", model={"spec": model}, provenance={"precision": "bf16"})
    done = command("verify", "all/new", "--like", "all")
    assert done.status == 2
    assert done.out.count("no accepted result of scenes-cls (scenes)") == 2
    store(tmp_path / "all" / "old", model={"spec": "a"})
    done = command("verify", "all/new", "--like", tmp_path / "all")
    assert done.status == 1
    assert done.out.count("precision is bf16 and fp32 there") == 2


@pytest.mark.parametrize("difference", [{"dataset": "b"}, {"protocol": "b"}])
def test_a_result_without_an_accepted_one_is_not_looked_at(verify_new, difference) -> None:
    store(Path("accepted"), **difference)
    status, lines = verify_new()
    assert status == 2
    assert lines == [
        "no accepted result of scenes-cls (scenes) says on which terms: accept a first one by hand",
        "1 results: 1 not looked at",
    ]


def test_an_edited_accepted_result_is_an_error(verify_new) -> None:
    path = store(Path("accepted"))
    record = json.loads(path.read_text())
    record["provenance"]["precision"] = "bf16"
    path.write_text(json.dumps(record))
    status, lines = verify_new()
    assert status == 2
    assert lines == [f"cosmos-eval: {path}: this accepted result was edited: restore it"]


def test_an_empty_folder_of_accepted_results_is_an_error(verify_new) -> None:
    status, lines = verify_new()
    assert status == 2
    assert lines == ["cosmos-eval: no results (*.json) in accepted: run `cosmos-eval run` first"]


def test_json_has_the_outcome_and_the_differences(verify_new) -> None:
    store(Path("accepted"))
    status, lines = verify_new("--json", provenance={"precision": "bf16"})
    (document,) = json.loads("\n".join(lines))
    assert status == 1
    assert document["outcome"] == "differs"
    assert document["differences"] == [f"unlike {FILE}: precision is bf16 and fp32 there"]
