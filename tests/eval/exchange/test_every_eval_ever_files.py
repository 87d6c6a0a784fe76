"""Every Eval Ever's records, both ways, and its own validator on what is written."""

from __future__ import annotations

import json
import subprocess

import pytest
from support.exchange import FILES, read
from support.results import store_result

from cosmos_eval.results.exchange.places import find_results

(RECORD,) = (FILES / "every_eval_ever").iterdir()
HUB = {"model": {"spec": "hf:org/clip", "revision": "1a2b"}}
# Of the made-up samples of support.results: how many are right, and how many there are.
RIGHT = {
    "cls": {"acc1": (3, 5)},
    "select": {"accuracy": (2, 4)},
    "retrieval": {"image_to_text_R@1": (1, 3), "text_to_image_R@1": (2, 5)},
}


@pytest.fixture
def exported(command, tmp_path):
    """Results of all made-up samples, as the command writes them."""
    for task in (*RIGHT, "seg", "loc", "multilabel", "probe", "assoc"):
        store_result(tmp_path / "runs", task, dataset=task, **HUB)
    store_result(tmp_path / "runs", "cls", dataset="wds/cars", protocol="datacomp", **HUB)
    ended = command("export", "runs", "--format", "every-eval-ever", "--output", "out")
    written_line, note = ended.err.splitlines()
    assert (ended.status, written_line) == (0, f"wrote out, {9 + 4} files")
    assert note.startswith("note: before you publish the files, correct source_organization_name")
    return tmp_path / "out"


def records_of(folder):
    """The records by data set."""
    records = [json.loads(path.read_text()) for path in folder.rglob("*.json")]
    return {record["evaluation_results"][0]["evaluation_name"]: record for record in records}


def test_its_record_is_read():
    content = read("every-eval-ever", RECORD)
    (result,) = content.results
    assert result.metrics == {"exact-match": 0.0004}  # copied by hand
    assert result.model == (
        "RylanSchaeffer/mem_Qwen3-93M_minerva_math_rep_0_sbst_1.0000_epch_1_ot_1"
    )
    assert (result.task, result.dataset, result.protocol) == (
        "every-eval-ever",
        "math_rephrased_full",
        "every-eval-ever",
    )
    assert (content.unread, content.unknown_datasets, content.notes) == (
        [],
        ["math_rephrased_full"],
        [],
    )


# The package needs Python 3.12, and may be installed in another environment.
@pytest.mark.program("every_eval_ever", install="pip install every-eval-ever")
def test_its_validator_accepts_all_files(exported):
    ended = subprocess.run(
        ["every_eval_ever", "validate", "--format", "json", "data/*/*/*/*.json*"],
        cwd=exported,
        capture_output=True,
        text=True,
    )
    reports = json.loads(ended.stdout)
    assert len(reports) == 9 + 4
    assert [report for report in reports if not report["valid"] or report["warnings"]] == []
    assert sum(report["line_count"] for report in reports) == 5 + 4 + 3 + 5 + 5
    assert ended.returncode == 0


def test_samples_say_what_is_right(exported):
    records = records_of(exported)
    for dataset, right_by_metric in RIGHT.items():
        record = records[dataset]
        details = record["detailed_evaluation_results"]
        text = (exported / details["file_path"]).read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        assert len(lines) == details["total_rows"]
        assert len({line["sample_id"] for line in lines}) == len(lines)
        for metric, (n_right, n_samples) in right_by_metric.items():
            (result,) = [
                each
                for each in record["evaluation_results"]
                if each["metric_config"]["metric_name"] == metric
            ]
            scores = [
                line["evaluation"]
                for line in lines
                if line["evaluation_result_id"] == result["evaluation_result_id"]
            ]
            assert (sum(each["is_correct"] for each in scores), len(scores)) == (n_right, n_samples)
            assert result["score_details"]["score"] == n_right / n_samples
    assert "detailed_evaluation_results" not in records["seg"]


