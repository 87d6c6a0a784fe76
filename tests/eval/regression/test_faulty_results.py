"""Results that must never pass, and command lines: each a change of what passes."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from support.bench import Scenarios, require_failure, scenario
from support.models import make_result, seg_samples, store

SCENARIOS: Scenarios = {}
scenario = partial(scenario, SCENARIOS)


def test_what_is_the_same_passes(command, bench):
    ended = command(*bench.command("--strict"))
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.endswith("no regression shown, of 37 metrics\n")


@scenario("a relabelled result under --strict", 2, "version is 1, but it has record_sha256")
def _(bench):
    bench.edit(bench.file("cls"), schema_version=1)
    return bench.command("--strict")


@scenario("the result lacks a metric", 2, "edited metric acc5")
def _(bench):
    metrics = json.loads(bench.file("cls").read_text())["metrics"]
    del metrics["acc5"]
    bench.edit(bench.file("cls"), metrics=metrics)


@scenario("the result is of another version", 2, "version 99")
def _(bench):
    bench.edit(bench.file("cls"), schema_version=99)


@scenario("the result is of no version", 2, "no result: it has no `schema_version`")
def _(bench):
    bench.file("cls").write_text("{}")


@scenario("the result is malformed", 2, "cannot be read as a result")
def _(bench):
    bench.file("cls").write_text("{")


@scenario("the result is empty", 2, "cannot be read as a result")
def _(bench):
    bench.file("cls").write_text("")


@scenario("the result is no text", 2, "cannot be read as a result")
def _(bench):
    return ["check", next(bench.new.glob("*cls*.npz")), "--baseline", bench.baseline]


@scenario("the result is not there", 2, "nowhere.json: cannot be read as a result")
def _(bench):
    return ["check", bench.new, "nowhere.json", "--baseline", bench.baseline]


@scenario("NaN in the result", 2, r"\$.metrics.acc1: Input should be a finite number")
def _(bench):
    metrics = json.loads(bench.file("cls").read_text())["metrics"]
    bench.edit(bench.file("cls"), metrics={**metrics, "acc1": float("nan")})


@scenario("infinity in the result", 2, r"mean_rank: Input should be a finite number")
def _(bench):
    metrics = json.loads(bench.file("retrieval").read_text())["metrics"]
    metrics["image_to_text_mean_rank"] = float("inf")
    bench.edit(bench.file("retrieval"), metrics=metrics)


@scenario("NaN in an interval", 2, r"\$.intervals.acc1.low: Input should be a finite number")
def _(bench):
    intervals = json.loads(bench.file("cls").read_text())["intervals"]
    intervals["acc1"]["low"] = float("nan")
    bench.edit(bench.file("cls"), intervals=intervals)


@scenario("an edited metric", 2, "edited metric acc1: 0.99")
def _(bench):
    metrics = json.loads(bench.file("cls").read_text())["metrics"]
    bench.edit(bench.file("cls"), metrics={**metrics, "acc1": 0.99})


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


@scenario("a file given twice", 2, "a second result of scenes-cosmos on scenes-cls")
def _(bench):
    return ["check", bench.new, bench.file("cls"), "--baseline", bench.baseline]


@scenario("protocol drift", 2, "scenes-cls .scenes.: the baseline has it, the results have not")
def _(bench):
    bench.again(protocol="cosmos")


@scenario("templates drift", 2, "hashes.templates is bbbbbbbbbbbb and dddddddddddd")
def _(bench):
    bench.again(hashes={"templates": "d" * 64})


@scenario("class names drift", 2, "hashes.class_names is aaaaaaaaaaaa and dddddddddddd")
def _(bench):
    bench.again(hashes={"class_names": "d" * 64})


@scenario("a new hash", 2, "hashes.constants is missing and dddddddddddd")
def _(bench):
    bench.again(hashes={"constants": "d" * 64})


@scenario("another sample list", 2, "hashes.sample_list is cccccccccccc and dddddddddddd")
def _(bench):
    bench.again(hashes={"sample_list": "d" * 64})


@scenario("an unknown sample list", 2, "hashes.sample_list is .* and missing")
def _(bench):
    bench.again(provenance={"hashes": {}})


@scenario("other labels under the same sample list", 2, "`labels` of the samples differs")
def _(bench):
    samples = make_result()[1]
    bench.again(samples={**samples, "labels": samples["labels"][::-1]})


@scenario("fewer samples", 2, "n_samples is 30 and 20")
def _(bench):
    bench.again("seg", samples=seg_samples(0.6, np.random.default_rng(1), images=20))


@scenario("a limit", 2, r"there is one of scenes-cosmos \(first 20 only\)")
def _(bench):
    bench.again(provenance={"limit": 20})


@scenario("another attention", 2, r"there is one of scenes-cosmos \(vanilla\)")
def _(bench):
    bench.again("seg", provenance={"attention": "vanilla"})


@scenario("another attention by the protocol", 2, "attention is csa and naclip")
def _(bench):
    bench.again("seg", provenance={"attention": "naclip", "protocol_attention": "naclip"})


@scenario("another precision", 2, r"there is one of scenes-cosmos \(bf16\)")
def _(bench):
    bench.again(provenance={"precision": "bf16"})


@scenario("the other weights", 2, r"there is one of scenes-cosmos \(student\)")
def _(bench):
    bench.again(model={"weights": "student"})


@scenario("random weights", 2, "is of random weights")
def _(bench):
    bench.again(model={"random": True, "weights_sha256": None})


@scenario("a folder without results", 2, "no results")
def _(bench):
    empty = bench.new.parent / "empty"
    empty.mkdir()
    return ["check", empty, "--baseline", bench.baseline]


@scenario("an empty folder beside good results", 2, "no results")
def _(bench):
    empty = bench.new.parent / "empty"
    empty.mkdir()
    return ["check", bench.new, empty, "--baseline", bench.baseline]


@scenario("no result", 2, "Missing argument 'RESULT...'")
def _(bench):
    return ["check", "--baseline", bench.baseline]


@scenario("no baseline option", 2, "Missing option '--baseline'")
def _(bench):
    return ["check", bench.new]


@scenario("an unknown option", 2, "No such option")
def _(bench):
    return bench.command("--lenient")


@scenario("a reason without --update", 2, "go with --update")
def _(bench):
    return bench.command("--reason", "so")


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


@scenario("edited code under --strict", 2, "is of edited code .dirty.")
def _(bench):
    bench.again(provenance={"dirty": True})
    return bench.command("--strict")


@scenario("an unknown state of the code under --strict", 2, "is of edited code .dirty.")
def _(bench):
    bench.again(provenance={"dirty": None})
    return bench.command("--strict")


@scenario("an unknown commit under --strict", 2, "does not state its commit")
def _(bench):
    bench.again(provenance={"commit": None})
    return bench.command("--strict")


@scenario("a regression", 1, "regression shown: [0-9]+ of 37 metrics")
def _(bench):
    bench.again("retrieval", 0.4, 2)


@scenario("an improvement that hides a regression elsewhere", 1, "regression shown")
def _(bench):
    bench.again("cls", 0.9, 2)
    bench.again("seg", 0.95, 2)
    bench.again("select", 0.2, 2)


@scenario("a regression beside something undecided", 1, "regression shown")
def _(bench):
    bench.again("retrieval", 0.4, 2)
    bench.file("seg").unlink()


@scenario("a summary that cannot be written", 2, "cannot write the report")
def _(bench):
    return bench.command("--summary", bench.new)


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_never_passes(command, bench, name):
    require_failure(command, bench, SCENARIOS[name])
