"""Decisions of the gate, the baseline that it writes, and the reports for people and machines."""

import json
import math
from itertools import chain
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from support.gate_study import studies
from support.models import make_result, seal, store

from cosmos_eval.results.gate import reports
from cosmos_eval.results.gate.baseline import (
    Baseline,
    Entry,
    Key,
    Problem,
    baseline_samples,
    read_baseline,
    replace_baseline,
)
from cosmos_eval.results.gate.check import Finding, Report, check_results, decide_findings
from cosmos_eval.results.verify import VerifiedResult
from cosmos_eval.stats.paired import PairedDifference, matched_shares
from cosmos_eval.types import UsageError

UPDATE_OPTIONS = ["--update", "--reason", "a test"]


@pytest.fixture
def update(command, tmp_path):
    """Make the results of a folder the baseline `base.json`."""

    def update_baseline(folder, *options):
        paths = [tmp_path / folder, "--baseline", tmp_path / "base.json"]
        return command("check", *paths, *UPDATE_OPTIONS, *options)

    return update_baseline


def test_equal_models_raise_an_alarm_as_rarely_as_stated():
    # Of 12 checks at the nominal 2.5%, two or more raise an alarm in 4% of all studies;
    # benchmarks/coverage.md has the rates of many more checks.
    checks = chain.from_iterable(studies(4, same, seed=3) for same in (0.0, 0.5, 0.95))
    assert sum(report.status == 1 for report in checks) <= 1


def test_worse_models_are_found():
    assert all(report.status == 1 for report in studies(3, 0.0, loss=0.25))


def test_a_loss_of_the_size_stated_is_found_with_the_power_stated(tmp_path):
    """In about 80% of 1000 simulated checks of one metric at a level of 5% / 3.

    There are as many discordant samples as the detectable loss was computed for.
    """
    rng = np.random.default_rng(1)
    n, discordant, alpha = 1000, 0.1, 0.05 / 3
    loss = matched_shares(0, 50, 50, n).detectable(alpha)
    share_only_new = (discordant - loss) / 2
    shares = [share_only_new, share_only_new + loss, 1 - discordant]
    detected = [
        matched_shares(0, only_new, only_old, n).p_below(0) <= alpha / 2
        for only_new, only_old, _ in rng.multinomial(n, shares, 1000)
    ]
    assert 0.75 <= np.mean(detected) <= 0.87


def test_holm_counts_metrics_that_could_not_be_compared(tmp_path):
    path = tmp_path / "base.json"
    results = [VerifiedResult(path, *make_result(task)) for task in ("cls", "retrieval", "seg")]
    replace_baseline(path, results, [], reason="x")
    worse = VerifiedResult(path, *make_result("cls", 0.35, 2))
    report = check_results([worse], path)
    adjusted = [finding for finding in report.findings if finding.adjusted is not None]
    (acc1,) = adjusted
    assert acc1.metric == "acc1"
    # Four metrics are counted: acc1, R@1 in both directions, and mIoU.
    assert acc1.adjusted == pytest.approx(4 * acc1.change.p_below(0))
    assert len(report.findings) == 4
    assert len(report.problems) == 2


def test_metrics_beside_the_headlines_are_for_information(command, update, tmp_path):
    """The tenth best caption instead of the second: R@5 and the mean rank are worse."""
    samples = make_result("retrieval", 0.6)[1]
    missed = samples["image_to_text_rank"] > 1
    for name, rank in (("old", 2), ("new", 10)):
        ranks = np.where(missed, rank, 1)
        store(tmp_path / name, "retrieval", samples={**samples, "image_to_text_rank": ranks})
    update("old")
    ended = command("check", "new", "--baseline", "base.json")
    assert ended.status == 0
    assert "no regression shown, of 2 metrics (8 more for information)" in ended.out
    assert "worse, not gated" not in ended.out
    note = "metrics for information not shown: 8, of these worse: 2 (--all-metrics shows them)"
    assert f"note: {note}\n" in ended.err
    assert ended.out.splitlines()[0] == ended.out.splitlines()[-1]
    everything = command("check", "new", "--baseline", "base.json", "--all-metrics")
    assert (everything.status, everything.out.count("worse, not gated")) == (0, 2)
    assert "not shown" not in everything.err
    update("old", "--all-metrics")
    ended = command("check", "new", "--baseline", "base.json")
    assert ended.status == 1
    assert "of 10 metrics" in ended.out


