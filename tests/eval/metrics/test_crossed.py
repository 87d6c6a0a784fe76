"""Intervals of means over draws of a classifier: by a table of variances, and in simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cosmos_eval.stats.crossed import effective_samples
from cosmos_eval.stats.estimates import CrossedMean
from cosmos_eval.stats.intervals import intervals, wilson
from cosmos_eval.types import Interval


def interval_of(hits: np.ndarray, method: str = "") -> Interval:
    return intervals({"it": CrossedMean(hits)}, methods={"it": method})["it"]


def test_a_table_solved_by_hand():
    """Four images by two draws, of which one finds all and the other half. Mean squares: images
    1/6, draws 1/2, rest 1/6, so that 8 times the variance of the mean is 1/2 by draws alone."""
    hits = np.array([[1, 1], [1, 1], [1, 0], [1, 0]], bool)
    n, dof = effective_samples(CrossedMean(hits))
    assert n == pytest.approx(0.75 * 0.25 / (0.5 / 8))
    assert dof == pytest.approx(0.5**2 / ((1 / 6) ** 2 / 3 + 0.5**2 / 1 + (1 / 6) ** 2 / 3))


def test_draws_that_agree_are_worth_the_images():
    hits = np.random.default_rng(0).random(400) < 0.7
    n, dof = effective_samples(CrossedMean(np.stack([hits] * 3, axis=1)))
    assert (n, dof) == (pytest.approx(399), pytest.approx(399))


@pytest.mark.parametrize("hits", [np.ones((50, 3), bool), np.arange(50)[:, None] < 40])
def test_all_hits_and_one_draw_have_wilsons_interval(hits):
    interval = interval_of(hits)
    assert interval[:2] == pytest.approx(wilson(int(hits[:, 0].sum()), 50)[:2])
    assert interval.low < interval.high


def test_a_single_image_has_an_interval():
    low, high = interval_of(np.array([[True, False, True]]))[:2]
    assert 0 < low < 2 / 3 < high < 1


def test_stored_intervals_keep_their_method():
    hits = np.random.default_rng(0).random((200, 3)) < np.array([0.5, 0.6, 0.7])
    interval = interval_of(hits, method="crossed bootstrap")
    rng = np.random.default_rng(1)
    means = [
        hits[rng.integers(200, size=200)][:, rng.integers(3, size=3)].mean() for _ in range(2000)
    ]
    assert interval.method == "crossed bootstrap"
    assert interval[:2] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.01)


@pytest.mark.parametrize(("draw_sd", "least", "most"), [(0.03, 0.925, 0.98), (0.0, 0.96, 1.0)])
def test_three_draws_hold_the_mean_of_all(draw_sd, least, most):
    """300 studies of 1,000 images, whose difficulty is from Beta(1.5, 1.5), by three draws, whose
    accuracies have a standard deviation. A bootstrap of both holds the mean in 89% at 3 points."""
    held = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        ease = rng.beta(1.5, 1.5, (1000, 1)) + draw_sd * rng.normal(size=(1, 3))
        low, high = interval_of(rng.random((1000, 3)) < ease)[:2]
        held.append(low <= 0.5 <= high)
    assert least <= np.mean(held) <= most


def test_the_interval_is_as_wide_as_students_over_draws():
    """For so many images that only draws vary, it is the mean plus and minus t x sd / sqrt(3)."""
    shares = np.array([0.45, 0.5, 0.55])
    hits = np.arange(20_000)[:, None] < 20_000 * shares
    hits = np.stack([np.random.default_rng(i).permutation(c) for i, c in enumerate(hits.T)], axis=1)
    low, high = interval_of(hits)[:2]
    assert high - low == pytest.approx(2 * 4.303 * 0.05 / math.sqrt(3), rel=0.06)
