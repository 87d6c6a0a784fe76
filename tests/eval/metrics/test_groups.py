"""Differences of methods: against SciPy's tests, plain loops, analysis of variance, simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import t, ttest_ind, ttest_rel
from support.groups import Design, rejected, rejected_splits, trainings

from cosmos_eval.stats.estimates import (
    CrossedMean,
    Estimate,
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

# The values of a metric of the trainings of two methods.
A = np.array([0.61, 0.64, 0.58, 0.66])
B = np.array([0.52, 0.50, 0.57])
# The covariance of these seven values over images, if images do not vary.
NO_COVARIANCE = np.zeros((7, 7))


def test_without_variation_of_images_it_is_welchs_test() -> None:
    difference = group_difference(A[:3], B, NO_COVARIANCE[:6, :6], 500)
    expected = ttest_ind(A[:3], B, equal_var=False)
    assert difference.p_value == pytest.approx(expected.pvalue)
    assert difference.interval()[:2] == pytest.approx((*expected.confidence_interval(),))
    variances = [A[:3].var(ddof=1), 0.0013]
    assert [group.seed_variance for group in difference.groups] == pytest.approx(variances)


def test_the_smaller_number_of_trainings_counts_for_both() -> None:
    """Of four and three trainings, both count as three: two degrees of freedom for each variance
    in Satterthwaite's formula. Of two and three trainings, both count as two."""
    difference = group_difference(A, B, NO_COVARIANCE, 500)
    a_variance, b_variance = A.var(ddof=1) / 4, B.var(ddof=1) / 3
    dof = (a_variance + b_variance) ** 2 / (a_variance**2 / 2 + b_variance**2 / 2)
    distance = (A.mean() - B.mean()) / np.sqrt(a_variance + b_variance)
    assert difference.p_value == pytest.approx(2 * t.sf(distance, dof))
    of_two_and_three = group_difference(A[:2], B, NO_COVARIANCE[:5, :5], 500)
    distance = (A[:2].mean() - B.mean()) / np.sqrt(A[:2].var(ddof=1) / 2 + b_variance)
    assert of_two_and_three.p_value == pytest.approx(2 * t.sf(distance, 1))


def test_seeds_and_images_have_their_own_quantiles() -> None:
    """Each group has four trainings, whose values vary by their seeds.

    The trainings of the first group share a variance over images, which the second group lacks.
    """
    spread = 0.01 * np.array([-1.5, -0.5, 0.5, 1.5])
    seed_variance, image_variance = 2 * spread.var(ddof=1) / 4, 0.0001
    variance = seed_variance + image_variance
    covariance = np.kron(np.diag([image_variance, 0.0]), np.ones((4, 4)))
    difference = group_difference(0.6 + spread, 0.5 + spread, covariance, 101)
    seed_quantile, image_quantile = t.ppf(0.975, 6), t.ppf(0.975, 100)
    quantile = (seed_variance * seed_quantile + image_variance * image_quantile) / variance
    half_width = quantile * np.sqrt(variance)
    assert difference.interval()[:2] == pytest.approx((0.1 - half_width, 0.1 + half_width))
    shifted = group_difference(0.5 + half_width + spread, 0.5 + spread, covariance, 101)
    assert shifted.p_value == pytest.approx(0.05)
    assert shifted.p_below(0) == pytest.approx(0.975)
    assert shifted.flipped().p_below(0) == pytest.approx(0.025)


def test_variance_by_images_never_makes_a_difference_surer() -> None:
    """With three trainings each, t quantiles of seeds are much larger than those of images."""
    p_values = []
    for image_variance in (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2):
        covariance = np.kron(np.diag([image_variance, 0.0]), np.ones((3, 3)))
        difference = group_difference(A[:3] + 0.1, B, covariance, 500)
        p_values.append(difference.p_value)
    welch = ttest_ind(A[:3] + 0.1, B, equal_var=False).pvalue
    assert p_values[0] == pytest.approx(welch)
    assert (np.diff(p_values) > -1e-12).all()
    assert p_values[-1] > 2 * welch


def test_trainings_that_are_equal_by_chance_vary_as_their_images_do() -> None:
    """Each of ten trainings gets 40 of 80 images right, which are drawn at random."""
    rng = np.random.default_rng(0)
    hits = np.stack([rng.permutation(80) < 40 for _ in range(10)])
    covariance, n = image_covariance([Proportion(training) for training in hits])
    values = hits.mean(axis=1)
    t_quantile = t.ppf(0.975, 79)
    for k in (2, 3, 5):
        trainings_covariance = covariance[: 2 * k, : 2 * k]
        difference = group_difference(values[:k], values[k : 2 * k], trainings_covariance, n)
        # Trainings have little in common: two means of k values with the mean variance of one.
        variance = np.trace(trainings_covariance) / (2 * k) * 2 / k
        high = difference.interval().high
        assert high == pytest.approx(t_quantile * np.sqrt(variance), rel=0.2)
        assert high >= t_quantile * difference.image_error


