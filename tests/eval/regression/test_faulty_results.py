"""Results that must never pass, and command lines: each a change of what passes."""

import json

import numpy as np
import pytest
from support.bench import Scenarios, require_failure
from support.models import make_result, seg_samples, store

SCENARIOS = Scenarios()
D_HASH = "d" * 64  # not the hash that the result in the baseline has
_, CLS_SAMPLES = make_result()
CLS_SAMPLES_OF_OTHER_LABELS = {**CLS_SAMPLES, "labels": CLS_SAMPLES["labels"][::-1]}


def test_equal_results_pass(command, tmp_path):
    for task in ("cls", "retrieval", "seg", "select", "loc"):
        store(tmp_path / "new", task)
    command("check", "new", "--baseline", "line.json", "--update", "--reason", "the first one")
    ended = command("check", "new", "--baseline", "line.json", "--strict")
    assert ended.status == 0
    assert ended.err.splitlines() == [
        "note: metrics for information not shown: 32, of these worse: 0 (--all-metrics shows them)",
        "note: scenes-cosmos: weights 00000000, as in the baseline",
    ]
    assert ended.out.endswith("no regression shown, of 7 metrics (32 more for information)\n")


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("cls", {"protocol": "cosmos"}, "scenes-cls .scenes.: the baseline has it, the results ha"),
        ("cls", {"hashes": {"templates": D_HASH}}, "hashes.templates is bbbbbbbbbbbb and dddddddd"),
        ("cls", {"hashes": {"constants": D_HASH}}, "hashes.constants is missing and dddddddddddd"),
        ("cls", {"hashes": {"sample_list": D_HASH}}, "hashes.sample_list is cccccccccccc and dddd"),
        ("cls", {"provenance": {"hashes": {}}}, "hashes.sample_list is .* and missing"),
        # Other labels under the same list of samples.
        ("cls", {"samples": CLS_SAMPLES_OF_OTHER_LABELS}, "`labels` of the samples dif"),
        (
            "seg",
            {"samples": seg_samples(0.6, np.random.default_rng(1), images=20)},
            "n_samples is 30 and 20",
        ),
        ("cls", {"provenance": {"limit": 20}}, r"there is one of scenes-cosmos \(first 20 only\)"),
        ("seg", {"provenance": {"attention": "vanilla"}}, r"is one of scenes-cosmos \(vanilla\)"),
        (
            "seg",
            {"provenance": {"attention": "naclip", "protocol_attention": "naclip"}},
            "attention is csa and naclip",
        ),
        ("cls", {"provenance": {"precision": "bf16"}}, r"there is one of scenes-cosmos \(bf16\)"),
        ("cls", {"model": {"weights": "student"}}, r"there is one of scenes-cosmos \(student\)"),
        ("cls", {"model": {"random": True, "weights_sha256": None}}, "has random weights"),
    ],
)  # fmt: skip
def test_a_result_measured_in_another_way_never_passes(command, bench, task, changes, message):
    bench.replace(task, **changes)
    require_failure(command(*bench.command()), 2, message)


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({"dirty": True}, "with edited code .dirty."),
        ({"dirty": None}, "with edited code .dirty."),
        ({"commit": None}, "does not state its commit"),
    ],
)
def test_code_that_strict_refuses(command, bench, provenance, message):
    bench.replace(provenance=provenance)
    require_failure(command(*bench.command("--strict")), 2, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 99}', "version 99"),
        ("{}", "not a result: it has no `schema_version`"),
        ("{", "cannot be read as a result"),
    ],
)
def test_a_file_that_is_not_a_result_never_passes(command, bench, text, message):
    bench.file("cls").write_text(text)
    require_failure(command(*bench.command()), 2, message)


