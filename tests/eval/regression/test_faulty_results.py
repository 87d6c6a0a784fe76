"""Results that must never pass, and command lines: each a change of what passes."""

import json
from functools import partial

import numpy as np
import pytest
from support.bench import Scenarios, require_failure, scenario
from support.models import make_result, seg_samples, store

SCENARIOS: Scenarios = {}
scenario = partial(scenario, SCENARIOS)
OTHER = "d" * 64  # another hash
CLS = make_result()[1]


def test_what_is_the_same_passes(command, tmp_path):
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
        ("cls", {"hashes": {"templates": OTHER}}, "hashes.templates is bbbbbbbbbbbb and dddddddd"),
        ("cls", {"hashes": {"constants": OTHER}}, "hashes.constants is missing and dddddddddddd"),
        ("cls", {"hashes": {"sample_list": OTHER}}, "hashes.sample_list is cccccccccccc and dddd"),
        ("cls", {"provenance": {"hashes": {}}}, "hashes.sample_list is .* and missing"),
        # Other labels under the same list of samples.
        ("cls", {"samples": {**CLS, "labels": CLS["labels"][::-1]}}, "`labels` of the samples dif"),
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
def test_a_result_measured_otherwise(command, bench, task, changes, message):
    require_failure(command, bench, (lambda bench: bench.again(task, **changes), 2, message))


@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        ({"dirty": True}, "with edited code .dirty."),
        ({"dirty": None}, "with edited code .dirty."),
        ({"commit": None}, "does not state its commit"),
    ],
)
def test_code_that_strict_refuses(command, bench, provenance, message):
    bench.again(provenance=provenance)
    require_failure(command, bench, (lambda bench: bench.command("--strict"), 2, message))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema_version": 99}', "version 99"),
        ("{}", "not a result: it has no `schema_version`"),
        ("{", "cannot be read as a result"),
    ],
)
def test_a_file_that_is_no_result(command, bench, text, message):
    bench.file("cls").write_text(text)
    require_failure(command, bench, (lambda _: None, 2, message))


@pytest.mark.parametrize(
    ("task", "metric", "value", "message"),
    [
        ("cls", "acc1", float("nan"), r"\$.metrics.acc1: Input should be a finite number"),
        ("cls", "acc1", 0.99, "edited metric acc1: 0.99"),
    ],
)
def test_an_edited_metric(command, bench, task, metric, value, message):
    metrics = {**json.loads(bench.file(task).read_text())["metrics"], metric: value}
    bench.edit(bench.file(task), metrics=metrics)
    require_failure(command, bench, (lambda _: None, 2, message))


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
def test_command_lines(command, bench, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    places = {"cls": bench.file("cls"), "samples": next(bench.new.glob("*cls*.npz"))}
    places |= {**bench._asdict(), "empty": tmp_path / "empty"}
    given = [word.format(**places) for word in arguments.split()]
    require_failure(command, bench, (lambda bench: given, 2, message))


@scenario("a relabelled result under --strict", 2, "version is 1, but it has record_sha256")
def _(bench):
    bench.edit(bench.file("cls"), schema_version=1)
    return bench.command("--strict")


@scenario("the result lacks a metric", 2, "edited metric acc5")
def _(bench):
    metrics = json.loads(bench.file("cls").read_text())["metrics"]
    del metrics["acc5"]
    bench.edit(bench.file("cls"), metrics=metrics)


@scenario("NaN in an interval", 2, r"\$.intervals.acc1.low: Input should be a finite number")
def _(bench):
    intervals = json.loads(bench.file("cls").read_text())["intervals"]
    intervals["acc1"]["low"] = float("nan")
    bench.edit(bench.file("cls"), intervals=intervals)


@scenario("edited provenance", 2, "edited record")
def _(bench):
    document = json.loads(bench.file("cls").read_text())
    bench.edit(bench.file("cls"), provenance={**document["provenance"], "commit": "2" * 40})


@scenario("edited samples", 2, "edited samples")
def _(bench):
    path = next(bench.new.glob("*cls*.npz"))
    path.write_bytes(path.read_bytes() + b"\0")


@scenario("missing samples", 2, "missing samples")
def _(bench):
    next(bench.new.glob("*cls*.npz")).unlink()


@scenario("samples of another result", 2, "swapped file")
def _(bench):
    samples = next(bench.new.glob("*seg*.npz"))
    next(bench.new.glob("*cls*.npz")).write_bytes(samples.read_bytes())


@scenario("two results for one key", 2, "a second result of scenes-cosmos on scenes-cls")
def _(bench):
    store(bench.new / "again", "cls")


@scenario("a data set that was not run", 2, r"scenes-seg \(scenes\): the baseline has it")
def _(bench):
    bench.file("seg").unlink()


@scenario("a model that was not run", 2, "scenes-clip on .*: the baseline has it")
def _(bench):
    bench.edit_baseline(0, model="scenes-clip")
    bench.file("cls").unlink()


@scenario("a renamed model", 2, "there is one of scenes-cosmos-2")
def _(bench):
    bench.file("cls").unlink()
    store(bench.new, "cls", model={"spec": "scenes-cosmos-2"})


@scenario("a result that the baseline lacks", 2, "scenes-clip on .* is not in the baseline")
def _(bench):
    store(bench.new, "cls", model={"spec": "scenes-clip"})


@scenario("a regression", 1, "regression shown: 1 of 2 metrics")
def _(bench):
    bench.again("cls", 0.4, 2)


@scenario("an improvement that hides a regression elsewhere", 1, "regression shown")
def _(bench):
    for task, skill in (("cls", 0.2), ("seg", 0.95)):
        bench.again(task, skill, 2)


@scenario("a regression beside something undecided", 1, "regression shown")
def _(bench):
    bench.again("cls", 0.4, 2)
    bench.file("seg").unlink()


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_never_passes(command, bench, name):
    require_failure(command, bench, SCENARIOS[name])