def test_a_sample_of_a_classification(exported):
    """The second image is a pear, and the model says apple."""
    record = records_of(exported)["cls"]
    path = exported / record["detailed_evaluation_results"]["file_path"]
    line = json.loads(path.read_text().splitlines()[1])
    assert line["input"] == {"raw": "sample 1", "reference": ["pear"]}
    assert line["output"] == {"raw": ["apple"]}
    assert line["evaluation"] == {"score": 0.0, "is_correct": False}


def test_what_a_record_states(exported):
    record = records_of(exported)["wds/cars"]
    assert record["model_info"]["id"] == "org/clip"
    assert record["evaluation_timestamp"] == "1735689600"  # 2025-01-01
    (result,) = [
        each
        for each in record["evaluation_results"]
        if each["metric_config"]["metric_id"] == "accuracy"
    ]
    assert result["source_data"]["hf_repo"] == "djghosh/wds_cars_test"
    assert result["metric_config"]["metric_name"] == "acc1"
    assert result["score_details"]["uncertainty"]["confidence_interval"]["confidence_level"] == 0.95
    ranks = [
        each["metric_config"]
        for each in records_of(exported)["retrieval"]["evaluation_results"]
        if each["metric_config"]["metric_unit"] == "rank"
    ]
    assert {(each["lower_is_better"], each["min_score"], each["max_score"]) for each in ranks} == {
        (True, 1.0, "Infinity")
    }


def test_written_results_are_read_again_with_equal_numbers(command, exported, tmp_path):
    def numbers(place):
        board = json.loads(command("leaderboard", place, "--json").out)
        return {
            (record["model"], record["task"], record["dataset"], record["protocol"]): record[
                "metrics"
            ]
            for record in board
        }

    assert numbers(exported) == numbers(tmp_path / "runs")
    assert find_results([exported]).notes == []
    ended = command("compare", "out", "runs", "--json")
    assert ended.status == 0
    assert {each["difference"] for each in json.loads(ended.out)["untested"]} == {0}


def test_an_export_is_repeatable(command, exported, tmp_path):
    command("export", "runs", "--format", "every-eval-ever", "--output", "again")
    names = [
        {path.name for path in folder.rglob("*.json*")} for folder in (exported, tmp_path / "again")
    ]
    assert names[0] == names[1]


def test_missing_samples_are_named(command, tmp_path):
    path = store_result(tmp_path / "runs", "cls")
    samples = json.loads(path.read_text())["samples"]
    path.with_name(samples).unlink()
    ended = command("export", "runs", "--format", "every-eval-ever", "--output", "out")
    assert ended.status == 0
    assert "note: samples not written: " in ended.err
    assert samples in ended.err
    assert len(list((tmp_path / "out").rglob("*.json*"))) == 1


def test_other_versions_units_and_keys(tmp_path):
    record = json.loads(RECORD.read_text())
    record["schema_version"] = "0.4.0"
    record["colour"] = "blue"
    result = record["evaluation_results"][0]
    result["shade"] = 1
    result["source_data"]["hf_repo"] = "ILSVRC/imagenet-1k"
    result["metric_config"].update(metric_id="accuracy", metric_unit="percent", max_score=100.0)
    result["score_details"]["score"] = 62.5
    unknown = json.loads(json.dumps(result))
    unknown["metric_config"]["metric_id"] = "elo"
    record["evaluation_results"] += [result, unknown, {"evaluation_name": "x"}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(record))
    content = read("every-eval-ever", path)
    (imported,) = content.results
    assert (imported.task, imported.dataset, imported.metrics) == (
        "cls",
        "imagenet1k",
        {"acc1": 0.625},
    )
    assert content.unread == [
        "colour",
        "shade",
        "shade",
        "a second accuracy on imagenet1k",
        "shade",
        "evaluation result 4, which has no name, data or score",
        "elo",
    ]
    assert content.notes == ["of schema version 0.4.0, read as 0.3.0"]
