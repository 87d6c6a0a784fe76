"""Intervals of the lowest share, of calibration errors and of means over classes with few samples:
against scipy, scikit-learn without each sample, hand-solved cases, and in simulated studies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binomtest, foldnorm, norm
from scipy.stats import t as student

from cosmos_eval.stats.calibration import calibration_error
from cosmos_eval.stats.choices import macro_f1
from cosmos_eval.stats.estimates import GroupMean
from cosmos_eval.stats.intervals import intervals
from cosmos_eval.stats.precision import mean_average_precision
from cosmos_eval.types import Interval


def interval_of(estimate, **options) -> Interval:
    return intervals({"it": estimate}, **options)["it"]


def test_the_interval_of_the_lowest_of_one_group_is_clopper_and_pearsons():
    worst = GroupMean(np.arange(30) < 21, np.full(30, 4), lowest=True)
    expected = binomtest(21, 30).proportion_ci()
    assert interval_of(worst)[:2] == pytest.approx((expected.low, expected.high))


def test_the_lowest_share_is_at_most_any_of_the_groups_corrected_for_their_number():
    """8 of 10, 45 of 50 and 20 of 20: the first has the lowest lower bound, the second the lowest
    upper bound that 1 - 0.975^(1/3) of samples exceed."""
    groups = np.repeat([0, 1, 2], [10, 50, 20])
    hits = np.concatenate([np.arange(10) < 8, np.arange(50) < 45, np.ones(20, bool)])
    found = interval_of(GroupMean(hits, groups, lowest=True))
    level = 1 - 2 * (1 - 0.975 ** (1 / 3))
    uppers = [binomtest(k, n).proportion_ci(level).high for k, n in ((8, 10), (45, 50))]
    assert found.low == pytest.approx(binomtest(8, 10).proportion_ci().low)
    assert found.high == pytest.approx(min(uppers))
    assert found.method == "exact, lowest of groups"


def test_dependent_samples_of_a_group_count_once():
    groups, clusters = np.repeat([0, 1], 40), np.repeat(np.arange(20), 4)
    hits = np.repeat(np.arange(20) % 10 < 7, 4)
    found = interval_of(GroupMean(hits, groups, clusters, lowest=True))
    assert found.low == pytest.approx(binomtest(7, 10).proportion_ci().low)


def test_the_lowest_of_equal_groups_is_held():
    """Six groups of 200 images, 80% of each: the lowest of samples is too low."""
    groups, held, former = np.repeat(np.arange(6), 200), 0, 0
    for seed in range(100):
        hits = np.random.default_rng(seed).random(1200) < 0.8
        estimate = GroupMean(hits, groups, lowest=True)
        interval = interval_of(estimate)
        held += interval.low <= 0.8 <= interval.high
        if seed < 30:
            drawn = interval_of(estimate, methods={"it": "bootstrap"}, resamples=200)
            former += drawn.low <= 0.8 <= drawn.high
    assert held >= 0.93 * 100
    assert former < 0.5 * 30


def test_the_interval_of_one_bin_follows_from_a_folded_normal_distribution():
    """400 images of confidence 0.7, 300 of them right: a gap of 0.05, with two more of both."""
    hits = np.arange(400) < 300
    found = interval_of(calibration_error(np.full(400, 0.7, np.float32), hits))
    accuracy = 302 / 404
    error = np.sqrt(accuracy * (1 - accuracy) / 400)

    def below(population):
        return foldnorm.cdf(0.05 / error, population / error)

    low = brentq(lambda population: below(population) - 0.975, 0, 0.1)
    high = brentq(lambda population: below(population) - 0.025 * below(0), 0, 0.5)
    assert found[:2] == pytest.approx((low, high), abs=0.003)
    assert found.method == "inverted test of calibration"


def test_the_interval_of_a_model_without_any_gap_has_a_width():
    """All are right and have a confidence of 1: two of 104 in each direction."""
    found = interval_of(calibration_error(np.ones(100, np.float32), np.ones(100, bool)))
    error = np.sqrt(102 * 2 / 104**2 / 100)
    high = error * norm.pdf(0) / norm.pdf(0)  # the density ratio is exp(-high^2 / 2 error^2)
    high *= np.sqrt(-2 * np.log(0.025))
    assert found[:2] == pytest.approx((0, high))


def test_a_calibrated_model_may_have_no_error():
    held = former = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        confidences = rng.uniform(0.1, 1, 1000).astype(np.float32)
        estimate = calibration_error(confidences, rng.random(1000) < confidences)
        found = interval_of(estimate)
        assert found.low <= estimate.value <= found.high < 2 * estimate.value
        held += found.low == 0
        drawn = interval_of(estimate, methods={"it": "bootstrap"}, resamples=100)
        former += drawn.low < 0.005
    assert held >= 46
    assert former < 3


@pytest.mark.parametrize("shift", [0.03, 0.15])
def test_the_error_of_a_model_that_is_too_sure_is_held(shift: float):
    held = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        confidences = rng.uniform(0.2, 1, 2000).astype(np.float32)
        found = interval_of(calibration_error(confidences, rng.random(2000) < confidences - shift))
        held += found.low <= shift <= found.high
    assert held >= 45


def jackknife(value: float, without: list[float]) -> tuple[float, float]:
    n = len(without)
    half = student.ppf(0.975, n - 1) * np.sqrt((n - 1) / n * np.var(without) * n)
    return value - half, value + half


def test_the_interval_of_macro_f1_is_of_scikit_learns_without_each_sample():
    """Class 3 has one sample, without which it is left out; class 9 is no sample's."""
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    labels = np.append(rng.integers(0, 3, 59), 3)
    predicted = np.where(rng.random(60) < 0.5, labels, rng.choice([0, 1, 2, 9], 60))

    def f1(rows):
        classes = np.unique(labels[rows])
        return f1_score(labels[rows], predicted[rows], average="macro", labels=classes)

    every = np.arange(60)
    ends = jackknife(f1(every), [f1(every != row) for row in every])
    found = interval_of(macro_f1(labels, predicted))
    assert found[:2] == pytest.approx(ends)  # the likelihood's is narrower
    assert found.method == "jackknife or likelihood"


