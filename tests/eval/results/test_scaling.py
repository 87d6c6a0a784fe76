"""Laws of scale: the fit, its intervals, crossings and refusals, by hand and by plain code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import least_squares, nnls
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from cosmos_eval.stats.estimates import Values
from cosmos_eval.stats.scaling import (
    FittedLadder,
    Ladder,
    Law,
    find_crossing,
    fit_ladders,
    fit_law,
    refusal_of_prediction,
    require_enough_budgets,
)
from cosmos_eval.types import Interval

BUDGETS = 1000 * 2.0 ** np.arange(5)


def make_ladder(
    errors: Values, seeds_change: Values | None = None, held_out: int = 0, **fields: Any
) -> Ladder:
    """A ladder with the mean errors (B,), and trainings that differ by (B, k) from them."""
    if seeds_change is None:
        seeds_change = np.zeros((len(errors), 1))
    k = seeds_change.shape[1]
    return Ladder(
        budgets=BUDGETS[: len(errors)],
        errors=tuple(np.asarray(errors)[:, None] + seeds_change),
        seeds=(np.arange(k),) * len(errors),
        is_fitted=np.arange(len(errors)) < len(errors) - held_out,
    )._replace(**fields)


def fit_one(ladder: Ladder, covariance: Values | float = 0.0, **options: int) -> FittedLadder:
    n = int(ladder.counts.sum())
    (fitted,) = fit_ladders([ladder], np.broadcast_to(covariance, (n, n)), **options)
    return fitted


def power_law(floor: float, drop: float, exponent: float, n: int = 5) -> Values:
    errors: Values = floor + drop * 2.0 ** (-exponent * np.arange(n))
    return errors


def test_an_exact_law_is_recovered() -> None:
    # 0.1 + 0.5 / C for C = 1, 2, 4 and 8
    laws = fit_law(np.array([1.0, 2, 4, 8]), np.array([[0.6, 0.35, 0.225, 0.1625]]), np.ones(4))
    assert laws.floor[0] == pytest.approx(0.1, abs=1e-6)
    assert laws.scale[0] == pytest.approx(0.5, abs=1e-6)
    assert laws.exponent[0] == pytest.approx(1, abs=1e-6)
    assert laws.error_at(16)[0] == pytest.approx(0.13125, abs=1e-6)
    law = fit_one(make_ladder(power_law(0.2, 0.5, 0.35))).law
    assert law.floor == pytest.approx(0.2, abs=1e-5)
    assert law.scale == pytest.approx(0.5 * 1000**0.35, rel=1e-4)
    assert law.exponent == pytest.approx(0.35, abs=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_the_fit_is_that_of_a_plain_search(seed: int) -> None:
    random = np.random.default_rng(seed)
    errors = power_law(0.05 * (seed % 2), 0.6, 0.5) + random.normal(0, 0.03, 5)
    weights = random.uniform(0.5, 2, 5)
    laws = fit_law(BUDGETS, errors[None], weights)
    loss = float(weights @ (laws.error_at(BUDGETS[:, None])[:, 0] - errors) ** 2)

    # Non-negative least squares for E and the drop, for each of many exponents.
    roots = np.sqrt(weights)
    losses = []
    exponents = np.geomspace(0.01, 4, 4000)
    for exponent in exponents:
        columns = np.stack([np.ones(5), (BUDGETS / BUDGETS[0]) ** -exponent], axis=1)
        losses.append(nnls(roots[:, None] * columns, roots * errors)[1] ** 2)
    assert loss <= min(losses) * (1 + 1e-4) + 1e-12
    assert laws.exponent[0] == pytest.approx(exponents[np.argmin(losses)], rel=0.01)

    # Bounded least squares from several starts.
    def residuals(parameters: Values) -> Values:
        floor, drop, exponent = parameters
        values: Values = roots * (floor + drop * (BUDGETS / BUDGETS[0]) ** -exponent - errors)
        return values

    bounds = ([0, 0, 0.01], [1, 2, 4])
    starts = [(0.02, 0.5, exponent) for exponent in (0.1, 0.5, 1, 2)]
    costs = [2 * least_squares(residuals, start, bounds=bounds).cost for start in starts]
    assert loss == pytest.approx(min(costs), rel=1e-3, abs=1e-9)


def test_rising_errors_fall_by_nothing() -> None:
    laws = fit_law(BUDGETS, np.array([[0.1, 0.2, 0.3, 0.4, 0.5]]), np.ones(5))
    assert (laws.floor[0], laws.drop[0]) == pytest.approx((0.3, 0))


def test_the_images_move_all_budgets_alike() -> None:
    """If the images move all errors by the same amount, they move E by it, and every prediction."""
    fitted = fit_one(make_ladder(power_law(0.3, 0.4, 0.8)), 0.01**2, resamples=4000)
    assert fitted.method == "parametric bootstrap over images"
    assert fitted.misfit_p is None
    for budget in (BUDGETS[0], BUDGETS[-1], 2 * BUDGETS[-1]):
        interval = fitted.mean_interval(budget)
        error = float(fitted.law.error_at(budget))
        assert (interval.high - error) / 0.01 == pytest.approx(1.96, abs=0.12)
        assert (error - interval.low) / 0.01 == pytest.approx(1.96, abs=0.12)
    held_out = make_ladder(power_law(0.3, 0.4, 0.8), held_out=1)
    # The same images move the held-out budget as well, so that nothing remains.
    interval = fit_one(held_out, 0.01**2).held_out_interval(4)
    assert interval.high - interval.low < 0.002


def test_the_variance_of_seeds_by_hand() -> None:
    """e (1 - e) is 0.25, and 2 * 0.1^2 / 0.25 is 0.08, with one degree of freedom per budget."""
    errors = np.full(4, 0.5)
    change = np.array([[0.1, -0.1]] * 4)
    spread = fit_one(make_ladder(errors, change)).spread
    assert spread.factor == pytest.approx(0.08)
    # The seeds have the same sign everywhere: four budgets count as one.
    assert (spread.correlation, spread.dof) == pytest.approx((1, 1))
    assert spread.test_dof == 3  # (seeds - 1) * (budgets - 1)
    opposite = change * np.array([[1], [-1], [1], [-1]])
    spread = fit_one(make_ladder(errors, opposite)).spread
    assert (spread.correlation, spread.dof) == (0, 4)
    # The variance is pooled over budgets: (0.08 + 0.08 + 0.32 + 0.32) / 4.
    change[2:] *= 2
    assert fit_one(make_ladder(errors, change)).spread.factor == pytest.approx(0.2)
    different_seeds = tuple(np.array([2 * index, 2 * index + 1]) for index in range(4))
    spread = fit_one(make_ladder(errors, change, seeds=different_seeds)).spread
    assert (spread.correlation, spread.dof, spread.test_dof) == (0, 4, 4)


def test_intervals_hold_the_truth() -> None:
    """In about 95% of studies, a held-out mean of three trainings lies in its interval, but in
    fewer if intervals are half as wide."""
    random = np.random.default_rng(0)
    truth = power_law(0.05, 0.6, 0.5)
    sd = 0.06 * np.sqrt(truth * (1 - truth))[:, None]
    distances = []  # from the middle, in half-widths
    for study in range(60):
        change = sd * random.standard_normal((5, 3))
        fitted = fit_one(make_ladder(truth, change, held_out=1), resamples=400, seed=study)
        pairs = (
            (fitted.held_out_interval(4), fitted.ladder.means[4]),
            (fitted.mean_interval(BUDGETS[4]), truth[4]),
            (fitted.training_interval(BUDGETS[4]), fitted.ladder.errors[4][0]),
            (fitted.parameter_interval("exponent"), 0.5),
        )
        distances.append(
            [
                abs(value - (interval.low + interval.high) / 2) / (interval.high - interval.low) * 2
                for interval, value in pairs
            ]
        )
    assert (np.mean(np.array(distances) <= 1, axis=0) >= 0.88).all()
    assert (np.mean(np.array(distances) <= 0.5, axis=0) <= 0.88).all()


def test_errors_that_fall_faster_than_a_law() -> None:
    """A line in log odds falls faster and faster: predictions allow for it, or are refused."""
    random = np.random.default_rng(2)
    line = 1 / (1 + np.exp(-1 + 0.6 * np.arange(6)))
    n_refused, n_inside = 0, 0
    for study in range(10):
        noise = 0.06 * np.sqrt(line[:5] * (1 - line[:5]))[:, None] * random.standard_normal((5, 3))
        fitted = fit_one(make_ladder(line[:5], noise), resamples=400, seed=study)
        budget = float(2 * BUDGETS[-1])
        interval = fitted.mean_interval(budget)
        n_refused += fitted.misfit_p is not None and fitted.misfit_p < 0.05
        n_inside += interval.low <= line[5] <= interval.high
        assert line[5] < fitted.law.error_at(budget)
    assert n_refused >= 4
    assert n_inside >= 7
    assert fit_one(make_ladder(power_law(0.3, 0.4, 0.8))).steeper is None


def bent_cooldowns() -> Ladder:
    """Cooldowns of three runs, whose errors lie 0.02 above and below a law in turn."""
    change = 0.05 * np.array([[-1, 0, 1]]) + 0.004 * np.random.default_rng(0).normal(size=(5, 3))
    errors = power_law(0.3, 0.4, 0.8) + 0.02 * np.array([1, -1, 1, -1, 1])
    return make_ladder(errors, change)


def test_the_misfit_counts_that_cooldowns_share_a_run() -> None:
    """The p-value is twice that of an F test with the covariance of means by plain sums."""
    ladder = bent_cooldowns()
    image_variance = 0.01**2 * np.eye(15) + 0.005**2
    fitted = fit_one(ladder, image_variance)
    factor, correlation = fitted.spread.factor, fitted.spread.correlation
    assert correlation > 0.8
    errors = fitted.law.error_at(BUDGETS)
    # The noise of single images, 0.01^2, is in the variance between seeds, too.
    variances = factor * errors * (1 - errors) - 0.01**2
    covariance = np.zeros((5, 5))
    for i in range(5):
        for j in range(5):
            for seed_i in range(3):
                for seed_j in range(3):
                    covariance[i, j] += 0.005**2 / 9
                    if seed_i == seed_j and i == j:
                        covariance[i, j] += (variances[i] + 0.01**2) / 9
                    elif seed_i == seed_j:
                        covariance[i, j] += correlation * math.sqrt(variances[i] * variances[j]) / 9
    residuals = ladder.means - errors
    deviation = residuals @ np.linalg.inv(covariance) @ residuals
    # Two degrees of freedom of the misfit, and (3 seeds - 1) * (5 budgets - 1) of the variance.
    assert fitted.misfit_p == pytest.approx(2 * f_distribution.sf(deviation / 2, 2, 8), rel=1e-4)


def test_the_misfit_counts_the_distance_to_a_negative_floor_once() -> None:
    """The F test is of the best fit whose E may be negative, and E >= 0 has a test of its own."""
    bend = 0.05 * np.array([1, -1, 1, -1, 1])
    noise = 0.03 * np.random.default_rng(3).standard_normal((5, 3))
    seeds = tuple(np.arange(3) + 3 * index for index in range(5))
    fitted = fit_one(make_ladder(np.array([0.8, 0.6, 0.42, 0.25, 0.1]) + bend, noise, seeds=seeds))
    errors = fitted.law.error_at(BUDGETS)
    deviations = np.sqrt(fitted.spread.factor * errors * (1 - errors) / 3)

    def residuals(parameters: Values) -> Values:
        floor, drop, exponent = parameters
        law = floor + drop * (BUDGETS / BUDGETS[0]) ** -exponent
        standardised: Values = (law - fitted.ladder.means) / deviations
        return standardised

    free = least_squares(residuals, (0.1, 0.7, 0.5), bounds=([-5, 0, 0.01], [1, 6, 4]))
    assert free.x[0] < 0 == fitted.law.floor
    bounded_squares = float(np.sum(((errors - fitted.ladder.means) / deviations) ** 2))
    free_squares = 2 * free.cost
    dof = fitted.spread.test_dof
    any_p = f_distribution.sf(free_squares / 2, 2, dof)
    negative_floor_p = t_distribution.sf(math.sqrt(bounded_squares - free_squares), dof)
    assert fitted.misfit_p == pytest.approx(2 * min(any_p, negative_floor_p), rel=0.02)
    # From the law with E = 0, the F test would count the distance to E < 0, too.
    assert 2 * f_distribution.sf(bounded_squares / 2, 2, dof) < 0.9 * fitted.misfit_p


def test_deviations_of_cooldowns_are_shown() -> None:
    """A run moves all its cooldowns alike, so that it cannot explain a bend; other seeds can."""
    ladder = bent_cooldowns()
    misfit_p = fit_one(ladder).misfit_p
    assert misfit_p is not None
    assert misfit_p < 0.05
    different_seeds = tuple(np.arange(3 * index, 3 * index + 3) for index in range(5))
    misfit_p = fit_one(ladder._replace(seeds=different_seeds)).misfit_p
    assert misfit_p is not None
    assert misfit_p > 0.5


def test_a_missing_cooldown_does_not_reject_true_laws() -> None:
    """If budgets differ in their seeds, their correlation does not count."""
    random = np.random.default_rng(1)
    truth = power_law(0.05, 0.6, 0.5)
    sd = 0.06 * np.sqrt(truth * (1 - truth))[:, None]
    n_rejected = 0
    for study in range(100):
        runs, cooldowns = random.standard_normal((1, 3)), random.standard_normal((5, 3))
        ladder = make_ladder(truth, sd * (math.sqrt(0.95) * runs + math.sqrt(0.05) * cooldowns))
        errors = (*ladder.errors[:4], ladder.errors[4][:2])
        seeds = (*ladder.seeds[:4], ladder.seeds[4][:2])
        misfit_p = fit_one(
            ladder._replace(errors=errors, seeds=seeds), resamples=2, seed=study
        ).misfit_p
        assert misfit_p is not None
        n_rejected += misfit_p < 0.05
    assert n_rejected <= 10


def test_a_crossing_by_hand() -> None:
    """0.5 (C / 1000)^-0.5 and (C / 1000)^-1 are equal at C = 4000."""
    slow, steep = (make_ladder(power_law(0, drop, e)) for drop, e in ((0.5, 0.5), (0.999, 1.0)))
    a, b = fit_ladders([slow, steep], np.zeros((10, 10)))
    crossing = find_crossing(a, b)
    assert crossing.budget == pytest.approx(4000, rel=0.01)
    assert (crossing.low, crossing.high) == pytest.approx((4000, 4000), rel=0.01)
    assert (crossing.lower_at_end, crossing.crosses, crossing.is_below) == ("B", True, False)
    crossing = find_crossing(b, a)
    assert (crossing.lower_at_end, crossing.crosses) == ("A", True)
    below = fit_ladders([slow, make_ladder(power_law(0, 0.25, 0.5))], np.zeros((10, 10)))
    crossing = find_crossing(*below)
    assert (crossing.budget, crossing.lower_at_end) == (None, "B")
    assert (crossing.crosses, crossing.is_below) == (False, True)


def test_equal_methods_do_not_cross() -> None:
    random = np.random.default_rng(1)
    truth = power_law(0.05, 0.6, 0.5)
    sd = 0.06 * np.sqrt(truth * (1 - truth))[:, None]
    for study in range(5):
        ladders = [make_ladder(truth, sd * random.standard_normal((5, 3))) for _ in range(2)]
        crossing = find_crossing(
            *fit_ladders(ladders, np.zeros((30, 30)), seed=study, resamples=400)
        )
        assert not crossing.crosses


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ([1, 2, 4], "3 budgets, and a law with three parameters needs 4 or more"),
        ([1, 1.2, 2, 3.5], "the largest budget is 3.5 x the smallest, and a law needs 4 x"),
    ],
)
def test_too_few_budgets_are_refused(budgets: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_enough_budgets(np.array(budgets))


def refusal(fitted: FittedLadder, budget: float) -> str:
    return refusal_of_prediction(fitted, budget, fitted.mean_interval(budget))


def test_predictions_that_are_refused() -> None:
    random = np.random.default_rng(0)
    noise = 0.01 * random.standard_normal((5, 3))
    fitted = fit_one(make_ladder(power_law(0.1, 0.6, 0.5), noise))
    largest = float(BUDGETS[-1])
    assert refusal(fitted, 4 * largest) == ""
    assert "8 x the largest fitted budget, and predictions reach to 4 x" in refusal(
        fitted, 8 * largest
    )
    assert "below the smallest" in refusal(fitted, BUDGETS[0] / 2)
    flat = fit_one(make_ladder(np.full(5, 0.4), noise))
    assert not flat.falls
    assert "the interval of alpha includes 0" in refusal(flat, largest)
    jump = fit_one(make_ladder(np.array([0.8, 0.79, 0.78, 0.2, 0.19]), noise))
    assert jump.misfit_p is not None
    assert jump.misfit_p < 0.001
    assert "the trainings deviate from the law (p = " in refusal(jump, largest)
    wide = Interval(0.1, 0.7, "", 0.95)  # measured errors are from 0.7 to 0.25
    reason = refusal_of_prediction(fitted, largest, wide)
    assert reason == "the interval is wider than the range of the measured errors"


def test_errors_without_a_bound() -> None:
    """Mean ranks are errors, too: their sd is taken to be proportional to them."""
    errors = 100 * power_law(0.1, 2, 0.5)
    change = 0.05 * errors[:, None] * np.array([-1, 0, 1])
    fitted = fit_one(make_ladder(errors, change, are_fractions=False))
    assert fitted.law.exponent == pytest.approx(0.5, abs=0.01)
    assert fitted.spread.factor == pytest.approx(0.05**2, rel=0.02)
    assert math.isfinite(fitted.mean_interval(BUDGETS[-1]).high)


def test_errors_of_fractions_are_at_most_1() -> None:
    """Two trainings of one budget hardly show how much seeds vary."""
    change = np.zeros((5, 2))
    change[0] = [0.1, -0.1]
    interval = fit_one(make_ladder(power_law(0.1, 0.8, 0.5), change)).training_interval(BUDGETS[0])
    assert interval.high == 1


def test_a_law_in_other_units() -> None:
    law = Law(0.1, 0.5, 0.5, 100.0)
    assert law.scale == pytest.approx(5)
    assert law.error_at(400) == pytest.approx(0.1 + 5 / 20)
