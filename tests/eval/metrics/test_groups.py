"""Differences of methods: against SciPy's tests, plain loops, analysis of variance, simulation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import t, ttest_ind, ttest_rel
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
from cosmos_eval.stats.paired import matched_shares
from cosmos_eval.stats.segmentation import Areas, mean_iou

A, B = np.array([0.61, 0.64, 0.58, 0.66]), np.array([0.52, 0.50, 0.57])
NONE = np.zeros((7, 7))


def test_without_variation_of_images_it_is_welchs_test() -> None:
    found = group_difference(A[:3], B, NONE[:6, :6], 500)
    expected = ttest_ind(A[:3], B, equal_var=False)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval()[:2] == pytest.approx((*expected.confidence_interval(),))
    variances = [A[:3].var(ddof=1), 0.0013]
    assert [group.seed_variance for group in found.groups] == pytest.approx(variances)


def test_the_smaller_number_of_trainings_counts_for_both() -> None:
    """Satterthwaite's formula with two degrees of freedom each, and one against two trainings."""
    found = group_difference(A, B, NONE, 500)
    of_a, of_b = A.var(ddof=1) / 4, B.var(ddof=1) / 3
    dof = (of_a + of_b) ** 2 / (of_a**2 / 2 + of_b**2 / 2)
    distance = (A.mean() - B.mean()) / np.sqrt(of_a + of_b)
    assert found.p_value == pytest.approx(2 * t.sf(distance, dof))
    two = group_difference(A[:2], B, NONE[:5, :5], 500)
    error = np.sqrt(A[:2].var(ddof=1) / 2 + of_b)
    assert two.p_value == pytest.approx(2 * t.sf((A[:2].mean() - B.mean()) / error, 1))


def test_seeds_and_images_have_quantiles_of_their_own() -> None:
    """Values that vary by 0.02^2 / 4 in each group, beside images that all have in common by c."""
    spread = 0.01 * np.array([-1.5, -0.5, 0.5, 1.5])
    seeds, common = 2 * spread.var(ddof=1) / 4, 0.0001
    covariance = np.kron(np.diag([common, 0.0]), np.ones((4, 4)))
    found = group_difference(0.6 + spread, 0.5 + spread, covariance, 101)
    quantile = (seeds * t.ppf(0.975, 6) + common * t.ppf(0.975, 100)) / (seeds + common)
    half = quantile * np.sqrt(seeds + common)
    assert found.interval()[:2] == pytest.approx((0.1 - half, 0.1 + half))
    shifted = group_difference(0.5 + half + spread, 0.5 + spread, covariance, 101)
    assert shifted.p_value == pytest.approx(0.05)
    assert shifted.p_below(0) == pytest.approx(0.975)
    assert shifted.flipped().p_below(0) == pytest.approx(0.025)


def test_trainings_that_are_equal_by_chance_vary_as_their_images_do() -> None:
    """Each gets 40 of 80 images right, whichever these are."""
    rng = np.random.default_rng(0)
    hits = np.stack([rng.permutation(80) < 40 for _ in range(10)])
    covariance, n = image_covariance([Proportion(training) for training in hits])
    values = hits.mean(axis=1)
    for k in (2, 3, 5):
        of_both = covariance[: 2 * k, : 2 * k]
        found = group_difference(values[:k], values[k : 2 * k], of_both, n)
        rest = np.trace(of_both) / (2 * k) * 2 / k  # of which trainings have little in common
        half = t.ppf(0.975, 79) * np.sqrt(rest)
        assert found.interval().high == pytest.approx(half, rel=0.2)
        assert found.interval().high >= t.ppf(0.975, 79) * found.image_error


def test_one_image_less_is_no_certainty() -> None:
    """Three trainings at 100% against three at 99.8%, which miss an image each, or the same."""
    for missed in (np.arange(3), np.zeros(3, int)):
        hits = np.ones((6, 500), bool)
        hits[3 + np.arange(3), missed] = False
        covariance, n = image_covariance([Proportion(one) for one in hits])
        values = hits.mean(axis=1)
        for by_seed in (False, True):
            found = group_difference(values[:3], values[3:], covariance, n, by_seed=by_seed)
            assert found.p_value > 0.2
            assert found.interval().low < -0.002 < 0.006 < found.interval().high


