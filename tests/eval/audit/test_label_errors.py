"""Wrong labels: plain forms, and simulations whose wrong labels are known."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import betabinom, chisquare

from cosmos_eval.stats.label_errors import agreement, estimate_label_errors, fit_p_value

CLASSES, MODELS, ITEMS = 10, 5, 2000


def simulate(
    share_wrong: float, seed: int = 0, errors: float = 0.1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Answers (K, N), labels (N,), and whether a label is wrong, under the method's assumptions.

    An item has a difficulty, the chance that a model gives the wrong answer that tempts all models.
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, ITEMS)
    tempting = (truth + rng.integers(1, CLASSES, ITEMS)) % CLASSES
    difficulty = rng.beta(3 * errors, 3 * (1 - errors), ITEMS)
    is_tempted = rng.random((MODELS, ITEMS)) < difficulty
    answers = np.where(is_tempted, tempting, truth)
    is_wrong = rng.random(ITEMS) < share_wrong
    labels = np.where(is_wrong, (truth + rng.integers(1, CLASSES, ITEMS)) % CLASSES, truth)
    return answers, labels, is_wrong


def test_agreement_is_what_counting_gives():
    rng = np.random.default_rng(1)
    answers, labels = rng.integers(0, 4, (6, 200)), rng.integers(0, 4, 200)
    agreed = agreement(answers, labels)
    for item in range(200):
        votes = Counter(answers[:, item].tolist())
        assert agreed.right[item] == votes.pop(labels[item], 0)
        if votes:
            most = max(votes.values())
            assert agreed.votes[item] == most
            assert agreed.answer[item] == min(a for a, n in votes.items() if n == most)
        else:
            assert (agreed.votes[item], agreed.answer[item]) == (0, -1)


def test_agreement_of_four_models():
    agreed = agreement(np.array([[2], [2], [1], [0]]), np.array([0]))
    assert (agreed.right[0], agreed.answer[0], agreed.votes[0]) == (1, 2, 2)
    all_right = agreement(np.array([[-1, 3], [-1, -1]]), np.array([-1, -1]))
    assert all_right.right.tolist() == [2, 1]
    assert all_right.answer.tolist() == [-1, 3]


@pytest.mark.parametrize(("share_wrong", "least_recall"), [(0.01, 0.2), (0.05, 0.7)])
def test_planted_labels_are_found_with_the_precision_that_is_claimed(share_wrong, least_recall):
    n_covered = n_suspect = n_claimed = n_wrong_suspects = n_wrong = 0
    for seed in range(10):
        answers, labels, is_wrong = simulate(share_wrong, seed)
        agreed = agreement(answers, labels)
        errors = estimate_label_errors(agreed, labels, CLASSES, MODELS)
        n_covered += errors.low <= is_wrong.mean() <= errors.high
        n_suspect += errors.is_suspect.sum()
        n_claimed += errors.probability[errors.is_suspect].sum()
        n_wrong_suspects += (errors.is_suspect & is_wrong).sum()
        n_wrong += is_wrong.sum()
    assert n_covered >= 8
    assert abs(n_claimed - n_wrong_suspects) < 0.1 * n_suspect
    assert n_wrong_suspects > 0.5 * n_suspect
    assert n_wrong_suspects > least_recall * n_wrong


@pytest.mark.parametrize(("share_wrong", "errors"), [(0.3, 0.1), (0.1, 0.25)])
def test_many_wrong_labels_and_weak_models(share_wrong, errors):
    """A quarter of the answers is wrong: of a wrong label, too, models often share another one."""
    rates, shares = [], []
    for seed in range(6):
        answers, labels, is_wrong = simulate(share_wrong, seed, errors)
        rates.append(estimate_label_errors(agreement(answers, labels), labels, 10, MODELS).rate)
        shares.append(is_wrong.mean())
    assert np.mean(rates) == pytest.approx(np.mean(shares), rel=0.05)


def test_models_that_err_alike_give_no_wrong_labels():
    n_zero = 0
    for seed in range(8):
        answers, labels, _ = simulate(0.0, seed)
        errors = estimate_label_errors(agreement(answers, labels), labels, CLASSES, MODELS)
        n_zero += errors.low == 0
        assert errors.rate < 0.005
        assert errors.is_suspect.sum() <= 5
    assert n_zero >= 7


def test_the_mixture_is_fitted_by_maximum_likelihood():
    """The plain form is the likelihood of the counts on a finer grid, by SciPy's beta-binomial."""
    answers, labels, _ = simulate(0.05)
    agreed = agreement(answers, labels)
    errors = estimate_label_errors(agreed, labels, CLASSES, MODELS)
    counts = np.bincount(agreed.votes, minlength=MODELS + 1)
    most_votes = [max(Counter(answers_to_item).values()) for answers_to_item in answers.T.tolist()]
    wrong = np.bincount(most_votes, minlength=MODELS + 1) / ITEMS
    votes = np.arange(MODELS + 1)
    best_by_rate = {}
    for rate in np.arange(0.02, 0.09, 0.004):
        best = -np.inf
        for mean in np.linspace(0.07, 0.17, 25):
            for size in np.geomspace(1, 8, 25):
                right = betabinom.pmf(votes, MODELS, mean * size, (1 - mean) * size)
                best = max(best, counts @ np.log((1 - rate) * right + rate * wrong))
        best_by_rate[rate] = best
    most_likely = max(best_by_rate, key=best_by_rate.__getitem__)
    assert errors.rate == pytest.approx(most_likely, abs=0.006)
    shared = errors.expected_by_votes[3:].sum() + errors.rate * ITEMS
    assert shared == pytest.approx(counts[3:].sum(), rel=0.2)
    assert errors.expected_by_votes.sum() == pytest.approx((1 - errors.rate) * ITEMS)
    # Half of the 95% quantile of chi-squared with one degree of freedom: a likelihood interval.
    threshold = best_by_rate[most_likely] - 1.92
    likely_rates = [rate for rate, value in best_by_rate.items() if value > threshold]
    assert errors.low == pytest.approx(min(likely_rates), abs=0.006)
    assert errors.high == pytest.approx(max(likely_rates), abs=0.006)