@pytest.mark.parametrize("digits", [1, 6])
def test_the_interval_of_map_is_of_scikit_learns_without_each_image(digits: int):
    """Class 2 has one image, without which it is left out; class 3 has none. Scores may tie."""
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(3)
    labels = rng.random((60, 4)) < [0.5, 0.2, 0, 0]
    labels[7, 2] = True
    scores = (rng.normal(size=(60, 4)) + labels).round(digits)

    def mean_precision(rows):
        some = [c for c in range(4) if labels[rows, c].any()]
        return np.mean([average_precision_score(labels[rows, c], scores[rows, c]) for c in some])

    every = np.arange(60)
    ends = jackknife(mean_precision(every), [mean_precision(every != row) for row in every])
    found = interval_of(mean_average_precision(scores, labels))
    assert found[:2] == pytest.approx(ends)


@pytest.mark.parametrize("n", [1, 2, 40])
def test_a_mean_over_classes_that_is_perfect_has_a_width(n: int):
    """As for a share of n of n."""
    low = binomtest(n, n).proportion_ci().low
    ones = np.ones((n, 1), bool)
    scores = np.arange(n)[:, None].astype(np.float32)
    for estimate in (
        macro_f1(ones[:, 0] * 1, ones[:, 0] * 1),
        mean_average_precision(scores, ones),
    ):
        assert interval_of(estimate)[:2] == pytest.approx((low, 1))


def test_average_precisions_of_rare_classes_are_held():
    """40 classes in 90 to 1 of 300 images. The expected value is the mean of 100 other studies."""

    def study(seed):
        rng = np.random.default_rng(seed)
        labels = rng.random((300, 40)) < np.geomspace(0.3, 0.003, 40)
        return mean_average_precision(rng.normal(size=(300, 40)) + labels, labels)

    expected = np.mean([study(seed).value for seed in range(1000, 1100)])
    made = [interval_of(study(seed)) for seed in range(30)]
    assert np.mean([one.low <= expected <= one.high for one in made]) >= 0.9
    former = [interval_of(study(n), methods={"it": "bootstrap"}, resamples=100) for n in range(10)]
    assert np.mean([one.low <= expected <= one.high for one in former]) < 0.8


def test_the_mean_of_shares_solved_by_hand():
    """1 of 2, 6 of 8, and of four classes of one image each three: the variance of the latter is
    that of (3 + 1) of (4 + 2)."""
    groups = np.repeat([0, 1, 2, 3, 4, 5], [2, 8, 1, 1, 1, 1])
    hits = np.array([1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1], bool)
    variance = (1 / 4 / 1 + 3 / 16 / 7 + 4 * (4 / 6) * (2 / 6)) / 36
    value = (1 / 2 + 3 / 4 + 3) / 6
    n = value * (1 - value) / variance
    center = (value + 3.841459 / 2 / n) / (1 + 3.841459 / n)
    half = np.sqrt(3.841459 * (value * (1 - value) / n + 3.841459 / 4 / n**2))
    half /= 1 + 3.841459 / n
    found = interval_of(GroupMean(hits, groups))
    assert found[:2] == pytest.approx((center - half, center + half), abs=1e-6)
    assert found.method == "stratified Wilson or likelihood"


def test_the_mean_over_classes_that_are_there_is_held_though_half_are_absent():
    """60 images of 50 classes, the more frequent the easier."""
    recalls, frequency = np.linspace(0.9, 0.1, 50), 1 / np.arange(1, 51)
    held = former = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = rng.choice(50, 60, p=frequency / frequency.sum())
        estimate = GroupMean(rng.random(60) < recalls[labels], labels)
        true = recalls[np.unique(labels)].mean()
        interval = interval_of(estimate)
        held += interval.low <= true <= interval.high
        if seed < 50:
            stored = {"it": "bootstrap or likelihood"}
            drawn = interval_of(estimate, methods=stored, resamples=200)
            former += drawn.low <= true <= drawn.high
    assert held >= 0.91 * 100
    assert former < 0.9 * 50
