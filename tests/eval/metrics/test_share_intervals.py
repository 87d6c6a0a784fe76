"""Intervals of the lowest share, of calibration errors and of means over classes with few samples:
against scipy, scikit-learn without each sample, hand-solved cases, and in simulated studies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binomtest, foldnorm
from scipy.stats import t as student

from cosmos_eval.stats.calibration import calibration_error
from cosmos_eval.stats.choices import macro_f1
from cosmos_eval.stats.estimates import Estimate, GroupMean
from cosmos_eval.stats.intervals import intervals
from cosmos_eval.stats.precision import mean_average_precision
from cosmos_eval.types import Interval

# The quantile of the chi-squared distribution of one degree of freedom: 1.96 squared.
CHI_SQUARED_95 = 3.841459


def interval_of(estimate: Estimate, **options) -> Interval:
    return intervals({"metric": estimate}, **options)["metric"]


def interval_of_stored_method(estimate: Estimate, method: str, resamples: int) -> Interval:
    """Return the interval by the method that a result of an earlier version says it has."""
    return interval_of(estimate, methods={"metric": method}, resamples=resamples)


def test_the_interval_of_the_lowest_of_one_group_is_clopper_and_pearsons():
    lowest = GroupMean(np.arange(30) < 21, np.full(30, 4), lowest=True)
    expected = binomtest(21, 30).proportion_ci()
    assert interval_of(lowest)[:2] == pytest.approx((expected.low, expected.high))


def test_the_lowest_share_is_bounded_by_every_group_with_a_correction_for_their_number():
    """8 of 10, 45 of 50 and 20 of 20 are right.

    The first group has the lowest lower bound. Upper bounds are of the level 0.975^(1/3), since
    there are three groups, and the second group has the lowest.
    """
    groups = np.repeat([0, 1, 2], [10, 50, 20])
    hits = np.concatenate([np.arange(10) < 8, np.arange(50) < 45, np.ones(20, bool)])
    interval = interval_of(GroupMean(hits, groups, lowest=True))
    two_sided_level = 1 - 2 * (1 - 0.975 ** (1 / 3))
    upper_bounds = [
        binomtest(n_hits, n).proportion_ci(two_sided_level).high
        for n_hits, n in ((8, 10), (45, 50))
    ]
    assert interval.low == pytest.approx(binomtest(8, 10).proportion_ci().low)
    assert interval.high == pytest.approx(min(upper_bounds))
    assert interval.method == "exact, lowest of groups"


def test_dependent_samples_of_a_group_count_once():
    """Each group has ten clusters of four equal samples; seven clusters are hits."""
    groups, clusters = np.repeat([0, 1], 40), np.repeat(np.arange(20), 4)
    hits = np.repeat(np.arange(20) % 10 < 7, 4)
    interval = interval_of(GroupMean(hits, groups, clusters, lowest=True))
    assert interval.low == pytest.approx(binomtest(7, 10).proportion_ci().low)


def test_the_interval_of_the_lowest_of_equal_groups_covers():
    """Six groups of 200 images have a recall of 80% each.

    The lowest recall of the samples is below 80%, and the bootstrap of earlier versions takes this
    for the truth.
    """
    groups = np.repeat(np.arange(6), 200)
    covered = covered_by_bootstrap = 0
    for seed in range(100):
        hits = np.random.default_rng(seed).random(1200) < 0.8
        estimate = GroupMean(hits, groups, lowest=True)
        interval = interval_of(estimate)
        covered += interval.low <= 0.8 <= interval.high
        if seed < 30:
            bootstrap = interval_of_stored_method(estimate, "bootstrap", resamples=200)
            covered_by_bootstrap += bootstrap.low <= 0.8 <= bootstrap.high
    assert covered >= 0.93 * 100
    assert covered_by_bootstrap < 0.5 * 30


def test_the_interval_of_one_bin_follows_from_a_folded_normal_distribution():
    """300 of 400 images of confidence 0.7 are right: a gap of 0.05.

    The standard error is that of an accuracy with two more hits and two more misses.
    """
    hits = np.arange(400) < 300
    interval = interval_of(calibration_error(np.full(400, 0.7, np.float32), hits))
    accuracy = 302 / 404
    error = np.sqrt(accuracy * (1 - accuracy) / 400)

    def chance_of_smaller_gap(true_gap: float) -> float:
        return foldnorm.cdf(0.05 / error, true_gap / error)

    low = brentq(lambda gap: chance_of_smaller_gap(gap) - 0.975, 0, 0.1)
    lowest_chance = 0.025 * chance_of_smaller_gap(0)
    high = brentq(lambda gap: chance_of_smaller_gap(gap) - lowest_chance, 0, 0.5)
    assert interval[:2] == pytest.approx((low, high), abs=0.003)
    assert interval.method == "inverted test of calibration"


def test_the_interval_of_a_model_without_any_gap_has_a_width():
    """All of 100 images are right with a confidence of 1.

    The standard error is that of 102 hits and 2 misses, two more of each. The upper end is where
    the density of no gap, relative to its highest value, is exp(-high^2 / 2 error^2) = 0.025.
    """
    interval = interval_of(calibration_error(np.ones(100, np.float32), np.ones(100, bool)))
    error = np.sqrt(102 * 2 / 104**2 / 100)
    high = error * np.sqrt(-2 * np.log(0.025))
    assert interval[:2] == pytest.approx((0, high))


def test_the_interval_of_a_calibrated_model_holds_an_error_of_0():
    """For 46 of 50 models or more; the bootstrap of earlier versions almost never comes near 0."""
    held_0 = bootstrap_near_0 = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        confidences = rng.uniform(0.1, 1, 1000).astype(np.float32)
        estimate = calibration_error(confidences, rng.random(1000) < confidences)
        interval = interval_of(estimate)
        assert interval.low <= estimate.value <= interval.high < 2 * estimate.value
        held_0 += interval.low == 0
        bootstrap = interval_of_stored_method(estimate, "bootstrap", resamples=100)
        bootstrap_near_0 += bootstrap.low < 0.005
    assert held_0 >= 46
    assert bootstrap_near_0 < 3


@pytest.mark.parametrize("shift", [0.03, 0.15])
def test_the_interval_of_a_model_that_is_too_confident_covers(shift: float):
    """The accuracy is `shift` below the confidence everywhere, which is the true error."""
    covered = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        confidences = rng.uniform(0.2, 1, 2000).astype(np.float32)
        hits = rng.random(2000) < confidences - shift
        interval = interval_of(calibration_error(confidences, hits))
        covered += interval.low <= shift <= interval.high
    assert covered >= 45


def jackknife_interval(value: float, values_without_each: list[float]) -> tuple[float, float]:
    """Return the 95% interval by the values without each of n samples."""
    n = len(values_without_each)
    error = np.sqrt((n - 1) / n * np.var(values_without_each) * n)
    half_width = student.ppf(0.975, n - 1) * error
    return value - half_width, value + half_width


def test_the_interval_of_macro_f1_is_the_jackknife_of_scikit_learns():
    """Class 3 has one sample, without which the class is left out; class 9 is only predicted."""
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    labels = np.append(rng.integers(0, 3, 59), 3)
    predicted = np.where(rng.random(60) < 0.5, labels, rng.choice([0, 1, 2, 9], 60))

    def f1(samples: np.ndarray) -> float:
        classes = np.unique(labels[samples])
        return f1_score(labels[samples], predicted[samples], average="macro", labels=classes)

    samples = np.arange(60)
    f1_without_each = [f1(samples != sample) for sample in samples]
    expected = jackknife_interval(f1(samples), f1_without_each)
    interval = interval_of(macro_f1(labels, predicted))
    assert interval[:2] == pytest.approx(expected)  # the interval by the likelihood is narrower
    assert interval.method == "jackknife or likelihood"


@pytest.mark.parametrize("digits", [1, 6])
def test_the_interval_of_map_is_the_jackknife_of_scikit_learns(digits: int):
    """Class 2 has one image, without which the class is left out; class 3 has none.

    With scores of one digit, many tie.
    """
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(3)
    labels = rng.random((60, 4)) < [0.5, 0.2, 0, 0]
    labels[7, 2] = True
    scores = (rng.normal(size=(60, 4)) + labels).round(digits)

    def mean_precision(images: np.ndarray) -> float:
        precisions = [
            average_precision_score(labels[images, number], scores[images, number])
            for number in range(4)
            if labels[images, number].any()
        ]
        return float(np.mean(precisions))

    images = np.arange(60)
    precision_without_each = [mean_precision(images != image) for image in images]
    expected = jackknife_interval(mean_precision(images), precision_without_each)
    interval = interval_of(mean_average_precision(scores, labels))
    assert interval[:2] == pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 2, 40])
def test_the_interval_of_a_perfect_mean_over_classes_has_a_width(n: int):
    """It is the interval of a share of n of n."""
    low = binomtest(n, n).proportion_ci().low
    ones = np.ones((n, 1), bool)
    scores = np.arange(n)[:, None].astype(np.float32)
    for estimate in (
        macro_f1(ones[:, 0] * 1, ones[:, 0] * 1),
        mean_average_precision(scores, ones),
    ):
        assert interval_of(estimate)[:2] == pytest.approx((low, 1))


def test_intervals_of_average_precisions_of_rare_classes_cover():
    """40 classes in 90 to 1 of 300 images. The expected value is the mean of 100 other studies.

    The bootstrap of earlier versions covers it too rarely.
    """

    def simulate_study(seed: int) -> Estimate:
        rng = np.random.default_rng(seed)
        labels = rng.random((300, 40)) < np.geomspace(0.3, 0.003, 40)
        return mean_average_precision(rng.normal(size=(300, 40)) + labels, labels)

    expected = np.mean([simulate_study(seed).value for seed in range(1000, 1100)])

    def share_that_cover(study_intervals: list[Interval]) -> float:
        return float(np.mean([i.low <= expected <= i.high for i in study_intervals]))

    study_intervals = [interval_of(simulate_study(seed)) for seed in range(30)]
    assert share_that_cover(study_intervals) >= 0.9
    bootstrap_intervals = [
        interval_of_stored_method(simulate_study(seed), "bootstrap", resamples=100)
        for seed in range(10)
    ]
    assert share_that_cover(bootstrap_intervals) < 0.8


def test_the_mean_of_shares_solved_by_hand():
    """Right are 1 of 2, 6 of 8, and three of four classes of one image each.

    The four small classes have the variance of a share of (3 + 1) of (4 + 2).
    """
    groups = np.repeat([0, 1, 2, 3, 4, 5], [2, 8, 1, 1, 1, 1])
    hits = np.array([1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1], bool)
    variance = (1 / 4 / 1 + 3 / 16 / 7 + 4 * (4 / 6) * (2 / 6)) / 36
    value = (1 / 2 + 3 / 4 + 3) / 6
    # Wilson's interval of a share of n samples that have this variance.
    n = value * (1 - value) / variance
    scale = 1 + CHI_SQUARED_95 / n
    center = (value + CHI_SQUARED_95 / 2 / n) / scale
    half_width = np.sqrt(CHI_SQUARED_95 * (value * (1 - value) / n + CHI_SQUARED_95 / 4 / n**2))
    half_width /= scale
    interval = interval_of(GroupMean(hits, groups))
    assert interval[:2] == pytest.approx((center - half_width, center + half_width), abs=1e-6)
    assert interval.method == "stratified Wilson or likelihood"


def test_the_interval_of_the_mean_over_present_classes_covers_though_half_are_absent():
    """60 images of 50 classes; the more frequent a class, the easier it is.

    The bootstrap of earlier versions covers the mean too rarely.
    """
    recalls, frequency = np.linspace(0.9, 0.1, 50), 1 / np.arange(1, 51)
    covered = covered_by_bootstrap = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = rng.choice(50, 60, p=frequency / frequency.sum())
        estimate = GroupMean(rng.random(60) < recalls[labels], labels)
        true_mean = recalls[np.unique(labels)].mean()
        interval = interval_of(estimate)
        covered += interval.low <= true_mean <= interval.high
        if seed < 50:
            bootstrap = interval_of_stored_method(
                estimate, "bootstrap or likelihood", resamples=200
            )
            covered_by_bootstrap += bootstrap.low <= true_mean <= bootstrap.high
    assert covered >= 0.91 * 100
    assert covered_by_bootstrap < 0.9 * 50
