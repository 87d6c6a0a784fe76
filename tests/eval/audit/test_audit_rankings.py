"""Ranks, and their change without a group, against solved cases and other tests of pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from cosmos_eval.results.audit.metrics import AuditedMetric, read_metrics
from cosmos_eval.results.audit.ranking import (
    PairTest,
    Ranking,
    compare_rankings,
    rank_models,
)
from cosmos_eval.results.checked import read_checked
from cosmos_eval.stats.paired import PairedDifference
from cosmos_eval.types import Interval

RESULTS = Path(__file__).parents[3] / "results"


def difference(value: float, error: float) -> PairedDifference:
    return PairedDifference(value, 0.0, value, error, np.inf, 0.0, 100, "a test")


def ranking(n_items: int, *tests: tuple[int, int, float, float, float]) -> Ranking:
    """Tests of pairs: both models, the difference, its error and the p-value."""
    pair_tests = [PairTest(a, b, difference(d, e), p) for a, b, d, e, p in tests]
    n_models = 1 + max(test.b for test in pair_tests)
    interval = Interval(0, 1, "an interval", 0.95)
    return Ranking(n_items, (0.5,) * n_models, (interval,) * n_models, tuple(pair_tests))


def test_ranks_follow_from_decided_pairs():
    three = ranking(100, (0, 1, 0.2, 0.01, 0.001), (0, 2, 0.1, 0.05, 0.2), (1, 2, -0.1, 0.01, 0.04))
    assert three.ranks == [(1, 2), (3, 3), (1, 2)]
    assert three.n_decided == 2


def test_pairs_are_kept_lost_gained_and_reversed():
    on_all = ranking(
        100,
        (0, 1, 0.2, 0.01, 0.001),
        (0, 2, 0.2, 0.01, 0.001),
        (1, 2, 0.2, 0.01, 0.001),
        (0, 3, 0.1, 0.05, 0.2),
    )
    without = ranking(
        50,
        (0, 1, 0.15, 0.01, 0.001),
        (0, 2, -0.2, 0.01, 0.001),
        (1, 2, 0.0, 0.01, 1.0),
        (0, 3, 0.3, 0.05, 0.01),
    )
    change = compare_rankings(on_all, without)
    assert (change.kept, change.lost, change.gained, change.reversed) == (1, 1, 1, 1)
    assert change.largest_change == pytest.approx(0.4)
    assert not change.survives
    assert compare_rankings(on_all, on_all).survives


def test_a_pair_that_fewer_items_cannot_decide_is_not_lost():
    """Removing 20 of 100 random items moves a difference by 0.1 x sqrt(1 / 4) = 0.05 or so."""
    on_all = ranking(100, (0, 1, 0.25, 0.1, 0.012))
    for value, lost in ((0.25, 0), (0.16, 0), (0.34, 0), (0.14, 1), (0.36, 1)):
        change = compare_rankings(on_all, ranking(80, (0, 1, value, 0.2, 0.2)))
        assert (change.lost, change.too_few) == (lost, 1 - lost), value
        assert change.survives == (lost == 0)

    # Of two pairs, each needs 0.05 / 2: 2.24 standard errors in place of 1.96.
    pairs = ((0, 1, 0.25, 0.1, 0.012), (0, 2, 0.25, 0.1, 0.012))
    change = compare_rankings(
        ranking(100, *pairs), ranking(80, (0, 1, 0.145, 0.2, 0.2), (0, 2, 0.25, 0.2, 0.2))
    )
    assert (change.lost, change.too_few) == (0, 2)


def test_random_removals_rarely_lose_a_pair(accuracy):
    rng = np.random.default_rng(0)
    on_all = rank_models(accuracy, np.ones(accuracy.n_items, bool))
    n_lost = 0
    for _ in range(60):
        keep = rng.random(accuracy.n_items) < 0.3
        n_lost += not compare_rankings(on_all, rank_models(accuracy, keep)).survives
    assert n_lost <= 6


@pytest.fixture(scope="module")
def accuracy() -> AuditedMetric:
    paths = sorted(RESULTS.glob("*__scenes-cls__scenes.json"))
    metrics, notes = read_metrics(read_checked(paths))
    assert notes == []
    (metric,) = metrics
    return metric


def test_tests_of_pairs_are_exact_mcnemar(accuracy):
    keep = np.arange(accuracy.n_items) % 3 > 0
    on_some = rank_models(accuracy, keep)
    p_values = []
    for test in on_some.tests:
        a, b = accuracy.hits[test.a, keep], accuracy.hits[test.b, keep]
        p_value = binomtest(int((a & ~b).sum()), int((a != b).sum())).pvalue
        assert test.difference.p_value == pytest.approx(p_value)
        assert test.difference.difference == pytest.approx(a.mean() - b.mean())
        p_values.append(p_value)
    # Holm by hand: the smallest of three times 3, and so on, never falling.
    order = np.argsort(p_values)
    adjusted = np.minimum(1, np.maximum.accumulate(np.array(p_values)[order] * [3, 2, 1]))
    assert [on_some.tests[place].adjusted for place in order] == pytest.approx(adjusted.tolist())


def test_few_items_are_not_ranked(accuracy):
    assert rank_models(accuracy, np.arange(accuracy.n_items) < 29) is None
    assert rank_models(accuracy, np.arange(accuracy.n_items) < 30) is not None