def test_a_method_that_misses_one_image_is_not_certainly_worse() -> None:
    """Three trainings at 100% against three at 99.8%, which miss different images, or the same."""
    for missed_images in (np.arange(3), np.zeros(3, int)):
        hits = np.ones((6, 500), bool)
        hits[3 + np.arange(3), missed_images] = False
        covariance, n = image_covariance([Proportion(training) for training in hits])
        values = hits.mean(axis=1)
        for by_seed in (False, True):
            difference = group_difference(values[:3], values[3:], covariance, n, by_seed=by_seed)
            assert difference.p_value > 0.2
            assert difference.interval().low < -0.002 < 0.006 < difference.interval().high


def test_trainings_of_shared_seeds_are_compared_by_pairs() -> None:
    difference = group_difference(A[:3], B, NO_COVARIANCE[:6, :6], 500, by_seed=True)
    expected = ttest_rel(A[:3], B)
    assert difference.p_value == pytest.approx(expected.pvalue)
    assert difference.interval()[:2] == pytest.approx((*expected.confidence_interval(),))
    with pytest.raises(ValueError, match="4 and 3 trainings do not make pairs"):
        group_difference(A, B, NO_COVARIANCE, 500, by_seed=True)


def test_one_training_of_each_method_is_compared_by_images_only() -> None:
    a, b = np.random.default_rng(0).random((2, 40))
    covariance, n = image_covariance([Mean(a, np.arange(40)), Mean(b, np.arange(40))])
    difference = group_difference(a.mean(keepdims=True), b.mean(keepdims=True), covariance, n)
    assert difference.p_value == pytest.approx(ttest_rel(a, b).pvalue)
    assert difference.compares_methods is False
    assert difference.groups[0].seed_variance is None
    assert difference.method == "images alone"


def test_components_are_those_of_the_analysis_of_variance() -> None:
    """Of three trainings of A and two of B on 60 images, which share how hard an image is."""
    rng = np.random.default_rng(1)
    values = rng.random((5, 60)) + rng.random(60)
    a, b = values[:3], values[3:]
    covariance, n = image_covariance([Mean(training, np.arange(60)) for training in values])
    difference = group_difference(a.mean(1), b.mean(1), covariance, n)
    differences_of_images = a.mean(0) - b.mean(0)
    expected_error = differences_of_images.std(ddof=1) / np.sqrt(60)
    assert difference.image_error == pytest.approx(expected_error)
    for group_values, group in zip((a, b), difference.groups, strict=True):
        image_means, training_means = group_values.mean(0), group_values.mean(1, keepdims=True)
        residuals = group_values - image_means - training_means + group_values.mean()
        mean_square = (residuals**2).sum() / ((len(group_values) - 1) * 59)
        assert group.rest_variance == pytest.approx(mean_square / 60)
        assert group.variance_between == pytest.approx(group_values.mean(1).var(ddof=1))


def make_estimates(rng: np.random.Generator) -> dict[str, Estimate]:
    """Return estimates of 60 random samples in 20 clusters.

    One group of samples is in a single cluster, and one in a single sample.
    """
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
def test_the_jackknife_equals_a_plain_loop_over_clusters(name: str) -> None:
    two_trainings = [make_estimates(np.random.default_rng(seed))[name] for seed in (0, 1)]
    covariance, n = image_covariance(two_trainings)
    # Row i keeps all clusters but cluster i.
    masks = ~np.eye(n, dtype=bool)
    values = [[without(estimate, mask).value for mask in masks] for estimate in two_trainings]
    assert covariance == pytest.approx((n - 1) ** 2 / n * np.cov(values))


