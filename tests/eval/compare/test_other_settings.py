"""Results on one data set with other settings have columns of their own, and share no mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.models import store

from cosmos_eval.results.labels import label_results, result_warnings
from cosmos_eval.results.leaderboard.entries import entries_of
from cosmos_eval.results.leaderboard.ranking import rank_entries
from cosmos_eval.results.leaderboard.suite import suite_score
from cosmos_eval.results.store import read_stored, result_paths
from cosmos_eval.types import Suite, SuiteMember, UsageError

A, B = "a" * 64, "b" * 64  # hashes


def store_two(folder: Path, first: Any, second: Any) -> None:
    """Store results of two models on one data set, each with its fields of `store`."""
    for spec, fields in (("cosmos:a.pt", first), ("cosmos:b.pt", second)):
        store(folder, model={"spec": spec}, **fields)


def labels_in(folder: Path) -> set[str]:
    return {result.dataset for result in label_results(read_stored(result_paths(folder)))}


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("templates", "templates"),
        ("class_names", "class names"),
        ("sample_list", "sample list"),
    ],
)
def test_results_that_compare_refuses_have_separate_columns(
    field: str, name: str, command: Any, tmp_path: Path
) -> None:
    store_two(tmp_path, {"hashes": {field: A}}, {"hashes": {field: B}})
    refused = command("compare", ".", "--model", "cosmos:a.pt", "--model", "cosmos:b.pt")
    assert refused.status == 2
    assert f"hashes.{field} is" in refused.err
    columns = {f"scenes-cls ({name} aaaaaaaa)", f"scenes-cls ({name} bbbbbbbb)"}
    ended = command("leaderboard", ".", "--format", "json", "--ranks")
    assert {record["dataset"] for record in json.loads(ended.out)} == columns
    results = label_results(read_stored(result_paths(tmp_path)))
    assert rank_entries(entries_of(results)) == {}
    (warning,) = result_warnings(results)
    assert warning == f"not compared, since data or settings differ: {', '.join(sorted(columns))}"
    assert warning in ended.err


def test_a_field_that_one_result_lacks_splits_no_column(tmp_path: Path) -> None:
    store_two(tmp_path, {"hashes": {"templates": A}}, {"hashes": {"templates": ""}})
    assert labels_in(tmp_path) == {"scenes-cls"}


def test_equal_settings_share_a_column(tmp_path: Path) -> None:
    store_two(tmp_path, {"hashes": {"templates": A}}, {"hashes": {"templates": A}})
    assert labels_in(tmp_path) == {"scenes-cls"}


def test_queries_are_named_only_if_no_other_field_tells_results_apart(tmp_path: Path) -> None:
    hashes = [{"templates": A, "queries": A}, {"templates": B, "queries": B}]
    store_two(tmp_path / "both", {"hashes": hashes[0]}, {"hashes": hashes[1]})
    assert labels_in(tmp_path / "both") == {
        "scenes-cls (templates aaaaaaaa)",
        "scenes-cls (templates bbbbbbbb)",
    }
    store_two(tmp_path / "one", {"hashes": {"queries": A}}, {"hashes": {"queries": B}})
    assert labels_in(tmp_path / "one") == {
        "scenes-cls (queries aaaaaaaa)",
        "scenes-cls (queries bbbbbbbb)",
    }


def test_the_attention_of_a_protocol_counts_and_that_of_a_label_does_not(tmp_path: Path) -> None:
    """A set of a user may name the attention; `--attention` is in the label of the model."""
    csa = {"attention": "csa", "protocol_attention": "csa"}
    vanilla = {"attention": "vanilla", "protocol_attention": "vanilla"}
    store_two(tmp_path / "set", {"provenance": csa}, {"provenance": vanilla})
    assert labels_in(tmp_path / "set") == {
        "scenes-cls (attention csa)",
        "scenes-cls (attention vanilla)",
    }
    other = {"attention": "vanilla", "protocol_attention": "csa"}
    hashes = [{"constants": A}, {"constants": B}]
    store_two(
        tmp_path / "option",
        {"provenance": csa, "hashes": hashes[0]},
        {"provenance": other, "hashes": hashes[1]},
    )
    assert labels_in(tmp_path / "option") == {"scenes-cls"}


def test_what_a_search_chose_for_each_model_splits_no_column(tmp_path: Path) -> None:
    tuned = {"tuned": {"search_sha256": A}}
    store_two(
        tmp_path,
        {"provenance": tuned, "hashes": {"templates": A}},
        {"provenance": tuned, "hashes": {"templates": B}},
    )
    results = [result.row for result in read_stored(result_paths(tmp_path))]
    assert len(results) == 2
    assert labels_in(tmp_path) == {"scenes-cls"}


def test_a_suite_refuses_members_with_other_templates(tmp_path: Path) -> None:
    member = SuiteMember("cls", "scenes-cls", "scenes", ("acc1",))
    suite = Suite("mine", (), (), (), (member,), {}, "")
    store_two(tmp_path, {"hashes": {"templates": A}}, {"hashes": {"templates": B}})
    entries = entries_of(label_results(read_stored(result_paths(tmp_path))))
    message = r"suite mine: scenes-cls \(scenes\) was measured with other templates: choose"
    with pytest.raises(UsageError, match=message):
        suite_score(suite, entries)
    assert len(suite_score(suite, entries[:1]).rows) == 1


def test_a_report_ranks_no_models_with_other_templates(command: Any, tmp_path: Path) -> None:
    store_two(tmp_path / "r", {"hashes": {"templates": A}}, {"hashes": {"templates": B}})
    assert command("report", "r", "--no-pictures", "--output", "page.html").status == 0
    page = Path("page.html").read_text()
    assert "the highest mean" not in page
    assert "scenes-cls (templates aaaaaaaa)" in page
