"""Best classes and their metrics: solved by hand, and by a stable sort."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from support.results import metrics_of

from cosmos_eval.stats import choices
from cosmos_eval.stats.calibration import calibration_error
from cosmos_eval.stats.choices import (
    confusion_pairs,
    top_classes,
    top_confidences,
)
from cosmos_eval.stats.estimates import GroupMean, means_of_groups
from cosmos_eval.stats.intervals import intervals


def test_solved_by_hand() -> None:
    labels = np.array([0, 0, 0, 2])
    top = np.array([[0, 1], [1, 0], [0, 2], [1, 2]])
    # Class 0: two of three; class 2: none; class 1 has no image and does not count.
    samples = {"labels": labels, "top5": top, "classes": np.array(["a", "b", "c"])}
    assert metrics_of("cls", samples) == {
        "acc1": 0.5,
        "acc5": 1.0,
        "mean_per_class_recall": pytest.approx((2 / 3 + 0) / 2),
    }
    columns = {"recall": top[:, 0] == labels}
    assert means_of_groups(["a", "b", "c"], labels, columns, "images") == {
        "a": {"recall": pytest.approx(2 / 3), "images": 3},
        "b": {"recall": None, "images": 0},
        "c": {"recall": 0.0, "images": 1},
    }


@pytest.mark.parametrize("block_bytes", [1, 64 << 20])
@pytest.mark.parametrize("classes", [2, 5, 40])
def test_top_classes_equal_a_stable_sort(
    classes: int, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "_BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(0)
    images = rng.integers(-2, 3, (30, 3)).astype(np.float32)
    embeddings = rng.integers(-2, 3, (classes, 3)).astype(np.float32)
    expected = np.argsort(-(images @ embeddings.T), axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(top_classes(images, embeddings), expected)


def test_equal_classes_tie_however_their_scores_are_rounded() -> None:
    rng = np.random.default_rng(3)
    images = rng.normal(size=(1000, 512)).astype(np.float32)
    classes = np.repeat(rng.normal(size=(2, 512)).astype(np.float32), 300, axis=0)
    classes = classes[rng.permutation(600)]
    a, b = (np.flatnonzero((classes == one).all(axis=1))[:5] for one in np.unique(classes, axis=0))
    top = top_classes(images, classes)
    assert {tuple(row) for row in top.tolist()} == {tuple(a.tolist()), tuple(b.tolist())}


def test_confidences_are_those_of_a_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "_BLOCK_BYTES", 4 * 6 * 7)  # blocks of seven images
    rng = np.random.default_rng(0)
    images, classes = (rng.normal(size=(n, 8)).astype(np.float32) for n in (20, 6))
    expected = softmax(3 * (images @ classes.T).astype(np.float64), axis=1).max(axis=1)
    np.testing.assert_allclose(top_confidences(images, classes, 3), expected, rtol=1e-5)


def test_calibration_error_solved_by_hand() -> None:
    # Bins (0.4, 0.6], (0.6, 0.8] and (0.8, 1]: gaps |1/2 - 0.5|, |0 - 0.625| and |1 - 0.9375|.
    confidences = np.array([0.5, 0.5, 0.625, 0.875, 1], np.float32)
    hits = np.array([True, False, False, True, True])
    error = calibration_error(confidences, hits, bins=5)
    assert error.value == pytest.approx((2 * 0 + 1 * 0.625 + 2 * 0.0625) / 5)
    # The end of a bin belongs to it: 0.5 is alone below 0.5, so that its gap is not made up for.
    ends = np.array([0.5, 0.75], np.float32), np.array([True, False])
    assert calibration_error(*ends, bins=2).value == pytest.approx((0.5 + 0.75) / 2)


@pytest.mark.parametrize("value", [0, 1.5, np.nan])
def test_a_confidence_that_is_none(value: float) -> None:
    with pytest.raises(ValueError, match="confidences must lie in"):
        calibration_error(np.array([0.5, value], np.float32), np.ones(2, bool))


def test_the_stored_interval_of_a_calibration_error_is_that_of_resampled_ones() -> None:
    rng = np.random.default_rng(0)
    confidences, hits = rng.uniform(0.1, 1, 300).astype(np.float32), rng.random(300) < 0.5
    estimate = {"ece": calibration_error(confidences, hits)}
    interval = intervals(estimate, methods={"ece": "bootstrap"})["ece"]
    drawn = rng.integers(300, size=(2000, 300))
    values = [calibration_error(confidences[rows], hits[rows]).value for rows in drawn]
    assert interval[:2] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.01)
    assert interval.method == "bootstrap"


def test_the_worst_group_is_that_of_pandas() -> None:
    import pandas as pd

    rng = np.random.default_rng(0)
    group, hits = rng.integers(0, 4, 200), rng.random(200) < 0.6
    worst = GroupMean(hits, groups=group, lowest=True)
    frame = pd.DataFrame({"group": group, "hit": hits})
    assert worst.value == frame.groupby("group")["hit"].mean().min()
    interval = intervals({"worst": worst}, methods={"worst": "bootstrap"})["worst"]
    draws = (frame.sample(200, replace=True, random_state=seed) for seed in range(500))
    lowest = [draw.groupby("group")["hit"].mean().min() for draw in draws]
    assert interval[:2] == pytest.approx(np.quantile(lowest, [0.025, 0.975]), abs=0.02)
    assert interval.method == "bootstrap"


def test_a_group_that_a_resample_does_not_draw_is_not_its_worst() -> None:
    worst = GroupMean(np.ones(3, bool), groups=np.array([0, 1, 2]), lowest=True)
    resampled = intervals({"worst": worst}, methods={"worst": "bootstrap"})["worst"]
    assert (resampled[:2], resampled.method) == ((1, 1), "bootstrap")
    # Otherwise the interval is exact: the one sample of a group is found 2.5% of the time or more.
    assert intervals({"worst": worst})["worst"][:2] == pytest.approx((0.025, 1))


def test_features_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="NaN"):
        top_classes(np.array([[np.inf]], np.float32), np.ones((1, 1), np.float32))


def test_confusion_pairs_solved_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    predicted = np.array([1, 1, 0, 0, 2, 1, 1, 2, 0])
    pairs = confusion_pairs(labels, predicted)
    # Twice 0 as 1 and 2 as 1, once the others; equals in the order of their classes.
    assert pairs == [(0, 1, 2), (2, 1, 2), (1, 0, 1), (1, 2, 1), (2, 0, 1)]
    assert confusion_pairs(labels, predicted, k=1) == pairs[:1]
    assert confusion_pairs(labels, labels) == []


def test_confusion_pairs_are_those_of_a_confusion_matrix() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 6, (2, 500))
    matrix = np.zeros((6, 6), int)
    np.add.at(matrix, (labels, predicted), 1)
    np.fill_diagonal(matrix, 0)
    pairs = confusion_pairs(labels, predicted, k=36)
    assert sum(pair.images for pair in pairs) == matrix.sum()
    assert all(matrix[pair.true, pair.predicted] == pair.images for pair in pairs)
    counts = [pair.images for pair in pairs]
    assert counts == sorted(counts, reverse=True)


def test_the_ten_most_frequent_pairs_are_the_default() -> None:
    labels, predicted = np.arange(12), np.roll(np.arange(12), 1)
    assert len(confusion_pairs(labels, predicted)) == 10