@pytest.mark.parametrize(
    ("task", "gated"),
    [
        ("loc", {"attention_mass", "AUC"}),
        ("multilabel", {"mAP"}),
        ("no-task", {"error", "loss"}),
    ],
)
def test_the_metrics_that_can_fail_a_check(task, gated):
    entry = Entry(
        "m", "1" * 64, {"task": task}, dict.fromkeys([*gated, "area"], 0.5), {}, None, None, ""
    )
    baseline = Baseline(schema_version=2, written={}, tolerance=0.0, results=[entry])
    expected = gated | {"area"} if task == "no-task" else gated
    assert baseline.gated_metrics(entry) == expected


@pytest.mark.parametrize(
    ("old_name", "new_name"),
    [("clip", "ours (B/16)"), ("ours (B/16)", "ours (B/32)"), ("clip (a) (b)", "clip")],
)
def test_a_renamed_model_is_found_by_its_hash(command, update, tmp_path, old_name, new_name):
    """Names may have brackets. The words of settings behind a name, such as bf16, still count."""
    bf16 = {"provenance": {"precision": "bf16", "partial": "4 of 9 images"}}
    store(tmp_path / "old", "cls", model={"name": old_name}, **bf16)
    store(tmp_path / "new", "cls", model={"name": new_name}, **bf16)
    store(tmp_path / "fp32", "cls", model={"name": new_name})
    update("old")
    assert command("check", "new", "--baseline", "base.json").status == 0
    ended = command("check", "fp32", "--baseline", "base.json")
    assert ended.status == 2
    assert f"{new_name} on scenes-cls (scenes): is not in the baseline" in ended.out + ended.err


def test_brackets_of_a_new_name_are_no_settings(command, update, tmp_path):
    store(tmp_path / "old", "cls", model={"name": "clip"})
    store(tmp_path / "new", "cls", model={"name": "ours (B/16)"})
    update("old")
    assert command("check", "new", "--baseline", "base.json").status == 0


def test_a_loss_within_the_tolerance_passes(command, update, tmp_path):
    store(tmp_path / "old", "cls", 0.7)
    store(tmp_path / "new", "cls", 0.4, 2)
    update("old")
    assert command("check", "new", "--baseline", "base.json").status == 1
    update("old", "--tolerance", 0.45)
    assert command("check", "new", "--baseline", "base.json").status == 0


def test_the_tolerance_of_a_rank_is_a_share_of_it(command, update, tmp_path):
    old = store(tmp_path / "old", "retrieval", 0.6)
    store(tmp_path / "new", "retrieval", 0.4, 2)
    update("old", "--tolerance", 0.1, "--all-metrics")
    report = json.loads(command("check", "new", "--baseline", "base.json", "--json").out)
    findings = {finding["metric"]: finding for finding in report["findings"]}
    rank = findings["image_to_text_mean_rank"]
    before = json.loads(old.read_text())["metrics"]["image_to_text_mean_rank"]
    assert rank["baseline"] == before
    assert rank["decision"] == "regression"
    assert rank["interval"]["low"] > 0.1 * before


def test_the_tolerance_is_relative_for_ranks_and_absolute_for_fractions():
    """A mean rank rises from 10 to 12, and a recall falls from 0.5 to 0.3.

    Both are within a tolerance of 0.3, which is 3 ranks or 30 points, and not within one of 0.1.
    """
    rank_change = PairedDifference(12.0, 10.0, 2.0, 0.01, math.inf, 0.0, 100, "a test")
    recall_change = rank_change._replace(a=0.3, b=0.5, center=-0.2)
    key = Key("m", "s", "p")
    rank = Finding(key, "retrieval", "image_to_text_mean_rank", rank_change)
    recall = Finding(key, "retrieval", "image_to_text_R@1", recall_change)
    for finding, tolerated in ((rank, 3), (recall, 0.3)):
        (within_tolerance,) = decide_findings([finding], 0.3, 1)
        assert within_tolerance.adjusted > 1 - 1e-6
        assert within_tolerance.detectable == pytest.approx(tolerated, abs=0.05)
        assert next(decide_findings([finding], 0.1, 1)).adjusted < 1e-6


