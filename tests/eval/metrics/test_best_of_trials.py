"""The best of n trials and the share of a factor, on cases solved by hand."""

from itertools import combinations

import numpy as np
import pytest

from cosmos_eval.stats.tuning import best_of, explained


def test_best_of_three_scores():
    best = best_of(np.array([4.0, 1.0, 2.0]))
    # Of two: 1 2, 1 4, 2 4.
    assert best.expected == pytest.approx([7 / 3, 10 / 3, 4])
    assert best.low.tolist() == [1, 2, 4]
    assert best.high.tolist() == [4, 4, 4]


def test_bounds_are_quantiles_of_the_best():
    # The best of two of four is 2 once, 3 twice and 4 three times of six.
    best = best_of(np.array([1.0, 2.0, 3.0, 4.0]), level=0.5)
    assert (best.low[1], best.high[1]) == (3, 4)
    assert (best.low[3], best.high[3]) == (4, 4)


def test_expected_best_is_the_mean_over_all_choices():
    scores = np.random.default_rng(0).integers(0, 6, 8) / 7  # some are equal
    expected = [np.mean([max(some) for some in combinations(scores, n)]) for n in range(1, 9)]
    assert best_of(scores).expected == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "share"),
    [
        ("aabb", 1.0),
        # Within the values 1/2 + 1/2 over 2 degrees of freedom, in total 1 over 3.
        ("abab", 1 - (1 / 2) / (1 / 3)),
    ],
)
def test_share_of_a_factor(values, share):
    assert explained(np.array([0.0, 0.0, 1.0, 1.0]), list(values)) == pytest.approx(share)


@pytest.mark.parametrize("values", ["aaaa", "abcd"])
def test_share_is_undefined_for_one_value_and_for_as_many_as_trials(values):
    assert np.isnan(explained(np.array([0.0, 0.0, 1.0, 1.0]), list(values)))
