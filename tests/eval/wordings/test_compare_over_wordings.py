"""`compare --over wording` on made-up results of known skill: seeds, refusals, what is printed."""

import json
import re

import numpy as np
import pytest
from support.models import SAMPLES, make_result, store

import cosmos_eval
from cosmos_eval.stats.estimates import Proportion
from cosmos_eval.stats.wordings import mean_over_wordings, worded_values
from cosmos_eval.types import UsageError, worded_protocol_name

SKILLS = {"plain": 0.6, "art": 0.5, "lower": 0.65, "upper": 0.55}
BOTH = ("--model", "clip", "--model", "slip", "--over", "wording")


def put(folder, model, task="cls", skills=SKILLS, more=0.0, seed=None, **changes):
    """Store the results of a model with its own and other wordings, each of another skill."""
    training = {
        "group": model, "seed": seed, "recipe_sha256": None, "data_sha256": None,
        "samples": None, "flops": None,
    }  # fmt: skip
    record = {"spec": model} if seed is None else {"spec": f"{model}-{seed}", "training": training}
    store(folder, task, 0.7 + more, 1, model=record, **changes)
    for number, (name, skill) in enumerate(skills.items()):
        protocol = worded_protocol_name("scenes", name)
        hashes = {"templates": f"{number:064x}", **changes.get("hashes", {})}
        if task in ("retrieval", "select"):
            hashes["sample_list"] = f"{number:064x}"
        other_changes = {key: value for key, value in changes.items() if key != "hashes"}
        draw = number + 10 * (seed or 0)
        store(
            folder, task, skill + more, draw,
            model=record, protocol=protocol, hashes=hashes, **other_changes,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("cls", "acc1"),
        ("retrieval", "image_to_text_R@1"),
        ("select", "accuracy"),
        ("seg", "mIoU"),
    ],
)
def test_two_models(command, tmp_path, task, metric):
    put(tmp_path / "r", "clip", task)
    put(tmp_path / "r", "slip", task, more=0.2)
    ended = command("compare", "r", *BOTH, "--metrics", metric)
    assert (ended.status, ended.out.splitlines()[1:3]) == (0, ["A: clip", "B: slip"])
    first = ended.out.splitlines()[0]
    assert re.match(r"A better in 0 of 4 wordings; mean difference -[\d.]+ \[", first)
    assert "intervals do not include seeds" in ended.err
    document = json.loads(command("compare", "r", *BOTH, "--metrics", metric, "--json").out)
    (test,) = document["tests"]
    assert (test["better"], test["a_better"], test["b_better"]) == ("B", 0, 4)
    names = list(SKILLS)
    expected = {
        name: make_result(task, skill, names.index(name))[0].metrics[metric]
        for name, skill in SKILLS.items()
    }
    assert {row["wording"]: row["a"] for row in test["wordings"]} == pytest.approx(expected)
    assert test["published"]["wording"] == "published"


def test_the_interval_is_that_of_the_samples(tmp_path):
    put(tmp_path / "r", "clip")
    estimates = []
    for number, skill in enumerate(SKILLS.values()):
        samples = SAMPLES["cls"](skill, np.random.default_rng(number))
        estimates.append(Proportion(samples["top5"][:, 0] == samples["labels"]))
    expected = mean_over_wordings(worded_values([estimates])).interval()
    comparison = cosmos_eval.compare(tmp_path / "r", models=["clip"], over="wording")
    assert comparison.tests[0].interval == pytest.approx(expected[:2] + expected[2:])
    assert comparison.verdict.startswith("mean of 4 wordings ")


def test_methods_by_their_trainings(command, tmp_path):
    for seed in range(3):
        put(tmp_path / "r", "clip", seed=seed)
        put(tmp_path / "r", "slip", seed=seed, more=0.15)
    ended = command("compare", "r", "--group", "clip", "--group", "slip", "--over", "wording")
    assert ended.status == 0
    assert ended.out.splitlines()[0].endswith("incl. wording and seeds")
    assert "do not include seeds" not in ended.err
    assert ended.out.splitlines()[1:3] == ["A: clip (3 trainings)", "B: slip (3 trainings)"]
    assert re.search(r"\n +seeds +[\d.]+ \[", ended.out)
    alone = command("compare", "r", "--group", "clip", "--over", "wording", "--json")
    (test,) = json.loads(alone.out)["tests"]
    assert test["n_trainings"] == [3]
    assert test["components"]["A"]["seeds"]["low"] >= 0


