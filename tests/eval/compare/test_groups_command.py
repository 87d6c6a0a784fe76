"""Comparing methods by stored results of several trainings."""

import json
import re

import pytest
from support.models import make_result, store

from cosmos_eval.cli.results import side_text
from cosmos_eval.results.compare import Comparison, all_differences

BOTH = ("--group", "clip", "--group", "slip")


def put(folder, group, seed, task="cls", number=None, samples=None, **more):
    """Store the result of a training."""
    number = seed if number is None else number
    training = {
        "group": group, "seed": seed, "recipe_sha256": None, "data_sha256": None,
        "samples": samples, "flops": None,
    }  # fmt: skip
    spec = more.pop("spec", f"{group}-{number}")
    weights = f"{number + 100 * len(group) + ord(group[0]):064x}"
    model = {"spec": spec, "weights_sha256": weights, "training": training}
    return store(
        folder, task, {"clip": 0.5, "slip": 0.8}[group] + 0.01 * number, number, model=model, **more
    )


def put_all(folder, k=(3, 3), task="cls"):
    for group, size in zip(("clip", "slip"), k, strict=True):
        for seed in range(size):
            put(folder, group, seed, task)


@pytest.mark.parametrize("task", ["cls", "retrieval", "seg"])
def test_two_methods(command, tmp_path, task):
    put_all(tmp_path / "all", task=task)
    ended = command("compare", "all", *BOTH)
    assert (ended.status, ended.err.count("\n")) == (0, 1)
    assert "note: other metrics not shown: " in ended.err
    assert ended.out.splitlines()[1] == "A: clip (3 trainings, seeds 0-2)"
    comparison = json.loads(command("compare", "all", *BOTH, "--json").out)
    first = comparison["tests"][0]
    assert (first["k"], first["of_methods"], first["better"]) == ([3, 3], True, "B")
    rows = [make_result(task, 0.5 + 0.01 * seed, seed)[0] for seed in range(3)]
    assert first["a"] == pytest.approx(sum(row.metrics[first["metric"]] for row in rows) / 3)
    assert first["interval"]["low"] < first["difference"] < first["interval"]["high"]
    named = command("compare", "all", "--group", "clip-1", "--group", "slip-2", "--json")
    assert json.loads(named.out) == comparison


def test_one_training_each_is_the_comparison_of_two_models(command, tmp_path):
    put_all(tmp_path / "all", (1, 1))
    ended = command("compare", "all", *BOTH, "--json")
    comparison = json.loads(ended.out)
    assert [note[:1] for note in comparison["notes"]] == ["A", "B"]
    assert "not between methods" in comparison["notes"][0]
    first = comparison["tests"][0]
    assert (first["seed_sd"], first["of_methods"], first["better"]) == ([None, None], False, None)
    samples = [make_result("cls", skill, 0)[1] for skill in (0.5, 0.8)]
    plain = all_differences("cls", samples)[0, 1][first["metric"]]
    assert first["difference"] == pytest.approx(plain.difference)
    assert first["image_error"] == pytest.approx(plain.error, rel=0.05)
    assert command("compare", "all", *BOTH, "--plan").status == 2
    shown = command("compare", "all", *BOTH).out.splitlines()
    assert shown[:3] == [
        "no verdict: one training per method shows nothing about the methods",
        "A: clip (1 training, seed 0)",
        "B: slip (1 training, seed 0)",
    ]


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        ((0, 1, 2, 3, 4), "5 trainings, seeds 0-4"),
        ((3, 4), "2 trainings, seeds 3, 4"),
        ((0, 2, 3), "3 trainings, seeds 0, 2, 3"),
        ((7,), "1 training, seed 7"),
        ((None,), "1 training"),
        ((1, None), "2 trainings"),
    ],
)
def test_the_seeds_of_a_group_are_short(seeds, text):
    comparison = Comparison("clip", "slip", (), (), seeds=(seeds, (9,)))
    assert side_text(comparison, 0) == f"clip ({text})"
    assert side_text(comparison, 1) == "slip (1 training, seed 9)"


