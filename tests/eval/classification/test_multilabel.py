"""Images with several classes each: mean average precision, users' lists and a set of the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hub import Hub
from support.results import SAMPLES
from support.webdatasets import npy, put, shard_of
from torch import from_numpy

from cosmos_eval.stats.intervals import intervals
from cosmos_eval.stats.precision import average_precisions, mean_average_precision
from cosmos_eval.tasks import find_protocol, multilabel, task_named
from cosmos_eval.types import MultilabelProtocol, RunOptions, UsageError

MODEL = f"python:{Path(__file__).parents[3] / 'examples/own_model.py'}"
VOC = "datasets/clip-benchmark/wds_voc2007_multilabel"


def test_solved_by_hand() -> None:
    # Pears are first and third: (1 + 2/3) / 2; apples first and third.
    figures = task_named("multilabel").figures(SAMPLES["multilabel"], 0)
    assert figures.metrics == {"mAP": pytest.approx(5 / 6)}
    assert figures.per_class["pear"] == {"average_precision": pytest.approx(5 / 6), "images": 2}
    # Three images with one score are retrieved together, with the precision of all four.
    scores, labels = (
        np.array([[2], [1], [1], [1]], np.float32),
        np.array([[0], [1], [0], [1]], bool),
    )
    assert mean_average_precision(scores, labels).value == 2 / 4


def test_a_class_without_images_does_not_count() -> None:
    samples = {**SAMPLES["multilabel"], "labels": np.array([[1, 0], [1, 0], [0, 0], [0, 0]], bool)}
    figures = task_named("multilabel").figures(samples, 0)
    assert figures.metrics["mAP"] == pytest.approx(5 / 6)
    assert figures.per_class["apple"] == {"average_precision": None, "images": 0}
    without_labels = {**samples, "labels": np.zeros((4, 2), bool)}
    assert task_named("multilabel").figures(without_labels, 0).metrics == {}


@pytest.mark.parametrize("digits", [1, 6])
def test_map_is_scikit_learns_and_clip_benchmarks_also_of_resamples(digits: int) -> None:
    """Scores of one digit tie often, which CLIP Benchmark's function does not consider."""
    from clip_benchmark.metrics.zeroshot_classification import average_precision_per_class
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    labels = rng.random((200, 5)) < [0.5, 0.3, 0.2, 0.1, 0.05]
    scores = (rng.normal(size=(200, 5)) + labels).round(digits).astype(np.float32)
    estimate = mean_average_precision(scores, labels)
    expected_map = average_precision_score(labels, scores, average="macro")
    assert estimate.value == pytest.approx(expected_map)
    precisions_of_weights = average_precisions(estimate.samples)
    if digits == 6:
        expected = average_precision_per_class(from_numpy(scores), from_numpy(labels))
        precisions = precisions_of_weights(np.ones((1, 200)))[:, 0]
        np.testing.assert_allclose(precisions, expected, rtol=1e-5)
    resamples = rng.integers(200, size=(200 if digits == 1 else 20, 200))
    weights = np.stack([np.bincount(rows, minlength=200) for rows in resamples]).astype(float)
    expected_of_resamples = [
        average_precision_score(labels[rows], scores[rows], average=None) for rows in resamples
    ]
    precisions = precisions_of_weights(weights).T
    np.testing.assert_allclose(precisions, expected_of_resamples, atol=1e-12)
    if digits == 6:
        return
    interval = intervals({"mAP": estimate}, methods={"mAP": "bootstrap"})["mAP"]
    ends = np.quantile(np.mean(expected_of_resamples, axis=1), [0.025, 0.975])
    assert interval[:2] == pytest.approx(ends, abs=0.02)
    assert interval.method == "bootstrap"


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        multilabel.class_scores(np.array([[np.nan]], np.float32), np.ones((2, 1), np.float32))


def voc(*samples: tuple[str, Any]) -> bytes:
    return shard_of(*((colour, {"npy": npy(labels, np.float32)}) for colour, labels in samples))


GOOD = [("red", [1, 0, 0]), ("lime", [0, 1, 1]), ("blue", [0, 0, 1]), ("red", [0, 0, 0])]


