"""benchmarks/audit.py: faults are planted as its tables say, and missing lists are named."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.excerpts import EXCERPTS, SUBSETS

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "audit.py"
SPEC = importlib.util.spec_from_file_location("audit_benchmark", SCRIPT)
benchmark = importlib.util.module_from_spec(SPEC)
sys.modules["audit_benchmark"] = benchmark
SPEC.loader.exec_module(benchmark)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.1])
def test_a_share_of_labels_is_planted_on_all_other_classes(rate):
    labels = np.arange(1000) % 4
    planted = benchmark.plant_evenly(labels, rate, np.random.default_rng(0))
    assert (planted != labels).sum() == rate * 1000
    moves = (planted - labels)[planted != labels] % 4
    assert rate < 0.1 or set(moves.tolist()) == {1, 2, 3}


def test_labels_are_planted_where_models_err():
    labels = np.zeros(50, int)
    answers = np.zeros((3, 50), int)
    answers[0, :20], answers[2, :10] = 1, 2
    group = benchmark.Answers(["a", "b", "c"], answers, labels)
    planted = benchmark.plant_by_confusion(group, 0.2, np.random.default_rng(0))
    changed = np.flatnonzero(planted)
    assert len(changed) == 10
    assert changed.max() < 20
    assert set(planted[10:20].tolist()) <= {0, 1}


def test_pairs_of_copies_are_pairs_of_equal_numbers():
    assert benchmark._pairs_of(np.array([3, 1, 3, 3])) == {(0, 2), (0, 3), (2, 3)}
    blue, red = Image.new("RGB", (40, 40), "blue"), Image.new("RGB", (40, 40), "red")
    blue.paste((255, 255, 0), (5, 5, 20, 30))
    red.paste((0, 255, 0), (20, 2, 38, 12))
    assert benchmark._copies_of([blue, red, blue.resize((20, 20))]) == {(0, 2)}


def test_lists_that_are_not_there_are_named_and_others_counted(tmp_path):
    skipped = list(benchmark.original_tables([tmp_path]))
    assert [line.split(":")[0] for line in skipped] == [
        "CIFAR-10",
        "SugarCrepe",
        "SugarCrepe++",
        "VALSE",
    ]
    assert all("skipped, no folder " in line for line in skipped)
    tables = list(benchmark.original_tables([EXCERPTS]))
    assert tables[1].startswith("### Captions of SugarCrepe\n")
    assert f"| all | {sum(SUBSETS.values())} | " in tables[1]