def test_groups_fit_into_80_columns(command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    put_all(tmp_path / "all", task="retrieval")
    everything = command("compare", "all", *BOTH, "--all-metrics").out
    assert max(map(len, everything.splitlines())) <= 80
    lines = command("compare", "all", *BOTH).out.splitlines()
    titles = lines[3].split()
    assert " ".join(titles) == "A B A - B [95%] p p (Holm) better detectable"
    # A verdict, two sides, the titles, a rule and one heading; then two lines per metric.
    assert len(lines) == 6 + 2 * 2
    first = json.loads(command("compare", "all", *BOTH, "--json").out)["tests"][0]
    seed_sd = " / ".join(f"{100 * value:.2f}" for value in first["seed_sd"])
    image_se = f"{100 * first['image_error']:.2f}"
    assert lines[6] == (
        f"  {first['metric']}, k 3 / 3, n = {first['samples']}, seed sd {seed_sd}, "
        f"image se {image_se}"
    )


def test_a_plan_needs_fewer_trainings_for_more(command, tmp_path):
    put_all(tmp_path / "all")
    comparison = json.loads(
        command("compare", "all", *BOTH, "--plan", "--difference", "5", "--json").out
    )
    rows = comparison["plan"]
    assert [row["images"] for row in rows] == ["these", "4 x as many", "unlimited"]
    ranges = [[*map(int, row["k for 5"].split(" to "))] for row in rows]
    assert all(2 <= least < most for least, most in ranges)
    assert ranges[0][1] >= ranges[1][1] >= ranges[2][1]
    assert rows[0]["k = 3"] > rows[0]["k = 10"]
    shown = command("compare", "all", *BOTH, "--plan", "--difference", "5")
    assert (shown.status, "k for 5" in shown.out) == (0, True)
    assert re.search(r"^scenes-cls, scenes$", shown.out, re.M)


def test_pairs_of_the_same_seeds(command, tmp_path):
    put_all(tmp_path / "all")
    assert command("compare", "all", *BOTH, "--same-seeds").status == 0
    put(tmp_path / "all", "slip", 7)
    ended = command("compare", "all", *BOTH, "--same-seeds")
    assert (ended.status, "not of the same seeds" in ended.err) == (2, True)


def test_sets_without_all_trainings_are_noted(command, tmp_path):
    put_all(tmp_path / "all")
    put(tmp_path / "all", "clip", 0, dataset="other")
    ended = command("compare", "all", *BOTH)
    first, _ = ended.err.splitlines()
    assert first == "note: not compared: other (scenes) has 1 of 3 trainings of A"


@pytest.mark.parametrize(
    ("samples", "note"),
    [
        ((10, 20, None), "the trainings of A differ in samples"),
        ((10, None, 10), "not all trainings of A state their samples"),
        ((10, 10, 10), ""),
    ],
)
def test_replicates_of_other_recipes_are_noted(command, tmp_path, samples, note):
    for seed, count in enumerate(samples):
        put(tmp_path / "all", "clip", seed, samples=count)
        put(tmp_path / "all", "slip", seed)
    ended = command("compare", "all", *BOTH, "--all-metrics")
    assert ended.err == (f"note: {note}\n" if note else "")


def test_a_training_counts_once(command, tmp_path):
    put_all(tmp_path / "all")
    put(tmp_path / "all" / "more", "clip", 2, number=9)
    ended = command("compare", "all", *BOTH)
    assert (ended.status, "belong to one training" in ended.err) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        (*BOTH, "--model", "clip-0"), ("all", *BOTH), BOTH[:2], ("all", "--plan"),
        ("all", "--same-seeds"), ("--group", "clip", "--group", "glip"),
    ],
)  # fmt: skip
def test_usage_errors(command, tmp_path, arguments):
    put_all(tmp_path / "all")
    ended = command("compare", "all", *arguments)
    assert (ended.status, ended.out, len(ended.err.splitlines())) == (2, "", 1)