def test_a_training_without_a_wording(command, tmp_path):
    put(tmp_path / "r", "clip", seed=0)
    put(tmp_path / "r", "clip", seed=1, skills={**SKILLS, "new": 0.6})
    ended = command("compare", "r", "--group", "clip", "--over", "wording")
    assert (ended.status, "not all models have the wordings new" in ended.err) == (0, True)


def test_lower_is_better(command, tmp_path):
    """The worst wording of a rank or an error is the highest."""
    put(tmp_path / "r", "clip", "retrieval")
    ended = command(
        "compare",
        "r",
        "--model",
        "clip",
        "--over",
        "wording",
        "--metrics",
        "image_to_text_mean_rank",
    )
    assert (ended.status, "Student's t does not hold" in ended.err) == (2, True)
    put(tmp_path / "c", "clip")
    document = json.loads(
        command(
            "compare", "c", "--model", "clip", "--over", "wording", "--all-metrics", "--json"
        ).out
    )
    assert any("does not hold: ece" in note for note in document["notes"])
    assert {test["metric"] for test in document["tests"]} >= {"acc1", "mean_per_class_recall"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hashes": {"content": "e" * 64}}, "differ in more than their wording|cannot be compared"),
        ({"hashes": {"sample_list": "e" * 64}}, "cannot be compared: hashes.sample_list"),
        ({"skills": {"a": 0.5, "b": 0.6, "c": 0.7}}, "0 wordings cannot show"),
        ({"skills": {"plain": 0.5, "art": 0.6}}, "2 wordings cannot show"),
        ({"dataset": "other"}, "no data set that was measured with other wordings by both"),
        ({"provenance": {"precision": "bf16"}}, "no data set that was measured with other"),
    ],
)
def test_what_cannot_be_compared(command, tmp_path, changes, message):
    put(tmp_path / "r", "clip")
    put(tmp_path / "r", "slip", **changes)
    ended = command("compare", "r", *BOTH)
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert re.search(message, ended.err)


def test_other_images_of_one_wording(command, tmp_path):
    """A wording that was measured on other images is no wording of the same data."""
    put(tmp_path / "r", "clip")
    put(tmp_path / "r", "clip", skills={"new": 0.5}, hashes={"content": "e" * 64})
    for path in (tmp_path / "r").glob("clip__scenes-cls__scenes.json"):
        path.unlink()
    ended = command("compare", "r", "--model", "clip", "--over", "wording")
    assert (ended.status, ended.err.count("\n")) == (2, 1)


def test_edited_results(command, tmp_path):
    put(tmp_path / "r", "clip")
    path = tmp_path / "r" / "clip__scenes-cls__scenes-wording-art.json"
    record = json.loads(path.read_text())
    record["metrics"]["acc1"] = 0.99
    path.write_text(json.dumps(record))
    ended = command("compare", "r", "--model", "clip", "--over", "wording")
    assert (ended.status, "not ranked and not compared" in ended.err) == (0, True)
    assert "mean of 3 wordings" in ended.out


@pytest.mark.parametrize("option", ["--plan", "--same-seeds"])
def test_options_that_have_no_effect(command, tmp_path, option):
    put(tmp_path / "r", "clip")
    ended = command("compare", "r", "--group", "a", "--group", "b", "--over", "wording", option)
    assert (ended.status, "--over wording takes no" in ended.err) == (2, True)


def test_python_refuses_other_factors(tmp_path):
    with pytest.raises(UsageError, match='over is "wording"'):
        cosmos_eval.compare(tmp_path, over="seed")


def test_output_fits_a_terminal(command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    put(tmp_path / "r", "clip", "retrieval")
    put(tmp_path / "r", "slip", "retrieval", more=0.1)
    ended = command("compare", "r", *BOTH)
    assert max(len(line) for line in ended.out.splitlines()) <= 80
