"""Comparing methods by stored results of several trainings."""

import json
import re

import pytest
from support.models import make_result, store

from cosmos_eval.results.compare import all_differences

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
    assert (ended.status, ended.err) == (0, "")
    assert "A: clip (clip-0, seed 0; clip-1, seed 1; clip-2, seed 2)" in ended.out
    found = json.loads(command("compare", "all", *BOTH, "--json").out)
    first = found["tests"][0]
    assert (first["k"], first["of_methods"], first["better"]) == ([3, 3], True, "B")
    own = [make_result(task, 0.5 + 0.01 * n, n)[0].metrics for n in range(3)]
    assert first["a"] == pytest.approx(sum(one[first["metric"]] for one in own) / 3)
    assert first["interval"]["low"] < first["difference"] < first["interval"]["high"]
    named = command("compare", "all", "--group", "clip-1", "--group", "slip-2", "--json")
    assert json.loads(named.out) == found


def test_one_training_each_is_the_comparison_of_two_models(command, tmp_path):
    put_all(tmp_path / "all", (1, 1))
    ended = command("compare", "all", *BOTH, "--json")
    found = json.loads(ended.out)
    assert [note[:1] for note in found["notes"]] == ["A", "B"]
    assert "not between methods" in found["notes"][0]
    first = found["tests"][0]
    assert (first["seed_sd"], first["of_methods"], first["better"]) == ([None, None], False, None)
    samples = [make_result("cls", skill, 0)[1] for skill in (0.5, 0.8)]
    plain = all_differences("cls", samples)[0, 1][first["metric"]]
    assert first["difference"] == pytest.approx(plain.difference)
    assert first["image_error"] == pytest.approx(plain.error, rel=0.05)
    assert command("compare", "all", *BOTH, "--plan").status == 2


def test_a_plan_needs_fewer_trainings_for_more(command, tmp_path):
    put_all(tmp_path / "all")
    found = json.loads(
        command("compare", "all", *BOTH, "--plan", "--difference", "5", "--json").out
    )
    rows = found["plan"]
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
    assert ended.err == "note: not compared: other (scenes) has 1 of 3 trainings of A\n"


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
    assert command("compare", "all", *BOTH).err == (f"note: {note}\n" if note else "")


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