def test_what_a_check_could_find_is_corrected_for_all_metrics():
    change = matched_shares(200, 20, 20, 400)
    finding = Finding(Key("m", "s", "p"), "cls", "acc1", change)
    (decided,) = decide_findings([finding], 0.01, 4)
    assert decided.detectable == change.detectable(alpha=0.05 / 4) + 0.01


def test_one_problem_and_several():
    problems = (Problem("a", "b"), Problem("c", "d"))
    assert Report(Path("b"), (), problems).verdict == "cannot decide, for 2 reasons"
    assert Report(Path("b"), (), problems[:1]).verdict == "cannot decide, for 1 reason"


def test_without_samples_the_error_is_that_of_both_intervals(tmp_path):
    path = tmp_path / "base.json"
    old_row, old_samples = make_result("cls", 0.6, 0)
    new_row, new_samples = make_result("cls", 0.7, 1)
    old_result = VerifiedResult(path, old_row, old_samples)
    replace_baseline(path, [old_result], [], reason="x", keep_samples=False)
    report = check_results([VerifiedResult(path, new_row, new_samples)], path)
    assert len(report.findings) == 4
    for finding in report.findings:
        name, change = finding.metric, finding.change
        intervals = [row.intervals[name] for row in (old_row, new_row)]
        # A 95% interval is 2 x 1.96 standard errors wide.
        errors = [(ends["high"] - ends["low"]) / (2 * 1.959964) for ends in intervals]
        assert change.error == pytest.approx(math.hypot(*errors), rel=1e-6)
        assert (change.a, change.b) == (new_row.metrics[name], old_row.metrics[name])


def test_a_metric_that_the_baseline_lacks_is_a_note(command, bench):
    metrics = json.loads(bench.baseline.read_text())["results"][0]["metrics"]
    del metrics["acc5"]
    bench.edit_baseline(0, metrics=metrics)
    ended = command(*bench.command())
    assert ended.status == 0
    assert "scenes-cosmos on scenes-cls (scenes): not in the baseline: acc5" in ended.err


def test_without_samples_intervals_decide(command, update, tmp_path):
    store(tmp_path / "old", "cls", 0.6)
    store(tmp_path / "same", "cls", 0.6, 2)
    store(tmp_path / "worse", "cls", 0.2, 2)
    update("old", "--metrics-only")
    assert not (tmp_path / "base").exists()
    ended = command("check", "same", "--baseline", "base.json")
    assert ended.status == 0
    assert "independent intervals" in ended.out
    assert command("check", "worse", "--baseline", "base.json").status == 1


def test_without_samples_and_interval_nothing_is_decided(command, update, tmp_path):
    store(tmp_path / "old")
    update("old", "--metrics-only")
    document = json.loads((tmp_path / "base.json").read_text())
    del document["results"][0]["intervals"]["acc1"]
    (tmp_path / "base.json").write_text(json.dumps(document))
    seal(tmp_path / "base.json")
    ended = command("check", "old", "--baseline", "base.json")
    assert ended.status == 2
    assert "acc1 has no interval, and the baseline no samples" in ended.err


