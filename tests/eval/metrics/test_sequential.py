"""Confidence sequences and early answers: by hand, by plain loops and by simulation."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from cosmos_eval.stats.paired import PairedDifference
from cosmos_eval.stats.sequential import (
    BETS,
    AsymptoticSequence,
    BoundedSequence,
    SetDecision,
    correct_over_sets,
    decide,
    start_for_classes,
)

ALPHA = 0.05


def sequence_of(*looks: list[float], low: float = -1, high: float = 1) -> BoundedSequence:
    """Return a sequence that was asked about a mean of 0 before its first look."""
    sequence = BoundedSequence(low, high)
    sequence.log_e_above(0)
    sequence.log_e_below(0)
    for look in looks:
        sequence.update(np.array(look))
    return sequence


def capital(values: list[float], mean: float, low: float) -> float:
    """Return the mean capital of all bets against "the mean is at most `mean`", bet by bet."""
    capitals = []
    for bet in BETS:
        product = 1.0
        for value in values:
            product *= 1 + bet * (value - mean) / (mean - low)
        capitals.append(product)
    return sum(capitals) / len(capitals)


def paired(n: int, difference: float, error: float) -> PairedDifference:
    return PairedDifference(difference, 0, difference, error, n - 1, 1.0, n, "paired jackknife")


class Evidence(NamedTuple):
    """A comparison with given p-values, the same for all means."""

    above: float
    below: float

    def log_e_above(self, mean: float) -> float:
        return -math.log(self.above)

    def log_e_below(self, mean: float) -> float:
        return -math.log(self.below)

    def interval(self, alpha: float) -> tuple[float, float]:
        raise AssertionError


# The capital


def test_bets_are_a_geometric_series():
    series = [(1 / 128) * (0.98 * 128) ** (k / 23) for k in range(24)]
    assert BETS.tolist() == pytest.approx(series)


def test_capital_after_two_samples_by_hand():
    sequence = sequence_of([1], [-1])
    # 1 + s after the first sample, then (1 + s) (1 - s).
    assert sequence.log_e_above(0) == pytest.approx(math.log(1 + sum(BETS) / 24))
    lost = sum(bet**2 for bet in BETS) / 24
    assert sequence.log_e_value(0) == pytest.approx(math.log(1 - lost))
    assert sequence.log_e_below(0) == 0  # it began with 1 and was never above


def test_capital_by_hand_with_other_bounds():
    sequence = BoundedSequence(0, 2)
    sequence.update(np.array([2.0]))
    # A bet of s on (2 - 0.5) / (0.5 - 0), and on (0.5 - 2) / (2 - 0.5) for the other side.
    assert sequence.log_e_above(0.5) == pytest.approx(math.log(1 + 3 * sum(BETS) / 24))
    mean_of_sides = (1 + 3 * sum(BETS) / 24 + 1 - sum(BETS) / 24) / 2
    assert sequence.log_e_value(0.5) == pytest.approx(math.log(mean_of_sides))


@pytest.mark.parametrize("values", [[-1.0, 0.0, 1.0], [-0.4, 0.1, 0.25, 0.3, 1.0]])
def test_capital_is_that_of_a_plain_loop(values):
    rng = np.random.default_rng(0)
    looks = [rng.choice(values, 7).tolist() for _ in range(9)]
    means = [-0.3, 0.0, 0.125]
    sequence = BoundedSequence(-1, 1)
    for mean in means:
        sequence.log_e_above(mean)
        sequence.log_e_below(mean)
    # The highest capitals at any look; all begin with 1.
    highest_above = dict.fromkeys(means, 1.0)
    highest_below = dict.fromkeys(means, 1.0)
    samples: list[float] = []
    for look in looks:
        sequence.update(np.array(look))
        samples += look
        for mean in means:
            above = capital(samples, mean, -1)
            below = capital([-value for value in samples], -mean, -1)
            highest_above[mean] = max(above, highest_above[mean])
            highest_below[mean] = max(below, highest_below[mean])
            assert sequence.log_e_value(mean) == pytest.approx(math.log((above + below) / 2))
            assert sequence.log_e_above(mean) == pytest.approx(math.log(highest_above[mean]))
            assert sequence.log_e_below(mean) == pytest.approx(math.log(highest_below[mean]))
    assert sequence.n_samples == 63


def test_a_mean_that_is_asked_for_late_has_all_samples_but_not_all_looks():
    values = [1.0, 1.0, -1.0, -1.0]
    late = BoundedSequence(-1, 1)
    late.update(np.array(values[:2]))
    late.update(np.array(values[2:]))
    assert late.log_e_above(0.0) == max(0.0, math.log(capital(values, 0.0, -1)))
    late.update(np.array([1.0, 1.0, 1.0]))
    now = capital([*values, 1, 1, 1], 0.0, -1)
    assert late.log_e_above(0.0) == pytest.approx(math.log(now))


# Intervals


def test_ends_are_the_outermost_means_that_are_rejected():
    values = [1.0] * 30 + [0.0] * 60 + [-1.0] * 10
    sequence = BoundedSequence(-1, 1)
    sequence.update(np.array(values))
    low, high = sequence.interval(ALPHA)
    assert low < 0.2 < high
    resolution = 2 / 2**20
    negative = [-value for value in values]
    assert capital(values, low, -1) >= 2 / ALPHA > capital(values, low + 2 * resolution, -1)
    assert capital(negative, -high, -1) >= 2 / ALPHA
    assert capital(negative, -high + 2 * resolution, -1) < 2 / ALPHA


def test_intervals_are_within_all_earlier_ones():
    rng = np.random.default_rng(1)
    sequence = BoundedSequence(-1, 1)
    assert sequence.interval(ALPHA) == (-1, 1)
    low, high = -1.0, 1.0
    for _ in range(40):
        sequence.update(rng.choice([-1, 0, 1], 25, p=[0.1, 0.8, 0.1]))
        new_low, new_high = sequence.interval(ALPHA)
        assert low <= new_low <= new_high <= high
        narrow_low, narrow_high = sequence.interval(0.2)
        assert new_low <= narrow_low <= narrow_high <= new_high
        low, high = new_low, new_high
    assert high - low < 0.12


def test_an_interval_agrees_with_an_answer_of_an_earlier_look():
    sequence = sequence_of([1.0] * 12, [-1.0, -1.0, 0.0])
    assert decide(sequence) == "A better"
    assert sequence.log_e_value(0) < math.log(1 / ALPHA)
    assert sequence.interval(ALPHA)[0] == 0


def test_an_empty_interval_is_a_point():
    sequence = BoundedSequence(-1, 1)
    for sign in (1, -1):
        sequence.update(np.full(5000, sign))
        sequence.interval(ALPHA)
    low, high = sequence.interval(ALPHA)
    assert -1 < low == high < 1


def test_many_distinct_values_only_widen_the_interval():
    values = np.random.default_rng(2).beta(5, 4, 9000) - 0.5
    sequence = BoundedSequence(-1, 1)
    for chunk in values.reshape(9, 1000):
        sequence.update(chunk)
    low, high = sequence.interval(ALPHA)
    step = 2 / 4096
    # The plain capital of all values, as a sum of logarithms.
    for sign, end in ((1, low), (-1, -high)):

        def log_capital(mean: float, sign: int = sign) -> float:
            gains = [np.log1p(bet * (sign * values - mean) / (mean + 1)).sum() for bet in BETS]
            return float(np.logaddexp.reduce(gains)) - math.log(24)

        assert log_capital(end) >= math.log(2 / ALPHA)
        assert log_capital(end + 1.5 * step) < math.log(2 / ALPHA)


@pytest.mark.parametrize(
    ("values", "shares"),
    [([-1, 0, 1], [0.05, 0.9, 0.05]), ([-0.02, 0.98], [0.98, 0.02]), ([-0.7, 0.1, 0.4], None)],
)
def test_the_true_mean_is_never_rejected_in_95_percent(values, shares):
    """Also of skewed values. 400 replays: two standard errors are 2.2 points."""
    rng = np.random.default_rng(3)
    shares = [1 / len(values)] * len(values) if shares is None else shares
    truth = float(np.dot(values, shares))
    missed = 0
    for _ in range(400):
        sequence = BoundedSequence(-1, 1)
        sequence.log_e_above(truth)
        sequence.log_e_below(truth)
        for look in rng.choice(values, (20, 25), p=shares):
            sequence.update(look)
        log_e = max(sequence.log_e_above(truth), sequence.log_e_below(truth))
        missed += log_e >= math.log(2 / ALPHA)
    assert missed / 400 <= 0.072


# Bad input


@pytest.mark.parametrize("bounds", [(1, 1), (1, -1), (-math.inf, 1), (0, math.nan)])
def test_bounds_must_rise(bounds):
    with pytest.raises(ValueError, match="must be finite and rise"):
        BoundedSequence(*bounds)


@pytest.mark.parametrize("value", [1.001, -1.5, math.nan, math.inf])
def test_values_out_of_bounds_change_nothing(value):
    sequence = sequence_of([1.0, 1.0])
    before = sequence.log_e_above(0)
    with pytest.raises(ValueError, match=r"a difference of .* is not within -1.0 to 1.0"):
        sequence.update(np.array([0.0, value]))
    assert (sequence.n_samples, sequence.log_e_above(0)) == (2, before)


def test_other_bad_input():
    sequence = BoundedSequence(-1, 1)
    with pytest.raises(ValueError, match="one dimension, not 2"):
        sequence.update(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="slack must be 0 or more"):
        sequence.update(np.zeros(2), slack=-0.1)
    with pytest.raises(ValueError, match="is not within"):
        sequence.update(np.array([0.95]), slack=0.1)
    for mean in (-1, 1, 3, math.nan):
        with pytest.raises(ValueError, match=r"is not between -1.0 and 1.0"):
            sequence.log_e_above(mean)
    for alpha in (0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match="alpha must be between 0 and 1"):
            sequence.interval(alpha)
        with pytest.raises(ValueError, match="alpha must be between 0 and 1"):
            decide(sequence, alpha)
        with pytest.raises(ValueError, match="alpha must be between 0 and 1"):
            correct_over_sets({"a": sequence}, alpha)
    for margin in (0, -0.1, math.nan):
        with pytest.raises(ValueError, match="margin must be above 0"):
            decide(sequence, ALPHA, margin)
    sequence.update(np.empty(0))
    assert sequence.interval(ALPHA) == (-1, 1)


def test_slack_moves_both_sides_away():
    values = [1.0] * 8 + [0.0] * 12
    sequence = BoundedSequence(-1.5, 1.5)
    sequence.update(np.array(values), slack=0.125)
    moved = [value - 0.125 for value in values]
    assert sequence.log_e_above(0) == pytest.approx(math.log(capital(moved, 0, -1.5)))
    sequence = BoundedSequence(-1.5, 1.5)
    sequence.update(-np.array(values), slack=0.125)
    assert sequence.log_e_below(0) == pytest.approx(math.log(capital(moved, 0, -1.5)))


# Answers


def test_answers_are_those_of_the_interval():
    rng = np.random.default_rng(4)
    margin, answers = 0.05, set()
    for difference in (0.0, 0.0, 0.06, -0.06, 0.3, -0.3):
        sequence = sequence_of()
        sequence.log_e_above(-margin)
        sequence.log_e_below(margin)
        shares = [0.2 - difference / 2, 0.6, 0.2 + difference / 2]
        for _ in range(60):
            sequence.update(rng.choice([-1, 0, 1], 50, p=shares))
            low, high = sequence.interval(ALPHA)
            answer = decide(sequence, ALPHA, margin)
            if low >= 0:
                assert answer == "A better"
            elif high <= 0:
                assert answer == "B better"
            else:
                is_same = low >= -margin and high <= margin
                assert answer == ("same" if is_same else "undecided")
            assert (decide(sequence, ALPHA) == "same") is False
            answers.add(answer)
    assert answers == {"A better", "B better", "same", "undecided"}


def test_an_answer_needs_half_of_alpha():
    assert decide(Evidence(0.0249, 1)) == "A better"
    assert decide(Evidence(1, 0.0249)) == "B better"
    assert decide(Evidence(0.0251, 0.0251), margin=0.1) == "undecided"
    assert decide(Evidence(0.001, 0.0001)) == "B better"  # the one with more evidence
    assert decide(Evidence(0.04, 1), 0.1) == "A better"


class Margins(NamedTuple):
    """A comparison whose difference is within a margin with a p-value for each side."""

    above: float
    below: float

    def log_e_above(self, mean: float) -> float:
        return -math.log(self.above) if mean == -0.02 else 0.0

    def log_e_below(self, mean: float) -> float:
        return -math.log(self.below) if mean == 0.02 else 0.0

    def interval(self, alpha: float) -> tuple[float, float]:
        raise AssertionError


def test_same_needs_both_sides_of_the_margin():
    assert decide(Margins(0.024, 0.024), ALPHA, 0.02) == "same"
    assert decide(Margins(0.024, 0.026), ALPHA, 0.02) == "undecided"
    assert decide(Margins(0.026, 0.024), ALPHA, 0.02) == "undecided"
    assert decide(Margins(0.024, 0.024), ALPHA) == "undecided"


def test_holm_over_sides_by_hand():
    # Four sides: 0.05 / 4 = 0.0125, 0.05 / 3 = 0.0167, 0.05 / 2 = 0.025.
    sequences = {"a": Evidence(0.012, 1), "b": Evidence(1, 0.016)}
    decided = SetDecision("A better", 0.05), SetDecision("B better", 0.05)
    assert correct_over_sets(sequences) == dict(zip("ab", decided, strict=True))
    # The second fails: it leaves three sides.
    answers = correct_over_sets({"a": Evidence(0.012, 1), "b": Evidence(1, 0.017)})
    assert [answer.decision for answer in answers.values()] == ["A better", "undecided"]
    assert answers["a"].alpha == pytest.approx(0.1 / 3)
    # Nothing is rejected if the smallest is not.
    answers = correct_over_sets({"a": Evidence(0.013, 1), "b": Evidence(1, 0.013)})
    assert [answer.decision for answer in answers.values()] == ["undecided"] * 2
    assert answers["b"].alpha == pytest.approx(0.025)
    assert correct_over_sets({}) == {}


def test_same_is_corrected_and_frees_no_side():
    sequences = {"a": Margins(0.012, 0.012), "b": Evidence(0.013, 1)}
    answers = correct_over_sets(sequences, margins={"a": 0.02})
    assert [answer.decision for answer in answers.values()] == ["same", "undecided"]
    sequences["a"] = Margins(0.013, 0.012)
    assert correct_over_sets(sequences, margins={"a": 0.02})["a"].decision == "undecided"
    # Without a margin of its own, a set is never the same.
    sequences["a"] = Margins(0.001, 0.001)
    assert correct_over_sets(sequences, margins={"b": 0.02})["a"].decision == "undecided"


def test_one_set_is_not_corrected():
    for p in (0.0249, 0.0251):
        alone = SetDecision(decide(Evidence(p, 1)), 0.05)
        assert correct_over_sets({"a": Evidence(p, 1)}) == {"a": alone}


def test_any_wrong_answer_of_four_sets_that_stop_at_their_own_time():
    """On sets a, b and c the models are equal, on set d there is a difference.

    At most 7.5% of 300 replays have a wrong answer: 5% and two standard errors.
    """
    rng = np.random.default_rng(5)
    wrong_answers = right_answers = 0
    for _ in range(300):
        sequences = {name: sequence_of() for name in "abcd"}
        for _ in range(12):
            answers = correct_over_sets(sequences)
            for name, sequence in sequences.items():
                if answers[name].decision == "undecided":
                    shares = [0.15, 0.5, 0.35] if name == "d" else [0.25, 0.5, 0.25]
                    sequence.update(rng.choice([-1, 0, 1], 25, p=shares))
        answers = correct_over_sets(sequences)
        wrong_answers += any(answers[name].decision != "undecided" for name in "abc")
        right_answers += answers["d"].decision == "A better"
    assert wrong_answers / 300 <= 0.075
    assert right_answers / 300 > 0.5


# Asymptotic sequences


def test_log_e_is_the_integral_over_a_half_normal_prior():
    sequence = AsymptoticSequence(100, tightest_at=439)
    prior_sd = math.sqrt(8.78 / 439)
    for n, z in ((100, 2.5), (700, -1.0), (5000, 4.0)):

        def weighted(bet: float, n: int = n, z: float = z) -> float:
            prior = 2 * stats.norm.pdf(bet, scale=prior_sd)
            return prior * math.exp(bet * z * math.sqrt(n) - n * bet**2 / 2)

        mixture = quad(weighted, 0, 2, points=[0.05, 0.2], limit=500)[0]
        assert sequence.log_e_of(np.array(z), np.array(n)) == pytest.approx(math.log(mixture))


def test_looks_before_the_start_do_not_count():
    sequence = AsymptoticSequence(100)
    sequence.update(paired(99, 0.5, 0.01))
    assert sequence.interval(ALPHA) == (-math.inf, math.inf)
    assert (sequence.log_e_above(0), sequence.log_e_below(0)) == (0, 0)
    assert decide(sequence, ALPHA, 0.6) == "undecided"
    sequence.update(paired(100, 0.5, 0.0))  # nothing varies
    sequence.update(paired(100, math.nan, 0.1))
    assert sequence.interval(ALPHA) == (-math.inf, math.inf)
    sequence.update(paired(100, 0.5, 0.01))
    low, high = sequence.interval(ALPHA)
    assert 0.45 < low < 0.48
    assert low + high == pytest.approx(1.0)
    assert decide(sequence) == "A better"


def test_interval_is_where_the_e_values_reject():
    sequence = AsymptoticSequence(50)
    for n, difference, error in ((60, 0.1, 0.02), (200, 0.04, 0.01), (300, 0.05, 0.009)):
        sequence.update(paired(n, difference, error))
    low, high = sequence.interval(ALPHA)
    threshold = math.log(2 / ALPHA)
    assert sequence.log_e_above(low) == pytest.approx(threshold, abs=1e-6)
    assert sequence.log_e_below(high) == pytest.approx(threshold, abs=1e-6)
    assert sequence.log_e_below(low) == 0
    # The low end comes from the first or last look, the high end from the second.
    second = AsymptoticSequence(50)
    second.update(paired(200, 0.04, 0.01))
    assert second.interval(ALPHA)[1] == high
    assert second.interval(ALPHA)[0] < low
    assert second.log_e_above(second.interval(0.9)[0]) == pytest.approx(math.log(2 / 0.9), abs=1e-6)


def test_asymptotic_looks_that_exclude_each_other_leave_a_point():
    sequence = AsymptoticSequence(50)
    sequence.update(paired(100, 0.5, 0.001))
    sequence.update(paired(200, -0.5, 0.001))
    low, high = sequence.interval(ALPHA)
    assert low == high == pytest.approx(0, abs=0.01)


def test_asymptotic_errors_of_a_mean():
    """400 replays of 2,000 normal values, a look every 50: two standard errors are 2.2 points."""
    rng = np.random.default_rng(6)
    n = np.arange(50, 2001, 50)
    wrong = 0
    for _ in range(400):
        values = rng.normal(0.3, 1, 2000)
        sequence = AsymptoticSequence(100)
        for count in n:
            so_far = values[:count]
            sequence.update(paired(count, so_far.mean(), so_far.std(ddof=1) / math.sqrt(count)))
        low, high = sequence.interval(ALPHA)
        wrong += not low <= 0.3 <= high
    assert wrong / 400 <= 0.072
    assert high - low < 0.2


def test_bad_looks():
    with pytest.raises(ValueError, match="two samples or more, not 1"):
        AsymptoticSequence(1)
    sequence = AsymptoticSequence(10)
    sequence.update(paired(20, 0.1, 0.1))
    with pytest.raises(ValueError, match="19 samples are fewer than 20"):
        sequence.update(paired(19, 0.1, 0.1))


def test_the_start_by_the_rarest_class():
    assert start_for_classes(np.array([500, 500]), 1000) == 500
    assert start_for_classes(np.array([20, 990]), 1000) == 500
    assert start_for_classes(np.array([5, 0, 990]), 1000) == 2000
    assert start_for_classes(np.array([7, 990]), 1000) == 1429
    with pytest.raises(ValueError, match="no class has samples"):
        start_for_classes(np.array([0, 0]), 10)