def test_the_fit_is_pearsons_test_of_joined_cells():
    observed = np.array([50, 20, 12, 9, 2, 1, 6])
    expected = np.array([48.0, 24, 10, 8, 3, 2, 5])
    joined = [50, 20, 12, 9, 3, 6], [48, 24, 10, 8, 5, 5]
    assert fit_p_value(observed, expected) == pytest.approx(chisquare(*joined, ddof=3).pvalue)
    # A last cell below 5 is joined with the one before; one degree of freedom is left.
    assert fit_p_value(np.array([50, 30, 3]), np.array([40.0, 40, 3])) == pytest.approx(
        chisquare([50, 33], [40, 43]).pvalue
    )


def test_models_of_very_different_strength_are_not_judged():
    """Three weak models err alike on a fifth of the items, and a strong one on none of them."""
    n_refused = n_fitting = 0
    for seed in range(6):
        answers, labels, _ = simulate(0.02, seed)
        estimate = estimate_label_errors(agreement(answers, labels), labels, CLASSES, MODELS)
        n_fitting += estimate.is_fitting
        hard = np.random.default_rng(seed).random(ITEMS) < 0.2
        answers[1:, hard] = (labels[hard] + 1) % CLASSES
        estimate = estimate_label_errors(agreement(answers, labels), labels, CLASSES, MODELS)
        n_refused += not estimate.is_fitting
    assert n_fitting >= 5
    assert n_refused == 6


def test_confused_pairs_are_less_suspect_than_others():
    """All models agree on two items; other items often confuse the classes of the first one."""
    answers, labels, _ = simulate(0.03)
    cats = np.flatnonzero(labels == 0)[:20]
    answers[:2, cats], answers[2:, cats] = 1, 0
    pairs = np.flatnonzero(labels == 0)[20:22]
    answers[:, pairs[0]], answers[:, pairs[1]] = 1, 7
    errors = estimate_label_errors(agreement(answers, labels), labels, CLASSES, MODELS)
    assert errors.probability[pairs[0]] < errors.probability[pairs[1]] - 0.02
    assert errors.probability[agreement(answers, labels).votes == 0].max() == 0


@pytest.mark.parametrize(("models", "items"), [(2, 200), (3, 99)])
def test_too_few_models_or_items_are_refused(models, items):
    answers, labels = np.zeros((models, items), int), np.zeros(items, int)
    with pytest.raises(ValueError, match=f"3 models and 100 items, not {models} and {items}"):
        estimate_label_errors(agreement(answers, labels), labels, 2, models)