def test_a_baseline_says_who_when_and_why(update, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    (tmp_path / "gitconfig").write_text("[user]\nname = Ada\n")
    store(tmp_path / "old", "seg")
    ended = update("old")
    assert ended.status == 0
    assert "scenes-cosmos on scenes-seg (scenes) added" in " ".join(ended.out.split())
    baseline = read_baseline(tmp_path / "base.json")
    assert (baseline.written["by"], baseline.written["reason"]) == ("Ada", "a test")
    assert baseline.written["utc"] > "2020"
    (entry,) = baseline.results
    assert entry.commit == "1" * 40
    samples = baseline_samples(tmp_path / "base.json", entry)
    expected = make_result("seg")[1]
    assert {k: v.tolist() for k, v in samples.items()} == {
        k: v.tolist() for k, v in expected.items()
    }


def test_without_git_the_login_name_says_who(update, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("LOGNAME", "grace")
    store(tmp_path / "old")
    update("old")
    assert read_baseline(tmp_path / "base.json").written["by"] == "grace"


def test_an_update_replaces_the_whole_baseline_and_says_so(update, tmp_path):
    store(tmp_path / "one", "cls")
    store(tmp_path / "one", "seg")
    store(tmp_path / "two", "cls", 0.7)
    store(tmp_path / "two", "select")
    update("one")
    ended = update("two", "--json")
    assert {line["result"]: line["change"] for line in json.loads(ended.out)} == {
        "scenes-cosmos on scenes-cls (scenes)": "replaced",
        "scenes-cosmos on scenes-seg (scenes)": "removed",
        "scenes-cosmos on scenes-select (scenes)": "added",
    }
    named = {entry.samples["file"] for entry in read_baseline(tmp_path / "base.json").results}
    assert {path.name for path in (tmp_path / "base").iterdir()} == named


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--update"], "--update needs --reason"),
        (["--update", "--reason", " "], "--update needs --reason"),
        (["--tolerance", "0.1"], "go with --update"),
        (["--metrics-only"], "go with --update"),
        ([*UPDATE_OPTIONS, "--tolerance", "-1"], "--tolerance"),
        ([*UPDATE_OPTIONS, "--tolerance", "0.51"], "--tolerance"),
        ([*UPDATE_OPTIONS, "--tolerance", "nan"], "tolerance"),
        ([*UPDATE_OPTIONS, "--strict"], "edited code"),
    ],
)
def test_updates_that_are_refused(command, tmp_path, arguments, message):
    store(tmp_path / "new", provenance={"dirty": True})
    ended = command("check", "new", "--baseline", "base.json", *arguments)
    assert (ended.status, len(ended.err.splitlines())) == (2, 1)
    assert message in ended.err
    assert not (tmp_path / "base.json").exists()


@pytest.mark.parametrize("fault", ["edited", "random", "twice", "empty", "no baseline"])
def test_no_baseline_is_made_of_faulty_results(update, tmp_path, fault):
    path = store(tmp_path / "new")
    match fault:
        case "edited":
            path.write_text(path.read_text().replace('"acc1": 0.', '"acc1": 0.9'))
        case "random":
            store(tmp_path / "new", model={"random": True, "weights_sha256": None})
        case "twice":
            store(tmp_path / "new" / "again")
        case "empty":
            path.unlink()
        case "no baseline":
            (tmp_path / "base.json").write_text("[]")
    ended = update("new")
    assert ended.status == 2
    assert not (tmp_path / "base").exists()


def _report(model: str = "a|b<c>") -> Report:
    lost = matched_shares(200, 2, 60, 400)
    same = matched_shares(200, 9, 9, 400)
    findings = (
        Finding(Key(model, "set", "cosmos"), "cls", "acc1", lost, 1e-9, 0.03),
        Finding(Key(model, "set", "cosmos"), "cls", "acc5", same, 1.0, 0.03),
    )
    problems = (Problem("there", "50% & <odd>\nend\x00"),)
    return Report(Path("base.json"), findings, problems, ("a note",))


def test_every_report_prints_the_tolerance():
    report = _report()._replace(tolerance=0.015)
    text = ", tolerance 0.015 (1.5 points of a share, 1.5% of a rank or ratio)"
    assert reports.to_markdown(report).splitlines()[2] == f"Baseline: `base.json`{text}"
    (tolerance,) = ET.fromstring(reports.to_junit(report)).iter("property")
    assert tolerance.attrib == {"name": "tolerance", "value": "0.015"}
    assert reports.to_records(report)["tolerance"] == 0.015
    assert reports.tolerance_text(report) == text
    assert reports.tolerance_text(report._replace(tolerance=0.0)) == ", tolerance 0"
    assert reports.tolerance_text(_report()) == ""


def test_markdown():
    text = reports.to_markdown(_report())
    first, *_ = text.splitlines()
    assert first == "### cosmos-eval check: regression shown: 1 of 2 metrics"
    assert "- **cannot decide** there: 50% &amp; &lt;odd&gt; end\\\\x00" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert rows[2].startswith("| a\\|b&lt;c&gt; | set | cosmos | acc1 | exact McNemar | ")
    assert " | 65.00 | 50.50 | -14.50 " in rows[2]
    assert rows[2].endswith(" regression |")
    assert rows[3].endswith(" no change shown |")
    assert "<details>" not in text


