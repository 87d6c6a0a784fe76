"""Predicted numbers, likelihoods and probabilities, from hand-solved cases and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from cosmos_eval.stats.diagnosis import (
    ELSE,
    OTHER_SAMPLES,
    PAIR,
    SINGLE,
    Outcomes,
    Prediction,
    count_tied,
    expected_hits,
    is_chance,
    is_explained_by_precision,
    log_likelihood_of_unknown,
    log_likelihoods,
    log_likelihoods_of_hits,
    precision_noise,
    predict,
    predict_other_samples,
    prior_probabilities,
    probabilities,
)
from cosmos_eval.stats.paired import matched_shares


def test_a_prediction_from_all_samples_is_exact() -> None:
    right, faulty = np.array([1.0, 1, 1, 0]), np.array([0.0, 1, 0, 1])
    prediction = predict(0.75, right, Outcomes(faulty), n_whole=4)
    assert prediction == pytest.approx((0.5, 0.0))


def test_the_error_from_few_of_many_samples_is_that_of_agresti_and_min() -> None:
    """By the fault, 5 samples turn wrong, 2 turn right, 40 stay right, 53 stay wrong."""
    right = np.repeat([1.0, 0, 1, 0], [5, 2, 40, 53])
    faulty = np.repeat([0.0, 1, 1, 0], [5, 2, 40, 53])
    expected = matched_shares(both=40, only_a=5, only_b=2, n=100)
    prediction = predict(0.6, right, Outcomes(faulty), n_whole=10**9)
    assert prediction.value == pytest.approx(0.6 - 0.03)
    # Agresti and Min divide by n + 2.
    assert prediction.error == pytest.approx(expected.error * math.sqrt(102 / 100), rel=1e-6)


def test_the_intervals_of_predictions_cover() -> None:
    """95% of the intervals from 300 of 1,000 samples hold the number of all samples."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        right = (rng.random(1000) < 0.8).astype(float)
        faulty = np.where(rng.random(1000) < 0.3, rng.random(1000) < 0.4, right).astype(float)
        measured = rng.choice(1000, 300, replace=False)
        outcomes = Outcomes(faulty[measured])
        low, high = predict(right.mean(), right[measured], outcomes, 1000).interval
        covered.append(low <= faulty.mean() <= high)
    assert 0.92 <= np.mean(covered) <= 0.99


def test_random_outcomes_have_the_error_of_one_draw() -> None:
    """1,000 samples are right with a probability of a half: an error of sqrt(1/4 / 1000)."""
    right, faulty = np.ones(1000), np.full(1000, 0.5)
    assert predict(1.0, right, Outcomes(faulty), 1000).error == pytest.approx(0.5 / math.sqrt(1000))


def test_other_samples_have_the_error_of_two_draws() -> None:
    right = np.repeat([1.0, 0.0], [80, 20])
    prediction = predict_other_samples(0.8, right, 5000)
    assert prediction == pytest.approx((0.8, math.sqrt(2 * 0.8 * 0.2 / 5000)))


def test_precision_explains_differences_that_changed_samples_explain() -> None:
    """3 of 299 samples change, a share of (3 + 0.5) / 300, so that the noise of 1,000 samples is
    sqrt(0.01167 / 1000)."""
    exact, rounded = np.ones(299), np.ones(299)
    rounded[:3] = 0
    noise = precision_noise(exact, rounded, 1000)
    assert noise == pytest.approx(math.sqrt(3.5 / 300 / 1000))
    assert is_explained_by_precision(0.74, 0.7405 + 1.95 * noise, 0.0005, noise)
    assert not is_explained_by_precision(0.74, 0.7405 + 1.97 * noise, 0.0005, noise)


def test_guessing_has_the_error_of_a_proportion() -> None:
    assert is_chance(0.1 + 1.95 * 0.3 / math.sqrt(500), 0.1, 500)
    assert not is_chance(0.1 + 1.97 * 0.3 / math.sqrt(500), 0.1, 500)


def test_the_likelihood_is_that_of_a_rounded_normal_variable() -> None:
    (likelihood,) = np.exp(log_likelihoods([Prediction(0.5, 0.02)], 0.53, 0.005))
    assert likelihood == pytest.approx(norm.cdf(0.535, 0.5, 0.02) - norm.cdf(0.525, 0.5, 0.02))


def test_explanations_of_a_kind_share_its_prior_equally() -> None:
    priors = prior_probabilities(np.array([0, 1, 1, 2, 2, 2, 2]))
    assert priors == pytest.approx([OTHER_SAMPLES, *[SINGLE / 2] * 2, *[PAIR / 4] * 4])
    assert pytest.approx(1) == SINGLE + PAIR + OTHER_SAMPLES + ELSE


