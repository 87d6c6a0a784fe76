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
SETS = {  # the number of classes, and what the .npy of an image of group G holds
    "wds/wilds/fmow": (62, lambda group: [group, 14, 40, 0]),
    "wds/fairness/geode": (40, lambda group: [group, 7]),
    "wds/fairness/dollar_street": (58, lambda group: [group, 1230.5, 2]),
}


@pytest.fixture
def measured(hub: Hub, colour_encoder: Any) -> Any:
    """Measure a named set of these archives."""

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
    """To a red image the best class is red, then all that name no colour, then green and blue."""
    classes, numbers = SETS[name]
    samples = [  # image, class, group; group 2 has no image
        *[("red", 0, 0), ("red", 0, 0), ("red", 3, 0), ("lime", 0, 0)],
        *[("red", 0, 1), ("red", 4, 1)],
        *[("red", 0, 3), ("blue", 2, 3), ("blue", 2, 3)],
    ]
    files = [
        (colour, {"cls": str(label), "npy": npy(numbers(group), float)})
        for colour, label, group in samples
    ]
    found = measured(name, classes, shard_of(*files[:4]), shard_of(*files[4:]))
    key = "income_ds" if "dollar" in name else "region"
    expected = {f"acc1_{key} 0": 1 / 2, f"acc1_{key} 1": 1 / 2, f"acc1_{key} 3": 1}
    assert {n: value for n, value in found.metrics.items() if n.startswith("acc1_")} == expected
    assert found.metrics["worst_group_acc1"] == 1 / 2
    # Of group 0 one class is not among the best five; in group 1 all are.
    assert found.metrics.get("worst_group_acc5") == (3 / 4 if "dollar" in name else None)
    main = find_known(name, "datacomp").main_metric
    assert main in found.metrics
    assert main in found.intervals


@pytest.mark.parametrize(
    ("name", "classes", "beside"),
    [
        ("wds/wilds/fmow", 62, {"cls": "0", "npy": npy([1, 14, 40, 0])}),
        ("wds/voc2007_multilabel", 3, {"npy": npy([1, 0, 1], np.float32)}),
    ],
)
def test_what_lies_beside_images_is_also_streamed(name, classes, beside, hub, command):
    files = [shard_of(("red", beside), (f"#00{i}0ff", beside)) for i in range(4)]
    put(hub, f"datasets/{find_known(name).repository}", padded(NAMES, classes), *files)
    run = ("run", "--dataset", name, "--model", MODEL, "--partial", "--json")
    ended = command(*run, "--stream", "--no-cache")
    assert ended.status == 0, ended.err
    (streamed,) = json.loads(ended.out)
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
def test_metadata_that_are_missing_or_of_another_form(files, message, measured):
    good = ("red", {"cls": "0", "npy": GOOD})
    with pytest.raises(UsageError, match=message) as raised:
        measured("wds/wilds/fmow", 62, shard_of(good, ("red", files)))
    assert "\n" not in str(raised.value)


def test_macro_f1_of_iwildcam_solved_by_hand(measured: Any) -> None:
    samples = [("red", 0), ("red", 0), ("lime", 0), ("red", 1), ("lime", 1), ("blue", 1)]
    found = measured("wds/wilds/iwildcam", 182, shard(*((c, str(label)) for c, label in samples)))
    # Class 0: two right, one of another class, one not found; class 1: one right, one, two. Blue is
    # predicted and is no image's class.
    assert found.metrics["f1_macro"] == pytest.approx((4 / 6 + 2 / 5) / 2)
    assert found.intervals["f1_macro"].method == "jackknife or likelihood"


def test_macro_f1_is_scikit_learns_also_of_resamples() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 300) ** 2
    labels[0] = 29  # a class that some resamples do not draw, and that is predicted
    predicted = np.where(rng.random(300) < 0.5, labels, rng.integers(0, 30, 300))

    def expected(rows: Any) -> float:
        known = np.unique(labels[rows])
        return f1_score(labels[rows], predicted[rows], average="macro", labels=known)

    found = macro_f1(labels, predicted)
    assert found.value == pytest.approx(expected(np.arange(300)))
    drawn = rng.integers(300, size=(200, 300))
    weights = np.stack([np.bincount(rows, minlength=300) for rows in drawn]).astype(float)
    values = [expected(rows) for rows in drawn]
    np.testing.assert_allclose(found.prepare(found.samples)(weights), values)
    assert intervals({"f1": found}, methods={"f1": "bootstrap"})["f1"][:2] == pytest.approx(
        np.quantile(values, [0.025, 0.975]), abs=0.02
    )


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
