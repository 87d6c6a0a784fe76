"""Metrics of a confusion worked out by hand, against MMSegmentation, and by plain resampling."""

from functools import partial

import numpy as np
import pytest
import torch

from cosmos_eval.stats import segmentation as stats
from cosmos_eval.stats.estimates import FunctionOfSums
from cosmos_eval.stats.intervals import intervals as intervals_of
from cosmos_eval.types import Interval


def test_confusion_by_hand():
    labels = np.array([[0, 0, 1], [2, 255, 1]], np.uint8)
    counts = stats.confusion(labels, np.array([[0, 1, 1], [0, 2, 1]], np.uint8), 3, 255)
    assert counts.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert counts.dtype == np.int64


def test_confusion_of_many_classes_does_not_overflow():
    labels = np.full((2, 2), 250, np.uint8)
    assert stats.confusion(labels, labels, 251, 255)[250, 250] == 4


def sum_of_areas(areas: stats.Areas) -> stats.Areas:
    """Return areas that are summed over images."""
    return stats.Areas(*(area.sum(0) for area in areas))


def test_scores_by_hand():
    # Class 0: label 4, predicted 3, both 2. Class 1: label 2, predicted 3, both 1.
    # Class 2: neither. Class 3: predicted 1, never labelled; its label pixels are 0.
    counts = np.array([[2, 2, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]])
    areas = stats.areas_of_images(stats.pack([counts]), 1, 4)
    total = sum_of_areas(areas)
    scores = stats.class_scores(total)
    np.testing.assert_allclose(scores.iou, [2 / 4, 1 / 4, np.nan, 0])
    np.testing.assert_allclose(scores.accuracy, [2 / 4, 1 / 2, np.nan, np.nan])
    assert stats.mean_iou(total) == pytest.approx((1 / 2 + 1 / 4 + 0) / 3)
    assert stats.mean_accuracy(total) == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert stats.pixel_accuracy(total) == pytest.approx(3 / 6)
    assert stats.mean_iou(total, np.array([0, 2])) == pytest.approx(1 / 2)
    assert np.isnan(stats.mean_iou(total, np.array([2])))


def random_images(n_images: int, n_classes: int, size: int = 900):
    """Yield the label map and the prediction of each image, of `size` pixels."""
    rng = np.random.default_rng(0)
    for _ in range(n_images):
        # Few classes an image, so that some are absent from resamples.
        present = rng.choice(n_classes, 3, replace=False)
        label = rng.choice([*present, 255], size).astype(np.uint8)
        yield label, rng.choice(present, size).astype(np.uint8)


def test_metrics_equal_mmsegmentations():
    from cosmos_eval.data.label_maps import mmseg_module

    mmseg_module("datasets")
    from mmseg.evaluation.metrics.iou_metric import IoUMetric

    images = list(random_images(6, 12))
    mmseg_areas = [
        IoUMetric.intersect_and_union(
            torch.from_numpy(prediction), torch.from_numpy(label), 12, 255
        )
        for label, prediction in images
    ]
    mmseg_totals = [sum(areas) for areas in zip(*mmseg_areas, strict=True)]
    expected = IoUMetric.total_area_to_metrics(*mmseg_totals)
    confusions = [stats.confusion(label, prediction, 12, 255) for label, prediction in images]
    total = sum_of_areas(stats.areas_of_images(stats.pack(confusions), 6, 12))
    scores = stats.class_scores(total)
    np.testing.assert_allclose(scores.iou, expected["IoU"], rtol=1e-6)
    np.testing.assert_allclose(scores.accuracy, expected["Acc"], rtol=1e-6)
    assert stats.mean_iou(total) == pytest.approx(np.nanmean(expected["IoU"]), rel=1e-6)
    assert stats.mean_accuracy(total) == pytest.approx(np.nanmean(expected["Acc"]), rel=1e-6)
    assert stats.pixel_accuracy(total) == pytest.approx(float(expected["aAcc"]), rel=1e-6)


def test_packing_keeps_every_count():
    confusions = [
        stats.confusion(label, prediction, 5, 255) for label, prediction in random_images(4, 5)
    ]
    sparse = stats.pack([*confusions, np.zeros((5, 5), np.int64)])
    rebuilt = np.zeros((5, 25), np.int64)
    rebuilt[sparse.image, sparse.pair] = sparse.pixels
    assert rebuilt[:4].reshape(4, 5, 5).tolist() == np.stack(confusions).tolist()
    assert not rebuilt[4].any()
    assert (sparse.pixels > 0).all()


def bootstrap(areas: stats.Areas, groups, **options) -> dict[str, Interval]:
    functions = {"mIoU": stats.mean_iou, "mAcc": stats.mean_accuracy, "aAcc": stats.pixel_accuracy}
    for name, members in groups.items():
        functions[f"mIoU_{name}"] = partial(stats.mean_iou, members=members)
    estimates = {name: FunctionOfSums(areas, function) for name, function in functions.items()}
    return intervals_of(estimates, **options)


def iou_of_classes(confusion: np.ndarray) -> np.ndarray:
    intersection = confusion.diagonal()
    return intersection / (confusion.sum(0) + confusion.sum(1) - intersection)


def test_bootstrap_quantiles_equal_those_of_plain_resampling():
    """The quantiles agree with drawing images one by one, up to the noise of another generator."""
    confusions = np.stack(
        [stats.confusion(label, prediction, 6, 255) for label, prediction in random_images(25, 6)]
    )
    areas = stats.areas_of_images(stats.pack(confusions), 25, 6)
    intervals = bootstrap(areas, {"pair": np.array([0, 1])}, seed=0)
    rng = np.random.default_rng(1)
    resamples = [confusions[rng.integers(25, size=25)].sum(0) for _ in range(4000)]
    with np.errstate(invalid="ignore"):
        ious = np.array([iou_of_classes(confusion) for confusion in resamples])
    metrics_of_resamples = {
        "mIoU": np.nanmean(ious, axis=1),
        "mIoU_pair": np.nanmean(ious[:, :2], axis=1),
        "aAcc": np.array([confusion.trace() / confusion.sum() for confusion in resamples]),
    }
    for name, values in metrics_of_resamples.items():
        low, high = np.quantile(values, [0.025, 0.975])
        tolerance = 0.1 * (high - low)
        assert intervals[name].low == pytest.approx(low, abs=tolerance)
        assert intervals[name].high == pytest.approx(high, abs=tolerance)


def test_bootstrap_is_seeded_and_one_image_tells_nothing():
    counts = np.array([[3, 1], [0, 4]])
    intervals = bootstrap(
        stats.areas_of_images(stats.pack([counts]), 1, 2), {}, seed=0, resamples=1000
    )
    # A share of up to 1 - 0.025 of the population may be missed by one image; it may have 0 or 1.
    value = (3 / 4 + 4 / 5) / 2
    assert intervals["mIoU"].low == pytest.approx(0.025 * value)
    assert intervals["mIoU"].high == pytest.approx(0.025 * value + 0.975)
    confusions = [counts, np.eye(2, dtype=np.int64), 3 * counts.T]
    areas = stats.areas_of_images(stats.pack(confusions), 3, 2)
    by_seed = {seed: bootstrap(areas, {}, seed=seed, resamples=20) for seed in (1, 2)}
    assert by_seed[1] == bootstrap(areas, {}, seed=1, resamples=20)
    assert by_seed[1] != by_seed[2]


def test_a_group_that_never_occurs_has_no_interval():
    areas = stats.areas_of_images(stats.pack([np.diag([3, 4, 0])]), 1, 3)
    assert "mIoU_rare" not in bootstrap(areas, {"rare": np.array([2])})