def test_probabilities_follow_from_priors_and_likelihoods() -> None:
    """By hand: a fault of likelihood 0.2, a pair of 0.4, something else of 0.01."""
    log_likelihood = np.log([0.2, 0.4])
    of_faults, of_something_else = probabilities(log_likelihood, np.array([1, 2]), math.log(0.01))
    weights = np.array([SINGLE * 0.2, PAIR * 0.4, ELSE * 0.01])
    assert [*of_faults, of_something_else] == pytest.approx(weights / weights.sum())


@pytest.mark.parametrize(
    ("values", "n_tied"), [([], 0), ([0.9], 1), ([0.4, 0.3, 0.1], 2), ([0.3, 0.101, 0.099], 2)]
)
def test_ties_are_within_a_factor_of_three(values: list[float], n_tied: int) -> None:
    assert count_tied(values) == n_tied


def test_hits_tell_explanations_of_one_number_apart() -> None:
    """Each explanation has half of the samples right: the right half, the wrong one, or random."""
    hits = np.repeat([1.0, 0.0], 50)
    outcomes = np.array([hits, 1 - hits, np.full(100, 0.5)])
    right_half, wrong_half, random_half = log_likelihoods_of_hits(outcomes, hits, slip=0.02)
    assert right_half == pytest.approx(100 * math.log(0.99))
    assert wrong_half == pytest.approx(100 * math.log(0.01))
    assert random_half == pytest.approx(100 * math.log(0.5))


def test_an_unknown_fault_has_any_share_of_hits() -> None:
    """Two samples were right, and one of them still is: a likelihood of B(2, 2) = 1/6.

    One sample was wrong and still is: a likelihood of B(1, 2) = 1/2.
    """
    log_likelihood = log_likelihood_of_unknown(np.array([1.0, 1, 0]), np.array([1.0, 0, 0]))
    assert log_likelihood == pytest.approx(math.log(1 / 6 * 1 / 2))


def test_hits_are_certain_if_all_rivals_were_seen() -> None:
    """A query with fewer than 5 better rivals is a hit at 5."""
    queries = expected_hits(np.array([0, 4, 5]), np.arange(3), 99, 99, k=5)
    assert queries.values.tolist() == [1, 1, 0]
    captions = expected_hits(np.array([0, 4, 5, 6]), np.array([0, 0, 1, 1]), 99, 99, k=5)
    assert captions.values.tolist() == [1, 0]
    assert captions.means_without_group is None


def test_unseen_rivals_are_beta_binomial() -> None:
    """400 equal queries have 2 better rivals of 20 each: each unseen rival is better by 10%.

    Among 10 more rivals, at most one better rival is left for a hit at 4.
    """
    hits = expected_hits(np.full(400, 2), np.arange(400), 20, 30, k=4)
    assert hits.values == pytest.approx(binom.cdf(1, 10, 0.1), abs=2e-3)


@pytest.mark.parametrize("k", [1, 5])
def test_hits_in_a_larger_gallery_are_predicted(k: int) -> None:
    """From the hits among 200 rivals to those among 2,000.

    The chance that a rival is better than the right item has a beta distribution over queries.
    """
    rng = np.random.default_rng(1)
    chances = rng.beta(0.1, 8, 2000)
    seen, unseen = rng.binomial(200, chances), rng.binomial(1800, chances)
    truth = (seen + unseen < k).mean()
    naive = (seen < k).mean()
    hits = expected_hits(seen, np.arange(2000), 200, 2000, k)
    assert naive > truth + 0.05
    assert hits.values.mean() == pytest.approx(truth, abs=0.025)
    assert hits.correction == pytest.approx(naive - hits.values.mean())


def test_the_intervals_of_predictions_in_a_larger_gallery_cover() -> None:
    """The intervals from 60 of 600 images hold the number of the whole gallery."""
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(30):
        right = rng.random(600) < 0.8
        chances = rng.beta(0.1, 8, 600)
        seen = rng.binomial(59, chances)
        better = seen + rng.binomial(540, chances)
        measured = slice(0, 60)
        faulty = expected_hits(seen[measured], np.arange(60), 59, 599, k=1)
        low, high = predict(right.mean(), right[measured] * 1.0, faulty, 600).interval
        covered.append(low <= (better < 1).mean() <= high)
    assert np.mean(covered) >= 0.86
