"""A metric more is one record and one pure function, all the way to tables, tests and the gate."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.results import SAMPLES, store_result

from cosmos_eval import tasks
from cosmos_eval.results.store import read_result
from cosmos_eval.stats.estimates import GroupMean, Mean, Proportion
from cosmos_eval.tasks import Metric, metric_of, task_named
from cosmos_eval.types import Samples


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Metric], None]:
    """Add a metric to a task."""

    def to(task: str, metric: Metric) -> None:
        known_task = task_named(task)
        more = copy.copy(known_task)
        more.__dict__.pop("by_name", None)
        more.metrics = (*known_task.metrics, metric)
        load = tasks._load_task
        monkeypatch.setattr(tasks, "_load_task", lambda name: more if name == task else load(name))

    return to


def store(folder: Path, task: str, samples: Samples | None = None, **more: Any) -> Path:
    provenance = {"hashes": {"sample_list": "1" * 64}}
    return store_result(folder, task, samples, provenance=provenance, **more)


def recall_at_20(samples: Samples) -> Mean:
    return Mean(samples["text_to_image_rank"] <= 20, samples["image_of_text"])


def precision(samples: Samples) -> GroupMean:
    """The proportion of right predictions, averaged over the classes that are predicted."""
    predicted = samples["top5"][:, 0]
    return GroupMean(predicted == samples["labels"], groups=predicted)


def error_rate(samples: Samples) -> Proportion:
    return Proportion(samples["top5"][:, 0] != samples["labels"])


def test_recall_at_20(add, command, tmp_path):
    name = "text_to_image_R@20"
    add("retrieval", Metric(name, recall_at_20, label="text to image R@20", headline=True))
    samples = {
        "image_to_text_rank": np.ones(30, int),
        "text_to_image_rank": np.repeat([1, 20, 21, 30, 7], 12),
        "image_of_text": np.repeat(np.arange(30), 2),
    }
    row = read_result(store(tmp_path, "retrieval", samples))
    assert row.metrics[name] == 3 / 5
    assert row.intervals[name]["method"] == "wilson, effective n"
    assert "text to image R@20" in command("leaderboard", str(tmp_path), "--format", "md").out
    assert "1 verified" in command("verify", str(tmp_path)).out


def test_precision_per_class(add, command, tmp_path):
    add("cls", Metric("mean_per_class_precision", precision))
    row = read_result(store(tmp_path / "a", "cls"))
    # Class 0 is predicted once and right, class 1 three times and right once, class 2 once, right.
    precision_of_row = row.metrics["mean_per_class_precision"]
    labels, predicted = SAMPLES["cls"]["labels"], SAMPLES["cls"]["top5"][:, 0]
    each = [(labels[predicted == c] == c).mean() for c in np.unique(predicted)]
    assert precision_of_row == pytest.approx(np.mean(each))
    top = SAMPLES["cls"]["top5"][:, [1, 0, 2]]
    store(tmp_path / "b", "cls", {**SAMPLES["cls"], "top5": top})
    reported = json.loads(
        command("compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json").out
    )
    (test,) = [t for t in reported["tests"] if t["metric"] == "mean_per_class_precision"]
    assert test["a"] == pytest.approx(precision_of_row)
    assert test["test"] == "paired cluster bootstrap"


def many(right: int) -> Samples:
    """Samples of a classification of 400 images, of which so many are right."""
    labels = np.zeros(400, int)
    predicted = (np.arange(400) >= right).astype(int)
    return {
        "labels": labels,
        "top5": np.stack([predicted, 1 - predicted], 1),
        "classes": np.array(["a", "b"]),
    }


def test_a_metric_of_which_less_is_better(add, command, tmp_path):
    metric = Metric("error", error_rate, higher_is_better=False, label="error", primary=True)
    add("cls", metric)
    good = store(tmp_path / "good", "cls", many(390), model={"spec": "scenes-cosmos"})
    store(tmp_path / "bad", "cls", many(300), model={"spec": "scenes-clip"})
    (tmp_path / "all").mkdir()
    for folder in ("good", "bad"):
        for path in (tmp_path / folder).iterdir():
            (tmp_path / "all" / path.name).write_bytes(path.read_bytes())
    assert read_result(good).metrics["error"] == pytest.approx(10 / 400)
    listed = json.loads(command("leaderboard", str(tmp_path / "all"), "--format", "json").out)
    standings = {entry["model"]: entry["standings"]["error"] for entry in listed}
    assert (standings["scenes-cosmos"]["best"], standings["scenes-clip"]["best"]) == (True, False)
    assert standings["scenes-cosmos"]["ranks"] == [1, 1]
    assert standings["scenes-clip"]["ranks"] == [2, 2]
    reported = json.loads(
        command("compare", str(tmp_path / "good"), str(tmp_path / "bad"), "--json").out
    )
    (test,) = [t for t in reported["tests"] if t["metric"] == "error"]
    assert test["difference"] < 0
    assert test["better"] == "A"


@pytest.mark.parametrize(
    ("now", "decision"), [(300, "regression"), (390, "no change shown"), (399, "better")]
)
def test_the_gate_knows_which_direction_is_a_loss(add, command, tmp_path, now, decision):
    add("cls", Metric("error", error_rate, higher_is_better=False, primary=True))
    before = store(tmp_path / "before", "cls", many(390))
    base = ["--baseline", str(tmp_path / "base.json")]
    assert command("check", str(before), *base, "--update", "--reason", "first").status == 0
    after = store(tmp_path / "after", "cls", many(now))
    ended = command("check", str(after), *base, "--json")
    (finding,) = [f for f in json.loads(ended.out)["findings"] if f["metric"] == "error"]
    assert finding["decision"] == decision
    assert ended.status == (decision == "regression")


def test_families_and_unknown_names():
    assert metric_of("seg", "mIoU_animals").estimate is task_named("seg").metric("mIoU_*").estimate
    assert metric_of("seg", "mIoU_animals").name == "mIoU_animals"
    assert metric_of("loc", "mass_over_area_small").unit == "ratio"
    assert not metric_of("retrieval", "text_to_image_mean_rank").higher_is_better
    assert metric_of("retrieval", "text_to_image_mean_rank").factor == 1
    unknown = metric_of("no such task", "text_to_image_mean_rank")
    assert (unknown.unit, unknown.factor) == ("unknown", 1)


@pytest.mark.parametrize(
    ("unit", "good", "bad"),
    [
        ("fraction", (0, 0.5, 1), (-1e-9, 1.0000001, float("nan"))),
        ("rank", (1, 7.5), (0.999, float("nan"))),
        ("ratio", (0, 41.5), (-0.1, float("nan"))),
    ],
)
def test_bounds_of_units(unit, good, bad):
    metric = Metric("m", unit=unit)
    assert [metric.fault(value) for value in good] == [""] * len(good)
    assert all(f"not a {unit}" in metric.fault(value) for value in bad)