def test_trainings_of_shared_seeds_are_compared_by_pairs() -> None:
    found, expected = (
        group_difference(A[:3], B, NONE[:6, :6], 500, by_seed=True),
        ttest_rel(A[:3], B),
    )
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval()[:2] == pytest.approx((*expected.confidence_interval(),))
    with pytest.raises(ValueError, match="4 and 3 trainings do not make pairs"):
        group_difference(A, B, NONE, 500, by_seed=True)


def test_one_training_each_is_compared_by_images_alone() -> None:
    values = np.random.default_rng(0).random((2, 40))
    covariance, n = image_covariance([Mean(one, np.arange(40)) for one in values])
    found, expected = (
        group_difference(*values.mean(1, keepdims=True), covariance, n),
        ttest_rel(*values),
    )
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.compares_methods, found.groups[0].seed_variance) == (False, None)
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
        assert group.rest_variance == pytest.approx(mean_square / 60)
        assert group.variance_between == pytest.approx(of.mean(1).var(ddof=1))


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


def test_trainings_without_any_variation_are_no_certainty() -> None:
    """Known to one image at best, which is as much as two models that are alike everywhere are."""
    same = group_difference(np.ones(3), np.ones(3), np.zeros((6, 6)), 50)
    assert (same.difference, same.p_value) == (0, 1)
    of_models = matched_shares(50, 0, 0, 50).interval()
    assert same.interval().low < of_models.low < of_models.high < same.interval().high
    apart = group_difference(np.ones(3), np.zeros(3), np.zeros((6, 6)), 50)
    assert 1e-9 < apart.p_value < 1e-3
    alone = group_difference(np.ones(1), np.zeros(1), np.zeros((2, 2)), 6)
    assert alone.p_value == 2 / 2**6


@pytest.mark.parametrize(
    "design",
    [
        Design((2, 2), 100, (0, 0)),
        Design((5, 5), 500, (0.01, 0.01), difference=0.03),
        Design((5, 5), 500, (0.02, 0.005)),
        Design((5, 5), 500, (0.02, 0.02), skewed=True),
        Design((5, 5), 100, (0.02, 0.02), metric="mIoU"),
    ],
)
def test_false_alarms_are_rare(design: Design) -> None:
    """Of 200 studies, 6% and two standard errors at most, and fewer than by images alone."""
    found = rejected(design, 200)
    assert found.groups <= 0.094
    if any(design.sd):
        assert found.images_alone > found.groups
        assert found.one_each > found.groups


@pytest.mark.parametrize("ratio", [4, 1])
def test_two_trainings_against_ten_are_not_told_apart_too_often(ratio: int) -> None:
    """The two vary four times as much, or as the ten do; 5% of 400 studies and two errors."""
    assert rejected(Design((2, 10), 1000, (0.04, 0.04 / ratio)), 400).groups <= 0.072


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
        noise = rng.multivariate_normal(np.zeros(2 * k), covariance, size=2000)
        values = rng.normal(0, 0.02, (2000, 2 * k)) + noise
        values[:, :k] += known.detectable(k=k)
        found = [group_difference(one[:k], one[k:], covariance, 400).p_value for one in values]
        assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.8, abs=0.025)


def test_more_images_leave_the_error_of_seeds() -> None:
    group = Trainings(4, 0.0005, 0.0001)
    found = GroupDifference(0, 0, (group, group), (group, group), 0.02, 100)
    fewer, many, all_images = (found.detectable(k=4, images=times) for times in (1, 100, 1e9))
    assert fewer > many > all_images
    seeds_alone = np.array([0.0, 1.0, 2.0, 3.0])
    seeds_alone *= 0.02 / seeds_alone.std(ddof=1)
    of_seeds = group_difference(seeds_alone, seeds_alone, np.zeros((8, 8)), 10**9)
    assert all_images == pytest.approx(of_seeds.detectable(), rel=1e-4)