def test_markdown_folds_metrics_for_information():
    report = _report()
    gated, other = report.findings
    report = report._replace(findings=(gated, other._replace(adjusted=None)))
    lines = reports.to_markdown(report).splitlines()
    fold = lines.index("<details><summary>Metrics for information: 1</summary>")
    assert lines[-1] == "</details>"
    # GitHub needs blank lines around the table.
    assert lines[fold + 1] == lines[-2] == ""
    rows = [position for position, line in enumerate(lines) if "| cosmos |" in line]
    assert ["acc1" in lines[position] for position in rows] == [True, False]
    assert rows[0] < fold < rows[1]


def test_junit_is_xml_whatever_names_hold():
    (suite,) = ET.fromstring(reports.to_junit(_report("a&b\x07<é>")))
    counts = {"tests": "3", "failures": "1", "errors": "1"}
    assert suite.attrib == {"name": "cosmos-eval check", **counts}
    acc1, acc5, problem = suite
    assert (acc1.get("classname"), acc1.get("name")) == ("a&b\\x07<é>", "set (cosmos) acc1")
    message = acc1.find("failure").get("message")
    assert message.startswith("a&b\\x07<é> on set (cosmos): acc1 was 65.00")
    assert list(acc5) == []
    assert problem.find("error").get("message") == "50% & <odd> end\\x00"


def test_annotations_are_escaped():
    regression, problem = reports.to_annotations(_report())
    assert regression.startswith("::error title=cosmos-eval check%3A regression::a|b<c> on set")
    assert problem == (
        "::error title=cosmos-eval check%3A cannot decide::there: 50%25 & <odd> end\\x00"
    )
    assert reports.to_annotations(
        _report()._replace(findings=_report().findings[1:], problems=())
    ) == ["::notice title=cosmos-eval check%3A no regression::no regression shown, of 1 metrics"]


def test_better_is_told():
    gained = Finding(Key("m", "s", "p"), "cls", "acc1", matched_shares(0, 60, 2, 400), 1.0, None)
    assert gained.status == "better"
    worse_rank = gained._replace(task="retrieval", metric="image_to_text_mean_rank")
    assert worse_rank.status == "no change shown"
    assert worse_rank._replace(change=gained.change.flipped()).status == "better"


def test_nothing_found_out_is_no_pass():
    assert Report(Path("b"), (), ()).status == 2


def test_reports_are_written_where_a_workflow_reads_them(command, update, tmp_path, monkeypatch):
    store(tmp_path / "old", "cls", 0.7)
    store(tmp_path / "new", "cls", 0.3, 2)
    update("old")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    (tmp_path / "summary.md").write_text("# before\n")
    check = ["check", "new", "--baseline", "base.json", "--junit", "out/junit.xml"]
    ended = command(*check, "--json")
    assert ended.status == 1
    assert json.loads(ended.out)["verdict"].startswith("regression shown: ")
    assert "::error title=cosmos-eval check%3A regression::scenes-cosmos on" in ended.err
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("# before\n### cosmos-eval check: regression shown")
    assert ET.parse(tmp_path / "out" / "junit.xml").getroot().get("failures") != "0"
    assert command(*check, "--summary", "own.md").status == 1
    assert (tmp_path / "own.md").read_text() in summary


def test_reports_are_also_written_where_nothing_can_be_compared(command, tmp_path):
    store(tmp_path / "new")
    outputs = ["--junit", "junit.xml", "--summary", "summary.md", "--json"]
    ended = command("check", "new", "--baseline", "nowhere.json", *outputs)
    assert ended.status == 2
    (problem,) = json.loads(ended.out)["problems"]
    assert "no baseline" in problem["message"]
    assert ET.parse(tmp_path / "junit.xml").getroot().get("errors") == "1"
    assert "cannot decide" in (tmp_path / "summary.md").read_text()


def test_an_unexpected_error_is_not_called_a_regression(command, update, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise ZeroDivisionError("division by zero")

    store(tmp_path / "new")
    update("new")
    monkeypatch.setattr("cosmos_eval.results.gate.check.check_results", fail)
    ended = command("check", "new", "--baseline", "base.json")
    assert ended.status == 2
    assert ended.err == "cosmos-eval: cannot decide: ZeroDivisionError: division by zero\n"


def test_writing_refuses_what_its_schema_does_not_have(tmp_path):
    result = VerifiedResult(tmp_path, *make_result(metrics={"acc1": 2.0}))
    with pytest.raises(UsageError, match=r"base.json: \$.results.0.metrics.acc1"):
        replace_baseline(tmp_path / "base.json", [result], [], reason="x", keep_samples=False)
