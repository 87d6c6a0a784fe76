"""benchmarks/permutations.py: shares of divisions of trainings that differ by chance alone."""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from functools import cache
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind
from support.models import store
from support.runs import TINY
from support.scene_files import write_scenes
from typer.testing import CliRunner

from cosmos_core.cli import app
from cosmos_eval.cli.app import main
from cosmos_eval.results.groups import Moments
from cosmos_eval.results.identity import training_of
from cosmos_eval.results.store import read_stored, result_paths

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "permutations.py"
SPEC = importlib.util.spec_from_file_location("permutations", SCRIPT)
permutations = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(permutations)

FACTS = dict.fromkeys(["recipe_sha256", "data_sha256", "samples", "flops"])


def test_all_divisions_of_six_trainings():
    divisions = [(set(a.tolist()), set(b.tolist())) for a, b in permutations.divisions(6, 2)]
    assert len(divisions) == comb(6, 2)
    assert all(len(a) == 2 and a | b == set(range(6)) for a, b in divisions)
    assert len({frozenset(a) for a, _ in divisions}) == len(divisions)
    assert len(list(permutations.divisions(20, 10))) == permutations.MAX_DIVISIONS


def test_shares_are_those_of_welchs_test_where_images_do_not_vary():
    values = np.array([0.1, 0.5, 0.52, 0.55, 0.9, 0.51])
    row = permutations.cells_of_divisions(Moments(values, np.zeros((6, 6)), 100), 3)
    sides = [(values[[*some]], np.delete(values, some)) for some in combinations(range(6), 3)]
    expected = np.mean([ttest_ind(a, b, equal_var=False).pvalue <= 0.05 for a, b in sides])
    assert row == {"k": "3 / 3", "divisions": "20", "p <= 0.05 (%)": f"{100 * expected:.1f}"}


def test_rows_are_of_each_group_and_of_every_two(tmp_path):
    for group, k in (("clip", 4), ("slips", 3)):
        for seed in range(k):
            training = {**FACTS, "group": group, "seed": seed}
            weights = f"{seed + 100 * len(group):064x}"
            model = {"spec": f"{group}-{seed}", "weights_sha256": weights, "training": training}
            store(tmp_path, "cls", 0.5, seed + len(group), model=model)
    rows = list(permutations.permutations(read_stored(result_paths(tmp_path))))
    assert [(row["groups"], row["metric"], row["k"], row["divisions"]) for row in rows] == [
        ("clip", "acc1", "2 / 2", "6"),
        ("clip and slips", "acc1", "4 / 3", "35"),
    ]


def test_the_documentation_has_the_shares_of_the_study(monkeypatch):
    """Of all divisions of two groups of five the half is tested whose first side has the first
    training: exchanging the sides changes no p-value."""

    def first_half(k, first):
        return (sides for sides in divisions(k, first) if 0 in sides[0])

    divisions = permutations.divisions
    monkeypatch.setattr(permutations, "divisions", first_half)
    monkeypatch.setattr(permutations, "read_samples", cache(permutations.read_samples))
    stored = read_stored(result_paths(ROOT / "benchmarks" / "study" / "trainings"))
    seeds = defaultdict(set)
    for result in stored:
        training = training_of(result.row)
        seeds[training.get("group")].add(training.get("seed"))
    fives = [result for result in stored if len(seeds[training_of(result.row).get("group")]) == 5]
    rows = [row for row in permutations.permutations(fives) if row["k"] == "5 / 5"]
    assert {row["divisions"] for row in rows} == {str(comb(10, 5) // 2)}
    shares = [float(row["p <= 0.05 (%)"]) for row in rows]
    comparing = " ".join((ROOT / "docs" / "comparing.md").read_text("utf-8").split())
    expected = f"it is {min(shares):g} to {max(shares)}% for two groups (252 divisions)"
    assert f"CLIP, multi-view CLIP and COSMOS, five each, {expected}" in comparing


@pytest.mark.slow
def test_real_trainings_of_several_seeds(tmp_path):
    (dataset,) = write_scenes(tmp_path / "scenes", 37, "named")
    for seed in range(4):
        run = tmp_path / str(seed)
        changes = ("--set", "optim.steps=2", "--set", f"seed={seed}")
        arguments = ["train", *TINY, *changes, "--output", str(run)]
        assert CliRunner().invoke(app, arguments).exit_code == 0
        checkpoint = run / "checkpoint.safetensors"
        measured = ["run", "--model", f"cosmos:{checkpoint}", "--device", "cpu"]
        with pytest.raises(SystemExit) as ended:
            main([*measured, "--dataset", dataset, "--output", str(tmp_path / "eval")])
        assert not ended.value.code
    (row,) = permutations.permutations(read_stored(result_paths(tmp_path / "eval")))
    assert (row["data set"], row["k"], row["divisions"]) == ("named", "2 / 2", "6")
    assert 0 <= float(row["p <= 0.05 (%)"]) <= 100
