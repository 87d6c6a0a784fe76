"""Differences of methods: against SciPy's tests, plain loops, analysis of variance, simulation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import ttest_ind, ttest_rel
from support.groups import Design, rejected, rejected_splits, trainings

from cosmos_eval.stats.estimates import (
    CrossedMean,
    FunctionOfSums,
    FunctionOfWeights,
    GroupMean,
    Mean,
    Median,
    Proportion,
    without,
)
from cosmos_eval.stats.groups import (
    GroupDifference,
    Trainings,
    group_difference,
    image_covariance,
)
from cosmos_eval.stats.segmentation import Areas, mean_iou

A, B = np.array([0.61, 0.64, 0.58, 0.66]), np.array([0.52, 0.50, 0.57])
NONE = np.zeros((7, 7))


def test_without_variation_of_images_it_is_welchs_test() -> None:
    found, expected = group_difference(A, B, NONE, 500), ttest_ind(A, B, equal_var=False)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.dof == pytest.approx(expected.df)
    assert found.interval()[:2] == pytest.approx((*expected.confidence_interval(),))
    assert [one.seed_variance for one in found.groups] == pytest.approx([A.var(ddof=1), 0.0013])


def test_trainings_of_shared_seeds_are_compared_by_pairs() -> None:
    found, expected = (
        group_difference(A[:3], B, NONE[:6, :6], 500, by_seed=True),
        ttest_rel(A[:3], B),
    )
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval()[:2] == pytest.approx((*expected.confidence_interval(),))
    with pytest.raises(ValueError, match="4 and 3 trainings are no pairs"):
        group_difference(A, B, NONE, 500, by_seed=True)


def test_one_training_each_is_compared_by_images_alone() -> None:
    values = np.random.default_rng(0).random((2, 40))
    covariance, n = image_covariance([Mean(one, np.arange(40)) for one in values])
    found, expected = (
        group_difference(*values.mean(1, keepdims=True), covariance, n),
        ttest_rel(*values),
    )
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.of_methods, found.groups[0].seed_variance) == (False, None)
    assert found.method == "images alone"


def test_components_are_those_of_the_analysis_of_variance() -> None:
    rng = np.random.default_rng(1)
    values = rng.random((5, 60)) + rng.random(60)
    a, b = values[:3], values[3:]
    covariance, n = image_covariance([Mean(one, np.arange(60)) for one in values])
    found = group_difference(a.mean(1), b.mean(1), covariance, n)
    assert found.image_error == pytest.approx((a.mean(0) - b.mean(0)).std(ddof=1) / np.sqrt(60))
    for of, group in zip((a, b), found.groups, strict=True):
        rest = of - of.mean(0) - of.mean(1, keepdims=True) + of.mean()
        mean_square = (rest**2).sum() / ((len(of) - 1) * 59)
        assert group.rest == pytest.approx(mean_square / 60)
        assert group.between == pytest.approx(of.mean(1).var(ddof=1))


class Halves(NamedTuple):
    part: np.ndarray
    whole: np.ndarray


def _estimates(rng: np.random.Generator) -> dict[str, object]:
    """Of 60 samples in 20 clusters; one group is in one cluster alone."""
    clusters, hits = np.repeat(np.arange(20), 3), rng.random(60) < 0.6
    groups = np.where(clusters == 7, 3, np.arange(60) % 3)
    counts = rng.integers(1, 9, (2, 20, 4))
    areas = Areas(counts[0], counts.sum(0), counts.max(0) + counts[0])
    return {
        "share": Proportion(hits),
        "mean": Mean(rng.random(60), clusters),
        "groups of clusters": GroupMean(hits, groups, clusters),
        "groups": GroupMean(hits, np.where(np.arange(60) == 5, 3, groups % 3)),
        "mIoU": FunctionOfSums(areas, mean_iou),
    }


@pytest.mark.parametrize("name", ["share", "mean", "groups of clusters", "groups", "mIoU"])
def test_the_jackknife_is_a_plain_loop(name: str) -> None:
    two = [_estimates(np.random.default_rng(seed))[name] for seed in (0, 1)]
    covariance, n = image_covariance(two)
    kept = ~np.eye(n, dtype=bool)
    values = [[without(one, keep).value for keep in kept] for one in two]
    assert covariance == pytest.approx((n - 1) ** 2 / n * np.cov(values))


def _mean(samples):
    return lambda weights: (weights @ samples) / weights.sum(axis=1)


def test_medians_and_other_estimates_are_resampled() -> None:
    """Where the answer is known: of means, and of the median of an exponential sample, whose
    variance is 1 / (4 n f^2) with the density f = 1 / (2 mean) at the median."""
    rng = np.random.default_rng(2)
    n, hits = 400, rng.random(400) < 0.3
    expected = hits.var(ddof=1) / n
    for one in (
        FunctionOfWeights(hits, _mean),
        GroupMean(hits, np.zeros(n, int), lowest=True),
    ):
        covariance, units = image_covariance([one, one])
        assert covariance == pytest.approx(np.full((2, 2), expected), rel=0.1)
        assert units == n
    assert image_covariance([CrossedMean(hits[:, None])])[1] == n
    ranks = rng.exponential(1000, n).astype(int)
    covariance, _ = image_covariance([Median(ranks, np.arange(n))] * 2)
    assert covariance[0, 1] == pytest.approx(1000**2 / n, rel=0.4)


def test_a_metric_without_value_has_no_covariance() -> None:
    """The one image in which something is labelled."""
    areas = Areas(*(np.array([[3], [0], [0]]) for _ in range(3)))
    covariance, _ = image_covariance([FunctionOfSums(areas, mean_iou)])
    assert np.isnan(covariance).all()


def test_one_image_tells_nothing() -> None:
    with pytest.raises(ValueError, match="two images or more"):
        image_covariance([Proportion(np.array([True]))] * 2)
    with pytest.raises(ValueError, match="two images or more"):
        group_difference(A, B, NONE, 1)


def test_equal_trainings_do_not_differ() -> None:
    found = group_difference(np.ones(3), np.ones(3), np.zeros((6, 6)), 50)
    assert (found.difference, found.p_value, found.detectable()) == (0, 1, None)
    assert group_difference(np.ones(3), np.zeros(3), np.zeros((6, 6)), 50).p_value < 1e-9


@pytest.mark.parametrize(
    "design",
    [
        Design((2, 2), 100, (0, 0)),
        Design((5, 5), 500, (0.01, 0.01), difference=0.03),
        Design((3, 3), 2000, (0.02, 0.02)),
        Design((5, 5), 500, (0.02, 0.005)),
        Design((5, 5), 500, (0.02, 0.02), skewed=True),
        Design((5, 5), 100, (0.02, 0.02), metric="mIoU"),
    ],
)
def test_false_alarms_are_rare(design: Design) -> None:
    """Of 400 studies, 6% and two standard errors at most, and fewer than by images alone."""
    found = rejected(design, 400)
    assert found.groups <= 0.084
    if any(design.sd):
        assert found.images_alone > found.groups
        assert found.one_each > found.groups


def test_splits_of_one_methods_trainings_do_not_differ() -> None:
    rng, design = np.random.default_rng(4), Design((6, 0), 200, (0.02, 0))
    shares = [rejected_splits(trainings(design, rng)) for _ in range(30)]
    assert 0 < np.mean(shares) < 0.1


def test_the_detectable_difference_is_detected_in_four_of_five_studies() -> None:
    """By components that are known: seeds of 0.02, and two kinds of noise of images."""
    seeds, rest, common = 0.02**2, 0.01**2, 0.01**2
    group = Trainings(10, seeds + rest, rest)
    image_error = np.sqrt(common + 2 * rest / 10)
    known = GroupDifference(0, 0, (group, group), (group, group), image_error, 400)
    rng = np.random.default_rng(5)
    for k in (3, 10):
        covariance = np.eye(2 * k) * rest + common / 2 * np.kron(np.eye(2), np.ones((k, k)))
        noise = rng.multivariate_normal(np.zeros(2 * k), covariance, size=4000)
        values = rng.normal(0, 0.02, (4000, 2 * k)) + noise
        values[:, :k] += known.detectable(k=k)
        found = [group_difference(one[:k], one[k:], covariance, 400).p_value for one in values]
        assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.8, abs=0.02)


def test_more_images_leave_the_error_of_seeds() -> None:
    group = Trainings(4, 0.0005, 0.0001)
    found = GroupDifference(0, 0, (group, group), (group, group), 0.02, 100)
    fewer, many, all_images = (found.detectable(k=4, images=times) for times in (1, 100, 1e9))
    assert fewer > many > all_images
    seeds_alone = np.array([0.0, 1.0, 2.0, 3.0])
    seeds_alone *= 0.02 / seeds_alone.std(ddof=1)
    of_seeds = group_difference(seeds_alone, seeds_alone, np.zeros((8, 8)), 100)
    assert all_images == pytest.approx(of_seeds.detectable(), rel=1e-4)