def test_voc2007_of_clip_benchmark_is_run_verified_and_listed(hub: Hub, command: Any) -> None:
    put(hub, VOC, "red\ngreen\nblue\n", voc(*GOOD[:2]), voc(*GOOD[2:]))
    hub.files[f"{VOC}/dataset_type.txt"] = b"multilabel\n"
    run = ("run", "--dataset", "wds/voc2007_multilabel", "--model", MODEL, "--json")
    (result,) = json.loads(command(*run, "--download").out)
    # Red: one of the two best images, which tie, has the label. Green: the best one. Blue: the
    # best one, and one of the three others, which tie.
    expected = {"red": 1 / 2, "green": 1, "blue": (1 + 2 / 4) / 2}
    for name, figures in result["per_class"].items():
        assert figures["average_precision"] == expected[name]
    assert result["per_class"].keys() == expected.keys()
    assert result["metrics"] == {"mAP": pytest.approx(np.mean([*expected.values()]))}
    assert (result["task"], result["n_samples"]) == ("multilabel", 4)
    (path,) = Path("runs/eval").glob("*.npz")
    with np.load(path) as samples:
        assert (samples["labels"].dtype, samples["scores"].dtype) == (bool, np.float32)
    assert "1 verified" in command("verify").out
    assert "mAP" in command("leaderboard", "--format", "md").out
    base = ("check", "runs/eval", "--baseline", "base.json")
    assert command(*base, "--update", "--reason", "first").status == 0
    assert command(*base).status == 0
    (limited_result,) = json.loads(command(*run, "--limit", 2, "--output", "few").out)
    assert limited_result["per_class"]["blue"]["images"] == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (npy([1, 0]), r"s0000000.npy must hold 3 numbers, not an array of \(2,\)"),
        (npy([1, 0, 2]), r"s0000000.npy must hold 0 and 1, not 0, 2"),
        (npy([1, 0, np.nan], float), r"s0000000.npy must hold finite numbers"),
        (None, r"s0000000 has no .npy"),
    ],
)
def test_labels_of_another_form_are_refused(labels, message, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "classnames.txt").write_text("red\ngreen\nblue\n")
    (tmp_path / "test/nshards.txt").write_text("1")
    files_beside = {"cls": "0"} if labels is None else {"npy": labels}
    (tmp_path / "test/0.tar").write_bytes(shard_of(("red", files_beside)))
    protocol = MultilabelProtocol(
        dataset="x",
        protocol_name="user",
        root=str(tmp_path),
        folder=".",
        layout="webdataset",
    )
    with pytest.raises(UsageError, match=message):
        multilabel.TASK.open_data(protocol, RunOptions())


IMAGES = {"1.png": "red", "sub/2.png": "blue", "3.png": "green"}
YAML = "kind: multilabel\nfolder: photos\ntemplates: ['{}']\n"


@pytest.fixture
def protocol_of(tmp_path: Path, save_colour: Any) -> Any:
    """Return a function that writes a list of labels and a protocol of it, and reads the latter."""
    for name, colour in IMAGES.items():
        save_colour(tmp_path / "photos" / name, colour)

    def make(labels: str, keys: str = "", file: str = "labels.csv") -> MultilabelProtocol:
        (tmp_path / file).write_text(labels)
        (tmp_path / "mine.yaml").write_text(f"{YAML}annotations: {file}\n{keys}")
        protocol = find_protocol(str(tmp_path / "mine.yaml"))
        assert isinstance(protocol, MultilabelProtocol)
        return protocol

    return make


def test_a_list_of_the_users_own(protocol_of: Any, colour_encoder: Any) -> None:
    table = "image,labels\n1.png,red\nsub/2.png,blue|red\n3.png,\n"
    result = multilabel.TASK.measure_one(colour_encoder, protocol_of(table), RunOptions())
    assert result.samples["classes"].tolist() == ["blue", "red"]
    assert result.samples["labels"].tolist() == [[False, True], [True, True], [False, False]]
    assert result.metrics["mAP"] == pytest.approx((1 + (1 + 2 / 3) / 2) / 2)
    lines = '{"image": "1.png", "labels": ["red"]}\n{"image": "3.png", "labels": []}\n'
    names = "class_names: {red: red, green: a green}\n"
    named = protocol_of(lines, names, "l.jsonl")
    data = multilabel.TASK.open_data(named, RunOptions())
    assert (data.classes, data.labels.tolist()) == (("red", "green"), [[True, False], [False] * 2])


@pytest.mark.parametrize(
    ("table", "more", "message"),
    [
        ("image,labels\n1.png,red\n1.png,blue\n", "", "line 3: image 1.png is listed twice"),
        ("image,labels\n9.png,red\n", "", "1 of 1 test images are not there, the first: .*9.png"),
        ("image,labels\n1.png,\n", "", "labels.csv lists no image with a class"),
        ("image,class\n1.png,red\n", "", "line 2: `labels` must be classes, such as a|b, not None"),
        ("image,labels\n1.png,rad\n", "class_names: {red: red}", "class_names lacks rad of .*red"),
    ],
)
def test_bad_lists_are_refused(table, more, message, protocol_of):
    with pytest.raises(UsageError, match=message.replace("|", r"\|")) as raised:
        multilabel.TASK.open_data(protocol_of(table, more), RunOptions())
    assert "\n" not in str(raised.value)


def test_a_set_needs_a_list_or_archives(tmp_path):
    protocol = MultilabelProtocol(dataset="x", protocol_name="user", root=str(tmp_path), folder=".")
    with pytest.raises(UsageError, match="x: give `annotations`, or `layout: webdataset`"):
        multilabel.TASK.open_data(protocol, RunOptions())