@pytest.mark.parametrize(
    ("task", "metric", "value", "message"),
    [
        ("cls", "acc1", float("nan"), r"\$.metrics.acc1: Input should be a finite number"),
        ("cls", "acc1", 0.99, "edited metric acc1: 0.99"),
    ],
)
def test_an_edited_metric_never_passes(command, bench, task, metric, value, message):
    metrics = {**json.loads(bench.file(task).read_text())["metrics"], metric: value}
    bench.edit(bench.file(task), metrics=metrics)
    require_failure(command(*bench.command()), 2, message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("check {samples} --baseline {baseline}", "cannot be read as a result"),
        ("check {new} nowhere.json --baseline {baseline}", "nowhere.json: cannot be read as a res"),
        ("check {new} {cls} --baseline {baseline}", "a second result of scenes-cosmos on scenes-c"),
        ("check {empty} --baseline {baseline}", "no results"),
        ("check {new} {empty} --baseline {baseline}", "no results"),
        ("check --baseline {baseline}", "Missing argument 'RESULT...'"),
        ("check {new}", "Missing option '--baseline'"),
        ("check {new} --baseline {baseline} --lenient", "No such option"),
        ("check {new} --baseline {baseline} --reason so", "go with --update"),
        ("check {new} --baseline {baseline} --summary {new}", "cannot write the report"),
    ],
)
def test_faulty_command_lines_never_pass(command, bench, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    paths = {
        "baseline": bench.baseline,
        "new": bench.new,
        "cls": bench.file("cls"),
        "samples": next(bench.new.glob("*cls*.npz")),
        "empty": tmp_path / "empty",
    }
    command_line = [argument.format(**paths) for argument in arguments.split()]
    require_failure(command(*command_line), 2, message)


@SCENARIOS.add("a relabelled result under --strict", 2, "version is 1, but it has record_sha256")
def _(bench):
    bench.edit(bench.file("cls"), schema_version=1)
    return bench.command("--strict")


@SCENARIOS.add("the result lacks a metric", 2, "edited metric acc5")
def _(bench):
    metrics = json.loads(bench.file("cls").read_text())["metrics"]
    del metrics["acc5"]
    bench.edit(bench.file("cls"), metrics=metrics)


@SCENARIOS.add("NaN in an interval", 2, r"\$.intervals.acc1.low: Input should be a finite number")
def _(bench):
    intervals = json.loads(bench.file("cls").read_text())["intervals"]
    intervals["acc1"]["low"] = float("nan")
    bench.edit(bench.file("cls"), intervals=intervals)


@SCENARIOS.add("edited provenance", 2, "edited record")
def _(bench):
    document = json.loads(bench.file("cls").read_text())
    bench.edit(bench.file("cls"), provenance={**document["provenance"], "commit": "2" * 40})


@SCENARIOS.add("edited samples", 2, "edited samples")
def _(bench):
    path = next(bench.new.glob("*cls*.npz"))
    path.write_bytes(path.read_bytes() + b"\0")


@SCENARIOS.add("missing samples", 2, "missing samples")
def _(bench):
    next(bench.new.glob("*cls*.npz")).unlink()


@SCENARIOS.add("samples of another result", 2, "swapped file")
def _(bench):
    samples = next(bench.new.glob("*seg*.npz"))
    next(bench.new.glob("*cls*.npz")).write_bytes(samples.read_bytes())


@SCENARIOS.add("two results for one key", 2, "a second result of scenes-cosmos on scenes-cls")
def _(bench):
    store(bench.new / "again", "cls")


@SCENARIOS.add("a data set that was not run", 2, r"scenes-seg \(scenes\): the baseline has it")
def _(bench):
    bench.file("seg").unlink()


@SCENARIOS.add("a model that was not run", 2, "scenes-clip on .*: the baseline has it")
def _(bench):
    bench.edit_baseline(0, model="scenes-clip")
    bench.file("cls").unlink()


@SCENARIOS.add("a renamed model", 2, "there is one of scenes-cosmos-2")
def _(bench):
    bench.file("cls").unlink()
    store(bench.new, "cls", model={"spec": "scenes-cosmos-2"})


@SCENARIOS.add("a result that the baseline lacks", 2, "scenes-clip on .* is not in the baseline")
def _(bench):
    store(bench.new, "cls", model={"spec": "scenes-clip"})


@SCENARIOS.add("a regression", 1, "regression shown: 1 of 2 metrics")
def _(bench):
    bench.replace("cls", 0.4, 2)


@SCENARIOS.add("an improvement that hides a regression elsewhere", 1, "regression shown")
def _(bench):
    for task, skill in (("cls", 0.2), ("seg", 0.95)):
        bench.replace(task, skill, 2)


@SCENARIOS.add("a regression beside something undecided", 1, "regression shown")
def _(bench):
    bench.replace("cls", 0.4, 2)
    bench.file("seg").unlink()


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_scenario_never_passes(command, bench, name):
    SCENARIOS[name].check(command, bench)