def weighted_mean_of(samples: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function of weights (R, N) that a `FunctionOfWeights` needs."""

    def weighted_mean(weights: np.ndarray) -> np.ndarray:
        return (weights @ samples) / weights.sum(axis=1)

    return weighted_mean


def test_medians_and_other_estimates_are_resampled() -> None:
    """The variance is known for means and for the median of an exponential sample.

    For the median, it is 1 / (4 n f^2) with the density f = 1 / (2 mean) at the median.
    """
    rng = np.random.default_rng(2)
    n, hits = 400, rng.random(400) < 0.3
    expected = hits.var(ddof=1) / n
    for estimate in (
        FunctionOfWeights(hits, weighted_mean_of),
        GroupMean(hits, np.zeros(n, int), lowest=True),
    ):
        covariance, units = image_covariance([estimate, estimate])
        assert covariance == pytest.approx(np.full((2, 2), expected), rel=0.1)
        assert units == n
    assert image_covariance([CrossedMean(hits[:, None])])[1] == n
    ranks = rng.exponential(1000, n).astype(int)
    covariance, _ = image_covariance([Median(ranks, np.arange(n))] * 2)
    assert covariance[0, 1] == pytest.approx(1000**2 / n, rel=0.4)


def test_a_metric_without_value_has_no_covariance() -> None:
    """Without the only image in which something is labelled, mIoU has no value."""
    areas = Areas(*(np.array([[3], [0], [0]]) for _ in range(3)))
    covariance, _ = image_covariance([FunctionOfSums(areas, mean_iou)])
    assert np.isnan(covariance).all()


def test_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="two images or more"):
        image_covariance([Proportion(np.array([True]))] * 2)
    with pytest.raises(ValueError, match="two images or more"):
        group_difference(A, B, NO_COVARIANCE, 1)


def test_trainings_without_any_variation_are_not_certain() -> None:
    """Their difference is known to one image at best, like that of two models that agree on all
    images."""
    no_difference = group_difference(np.ones(3), np.ones(3), np.zeros((6, 6)), 50)
    assert (no_difference.difference, no_difference.p_value) == (0, 1)
    interval = no_difference.interval()
    interval_of_two_models = matched_shares(50, 0, 0, 50).interval()
    assert interval.low < interval_of_two_models.low
    assert interval_of_two_models.low < interval_of_two_models.high
    assert interval_of_two_models.high < interval.high
    full_difference = group_difference(np.ones(3), np.zeros(3), np.zeros((6, 6)), 50)
    assert 1e-9 < full_difference.p_value < 1e-3
    one_training_each = group_difference(np.ones(1), np.zeros(1), np.zeros((2, 2)), 6)
    assert one_training_each.p_value == 2 / 2**6


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
    """At most 9.4% of 200 studies: 6% and two standard errors.

    If seeds matter, errors by images only and single trainings give more false alarms.
    """
    false_alarms = rejected(design, 200)
    assert false_alarms.groups <= 0.094
    if any(design.sd):
        assert false_alarms.images_alone > false_alarms.groups
        assert false_alarms.one_each > false_alarms.groups


@pytest.mark.parametrize("ratio", [4, 1])
def test_two_trainings_against_ten_are_not_told_apart_too_often(ratio: int) -> None:
    """The two vary four times as much as the ten, or as much.

    At most 7.2% of 400 studies: 5% and two standard errors.
    """
    false_alarms = rejected(Design((2, 10), 1000, (0.04, 0.04 / ratio)), 400)
    assert false_alarms.groups <= 0.072


def test_splits_of_one_methods_trainings_do_not_differ() -> None:
    rng = np.random.default_rng(4)
    design = Design((6, 0), 200, (0.02, 0))
    shares = [rejected_splits(trainings(design, rng)) for _ in range(30)]
    assert 0 < np.mean(shares) < 0.1


def test_the_detectable_difference_is_detected_in_four_of_five_studies() -> None:
    """The variances of 2000 simulated studies of k trainings per method are known.

    They are the variance of seeds, the variance of images that the trainings of a method share,
    and the variance of images that differs from training to training.
    """
    seed_variance, rest_variance, shared_variance = 0.02**2, 0.01**2, 0.01**2
    group = Trainings(10, seed_variance + rest_variance, rest_variance)
    image_error = np.sqrt(shared_variance + 2 * rest_variance / 10)
    difference = GroupDifference(0, 0, (group, group), (group, group), image_error, 400)
    rng = np.random.default_rng(5)
    for k in (3, 10):
        same_method = np.kron(np.eye(2), np.ones((k, k)))
        covariance = np.eye(2 * k) * rest_variance + shared_variance / 2 * same_method
        image_noise = rng.multivariate_normal(np.zeros(2 * k), covariance, size=2000)
        values = rng.normal(0, 0.02, (2000, 2 * k)) + image_noise
        values[:, :k] += difference.detectable(k=k)
        p_values = [
            group_difference(study[:k], study[k:], covariance, 400).p_value for study in values
        ]
        assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.8, abs=0.025)


def test_any_number_of_images_leaves_the_error_of_seeds() -> None:
    """With a billion times the images, only the seeds' standard deviation of 0.02 is left."""
    group = Trainings(4, 0.0005, 0.0001)
    difference = GroupDifference(0, 0, (group, group), (group, group), 0.02, 100)
    same_images, many_images, most_images = (
        difference.detectable(k=4, images=times) for times in (1, 100, 1e9)
    )
    assert same_images > many_images > most_images
    seed_values = np.array([0.0, 1.0, 2.0, 3.0])
    seed_values *= 0.02 / seed_values.std(ddof=1)
    seeds_only = group_difference(seed_values, seed_values, np.zeros((8, 8)), 10**9)
    assert most_images == pytest.approx(seeds_only.detectable(), rel=1e-4)
