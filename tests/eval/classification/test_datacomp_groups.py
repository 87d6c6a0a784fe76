"""DataComp's sets whose main metric is of groups or is F1: archives as DataComp's samples are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hub import Hub
from support.results import metrics_of
from support.webdatasets import npy, padded, put, shard, shard_of

from cosmos_eval.protocols import find_known
from cosmos_eval.stats.choices import macro_f1
from cosmos_eval.stats.intervals import intervals
from cosmos_eval.tasks import classification
from cosmos_eval.types import ClassificationProtocol, Measurement, RunOptions, UsageError

MODEL = f"python:{Path(__file__).parents[3] / 'examples/own_model.py'}"
NAMES = ["red", "green", "blue"]
# The number of classes of a set, and the numbers in the .npy of an image after its group.
SETS = {
    "wds/wilds/fmow": (62, [14, 40, 0]),
    "wds/fairness/geode": (40, [7]),
    "wds/fairness/dollar_street": (58, [1230.5, 2]),
}


@pytest.fixture
def measured(hub: Hub, colour_encoder: Any) -> Any:
    """Return a function that uploads archives as a named set and measures it."""

    def measure(name: str, classes: int, *shards: bytes) -> Measurement:
        protocol = find_known(name, "datacomp")
        assert isinstance(protocol, ClassificationProtocol)
        put(hub, f"datasets/{protocol.repository}", padded(NAMES, classes), *shards)
        classification.TASK.fetch(protocol, RunOptions())
        return classification.TASK.measure_one(
            colour_encoder, protocol, RunOptions(allow_partial=True)
        )

    return measure


@pytest.mark.parametrize("name", SETS)
def test_the_worst_group_solved_by_hand(name: str, measured: Any) -> None:
    """For a red image, class red is best, then all that name no colour, then green and blue."""
    classes, further_numbers = SETS[name]
    samples = [  # image, class, group; group 2 has no image
        *[("red", 0, 0), ("red", 0, 0), ("red", 3, 0), ("lime", 0, 0)],
        *[("red", 0, 1), ("red", 4, 1)],
        *[("red", 0, 3), ("blue", 2, 3), ("blue", 2, 3)],
    ]
    files = []
    for colour, label, group in samples:
        numbers = npy([group, *further_numbers], float)
        files.append((colour, {"cls": str(label), "npy": numbers}))
    result = measured(name, classes, shard_of(*files[:4]), shard_of(*files[4:]))
    key = "income_ds" if "dollar" in name else "region"
    expected = {f"acc1_{key} 0": 1 / 2, f"acc1_{key} 1": 1 / 2, f"acc1_{key} 3": 1}
    group_metrics = {n: value for n, value in result.metrics.items() if n.startswith("acc1_")}
    assert group_metrics == expected
    assert result.metrics["worst_group_acc1"] == 1 / 2
    # In group 0 the class of one of four images is not among the best five; in group 1 all are.
    assert result.metrics.get("worst_group_acc5") == (3 / 4 if "dollar" in name else None)
    main_metric = find_known(name, "datacomp").main_metric
    assert main_metric in result.metrics
    assert main_metric in result.intervals


@pytest.mark.parametrize(
    ("name", "classes", "files_beside"),
    [
        ("wds/wilds/fmow", 62, {"cls": "0", "npy": npy([1, 14, 40, 0])}),
        ("wds/voc2007_multilabel", 3, {"npy": npy([1, 0, 1], np.float32)}),
    ],
)
def test_files_beside_images_are_also_streamed(name, classes, files_beside, hub, command):
    shards = [shard_of(("red", files_beside), (f"#00{i}0ff", files_beside)) for i in range(4)]
    put(hub, f"datasets/{find_known(name).repository}", padded(NAMES, classes), *shards)
    run = ("run", "--dataset", name, "--model", MODEL, "--partial", "--json")
    completed = command(*run, "--stream", "--no-cache")
    assert completed.status == 0, completed.err
    (streamed,) = json.loads(completed.out)
    (fetched,) = json.loads(command(*run, "--download", "--output", "fetched").out)
    assert streamed["metrics"] == fetched["metrics"]
    assert streamed["provenance"]["hashes"] == fetched["provenance"]["hashes"]


GOOD = npy([1, 14, 40, 0])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cls": "0"}, "s0000001 has no .npy, only webp, cls"),
        ({"cls": "0", "npy": npy([1, 14])}, r"s0000001.npy must hold 3 or more numbers, not .*2"),
        ({"cls": "0", "npy": npy([[1, 14, 40]])}, r"3 or more numbers, not an array of \(1, 3\)"),
        ({"cls": "0", "npy": npy([np.nan, 1, 2], float)}, "s0000001.npy must hold finite numbers"),
        ({"cls": "0", "npy": npy([0.5, 1, 2], float)}, "`region` must be 0, 1, 2..., not 0.5"),
        ({"cls": "0", "npy": npy([-1, 1, 2])}, "`region` must be 0, 1, 2..., not -1"),
        ({"cls": "0", "npy": npy(["a", "b", "c"], str)}, "must hold finite numbers"),
        ({"cls": "0", "npy": GOOD[:-4]}, "s0000001.npy is not a NumPy array"),
        ({"cls": "0", "npy": b"3"}, "s0000001.npy is not a NumPy array"),
    ],
)
def test_metadata_that_are_missing_or_of_another_form_are_refused(files, message, measured):
    good = ("red", {"cls": "0", "npy": GOOD})
    with pytest.raises(UsageError, match=message) as raised:
        measured("wds/wilds/fmow", 62, shard_of(good, ("red", files)))
    assert "\n" not in str(raised.value)


def test_macro_f1_of_iwildcam_solved_by_hand(measured: Any) -> None:
    samples = [("red", 0), ("red", 0), ("lime", 0), ("red", 1), ("lime", 1), ("blue", 1)]
    archive = shard(*((colour, str(label)) for colour, label in samples))
    result = measured("wds/wilds/iwildcam", 182, archive)
    # F1 = 2 TP / (2 TP + FP + FN). Class 0: TP 2, FP 1, FN 1; class 1: TP 1, FP 1, FN 2. Blue is
    # predicted, but no image has this class.
    assert result.metrics["f1_macro"] == pytest.approx((4 / 6 + 2 / 5) / 2)
    assert result.intervals["f1_macro"].method == "jackknife or likelihood"


def test_macro_f1_is_scikit_learns_also_of_resamples() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 300) ** 2
    labels[0] = 29  # a class that some resamples do not draw, and that is predicted
    predicted = np.where(rng.random(300) < 0.5, labels, rng.integers(0, 30, 300))

    def expected(rows: Any) -> float:
        classes = np.unique(labels[rows])
        return f1_score(labels[rows], predicted[rows], average="macro", labels=classes)

    estimate = macro_f1(labels, predicted)
    assert estimate.value == pytest.approx(expected(np.arange(300)))
    resamples = rng.integers(300, size=(200, 300))
    weights = np.stack([np.bincount(rows, minlength=300) for rows in resamples]).astype(float)
    values = [expected(rows) for rows in resamples]
    np.testing.assert_allclose(estimate.prepare(estimate.samples)(weights), values)
    interval = intervals({"f1": estimate}, methods={"f1": "bootstrap"})["f1"]
    assert interval[:2] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02)


def test_results_that_do_not_name_a_metric_have_none() -> None:
    samples = {"labels": np.array([0, 1]), "top5": np.array([[0, 1], [0, 1]])}
    samples |= {"classes": np.array(["a", "b"]), "group": np.array([0, 1])}
    samples["groups"] = np.array(["x", "y"])
    plain = metrics_of("cls", samples)
    more = metrics_of("cls", {**samples, "metrics": np.array(["worst_group_acc5", "f1_macro"])})
    assert more.keys() - plain.keys() == {"worst_group_acc5", "f1_macro"}
    assert (more["worst_group_acc5"], more["worst_group_acc1"]) == (1, 0)


def test_groups_that_a_protocol_does_not_have() -> None:
    def opened(**fields: Any) -> None:
        protocol = ClassificationProtocol(
            dataset="x", protocol_name="user", root=".", folder=".", **fields
        )
        classification.TASK.open_data(protocol, RunOptions())

    with pytest.raises(UsageError, match="x: `metadata` has no `place` for `group_keys`: region"):
        opened(layout="webdataset", metadata=("region",), group_keys="place")
    with pytest.raises(UsageError, match="`metadata` name numbers in webdataset archives"):
        opened(metadata=("region",), group_keys="region")
    with pytest.raises(UsageError, match="worst_group_acc5 needs groups"):
        opened(metrics=("worst_group_acc5",))
