"""Control variates: against least squares by hand, and their errors by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cosmos_eval.stats.control_variates import Adjustment, ControlMeans, control_means, pays
from cosmos_eval.stats.sequential import BoundedSequence, decide


def exactly(*means: float) -> ControlMeans:
    """Means that are known."""
    return ControlMeans(np.array(means), np.zeros(len(means)))


def pair_with_controls(
    rng: np.random.Generator, n: int, n_controls: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Differences with mean 0, and hits of the baseline and others with means of a half.

    The models differ on 20% of the images: the better baseline loses, the worse one gains.
    """
    baseline = rng.random(n) < 0.5
    differs = rng.random(n) < 0.2
    differences = np.where(differs, 1.0 - 2 * baseline, 0.0)
    others = rng.random((n, n_controls - 1)) < 0.5
    return differences, np.column_stack([baseline, others]).astype(float)


def test_coefficients_are_least_squares_of_earlier_shards():
    rng = np.random.default_rng(0)
    differences, controls = pair_with_controls(rng, 450, 2)
    adjustment = Adjustment(exactly(0.5, 0.5))
    adjusted, slack = adjustment.adjust(differences[:150], controls[:150])
    assert np.array_equal(adjusted, differences[:150])  # nothing to fit before
    assert slack == 0
    adjusted, _ = adjustment.adjust(differences[150:300], controls[150:300])
    columns = np.column_stack([np.ones(150), controls[:150]])
    fitted = np.linalg.lstsq(columns, differences[:150])[0][1:]
    assert adjusted == pytest.approx(
        differences[150:300] - (controls[150:300] - 0.5) @ fitted, abs=1e-9
    )
    columns = np.column_stack([np.ones(300), controls[:300]])
    fitted = np.linalg.lstsq(columns, differences[:300])[0][1:]
    assert adjustment.coefficients() == pytest.approx(fitted, abs=1e-9)


def test_the_variance_ratio_is_of_the_residuals():
    differences, controls = pair_with_controls(np.random.default_rng(1), 5000, 2)
    adjustment = Adjustment(exactly(0.5, 0.5))
    assert math.isnan(adjustment.variance_ratio())
    adjustment.adjust(differences, controls)
    columns = np.column_stack([np.ones(5000), controls])
    residuals = differences - columns @ np.linalg.lstsq(columns, differences)[0]
    ratio = (residuals @ residuals / 4997) / differences.var(ddof=1)
    assert adjustment.variance_ratio() == pytest.approx(ratio)
    # The variance is 0.2, of which a coefficient of 0.2 explains 0.04 * 4 / 4.
    assert adjustment.variance_ratio() == pytest.approx(0.8, abs=0.03)


def test_few_samples_and_equal_models_change_nothing():
    adjustment = Adjustment(exactly(0.5))
    differences, controls = pair_with_controls(np.random.default_rng(2), 49)
    adjustment.adjust(differences, controls)
    assert adjustment.coefficients().tolist() == [0]
    adjustment = Adjustment(exactly(0.5))
    adjustment.adjust(np.zeros(100), np.ones((100, 1)))
    assert adjustment.coefficients().tolist() == [0]
    assert math.isnan(adjustment.variance_ratio())


def test_the_reach_bounds_the_change_and_the_slack():
    differences, controls = pair_with_controls(np.random.default_rng(3), 400)
    adjustment = Adjustment(ControlMeans(np.array([0.5]), np.array([0.001])), reach=0.04)
    adjustment.adjust(1 - 2 * controls[:, 0], controls)
    adjusted, slack = adjustment.adjust(differences, controls)
    change = np.abs(adjusted - differences).max() + slack
    assert change == pytest.approx(0.04)
    assert slack == pytest.approx(0.04 * 0.001 / 0.501)


def test_adjusting_pays_only_for_a_small_slack():
    assert pays(0.75, 0.01, 0.0045)
    assert not pays(0.75, 0.01, 0.0046)  # (1 - sqrt(0.75)) * 3.4 points = 0.456
    assert not pays(1.0, 0.01, 0.0)
    differences, controls = pair_with_controls(np.random.default_rng(4), 4000)
    for half_width, has_coefficients in ((0.001, True), (0.03, False)):
        adjustment = Adjustment(ControlMeans(np.array([0.5]), np.array([half_width])))
        adjustment.adjust(differences, controls)
        assert bool(adjustment.coefficients().any()) == has_coefficients


def test_adjusted_differences_decide_earlier():
    images = []
    for seed in range(20):
        differences, controls = pair_with_controls(np.random.default_rng(seed), 6000)
        gains = np.random.default_rng(100 + seed).random(6000) < 0.02
        differences = np.where((differences == 0) & gains, 1.0, differences)
        adjustment = Adjustment(exactly(0.5))
        plain, adjusted = BoundedSequence(-1, 1), BoundedSequence(-1.5, 1.5)
        for begin in range(0, 6000, 100):
            chunk = slice(begin, begin + 100)
            plain.update(differences[chunk])
            adjusted.update(*adjustment.adjust(differences[chunk], controls[chunk]))
        (low, high), (new_low, new_high) = plain.interval(0.05), adjusted.interval(0.05)
        images.append((new_high - new_low) / (high - low))
    assert 0.85 < np.mean(images) < 0.95  # sqrt(0.8) = 0.89


@pytest.mark.parametrize("is_known", [True, False])
def test_errors_of_adjusted_differences(is_known):
    """300 replays: two standard errors are 2.5 points."""
    wrong = 0
    for seed in range(300):
        differences, controls = pair_with_controls(np.random.default_rng(seed), 1000)
        means = exactly(0.5) if is_known else control_means(controls, 0.005)
        adjustment = Adjustment(means)
        sequence = BoundedSequence(-1.5, 1.5)
        sequence.log_e_above(0)
        sequence.log_e_below(0)
        for begin in range(0, 1000, 100):
            chunk = slice(begin, begin + 100)
            sequence.update(*adjustment.adjust(differences[chunk], controls[chunk]))
        wrong += decide(sequence, 0.045) != "undecided"
    assert wrong / 300 <= 0.075


def test_means_of_stored_controls():
    controls = (np.arange(2000)[:, None] % np.array([2, 4]) == 0).astype(float)
    means = control_means(controls, 0.01)
    for index, share in enumerate((0.5, 0.25)):
        sequence = BoundedSequence(0, 1)
        sequence.update(controls[:, index])
        low, high = sequence.interval(0.005)
        assert means.centers[index] - means.half_widths[index] == pytest.approx(low)
        assert means.centers[index] + means.half_widths[index] == pytest.approx(high)
        assert low < share < high
    with pytest.raises(ValueError, match="is not within"):
        control_means(controls + 0.5, 0.01)


def test_bad_controls():
    adjustment = Adjustment(exactly(0.5, 0.5))
    with pytest.raises(ValueError, match=r"of shape \(3, 1\) do not fit 3 differences and 2 means"):
        adjustment.adjust(np.zeros(3), np.zeros((3, 1)))
    for value in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="a control is not within 0 to 1"):
            adjustment.adjust(np.zeros(3), np.full((3, 2), value))
    with pytest.raises(ValueError, match="must be above 0, not 0"):
        Adjustment(exactly(0.5), reach=0)
    assert adjustment.n_samples == 0
