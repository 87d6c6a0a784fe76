"""Intervals of mean ranks: against the formula of the paper, by hand, and in simulated studies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from cosmos_eval.stats.estimates import MeanRank
from cosmos_eval.stats.intervals import intervals
from cosmos_eval.types import Interval


def interval_of(
    ranks: np.ndarray, clusters: np.ndarray | None = None, method: str = ""
) -> Interval:
    estimate = MeanRank(ranks, np.arange(len(ranks)) if clusters is None else clusters)
    return intervals({"it": estimate}, methods={"it": method})["it"]


def drawn_ranks(rng: np.random.Generator, images: int, captions: int) -> np.ndarray:
    """Ranks (images, captions) of a log-normal distribution, those of an image correlated by 0.3:
    three quarters are 1, and the skewness is that of the bundled models' ranks."""
    own, shared = rng.normal(size=(images, captions)), rng.normal(size=(images, 1))
    return np.ceil(np.exp(1.5 * (math.sqrt(0.7) * own + math.sqrt(0.3) * shared) - 1))


def test_it_is_halls_interval():
    """The ends are where Hall's transformation, evaluated as printed, has the quantiles of t."""
    ranks = np.array([1, 1, 1, 2, 1, 9, 3, 1, 1, 40, 2, 1, 5, 1, 1, 1, 2, 3, 1, 7])
    n, skewness = len(ranks), stats.skew(ranks)
    error = ranks.std(ddof=1) / math.sqrt(n)

    def transformed(true_mean: float) -> float:
        t = (ranks.mean() - true_mean) / error
        root = math.sqrt(n)
        return (
            t + skewness * t**2 / (3 * root) + skewness**2 * t**3 / (27 * n) + skewness / (6 * root)
        )

    low, high = interval_of(ranks)[:2]
    quantile = stats.t.ppf(0.975, n - 1)
    assert (transformed(low), transformed(high)) == pytest.approx((quantile, -quantile))


def test_without_skewness_it_is_students():
    ranks = np.arange(1, 12)
    expected = stats.t.interval(0.95, 10, loc=6, scale=ranks.std(ddof=1) / math.sqrt(11))
    assert interval_of(ranks)[:2] == pytest.approx(expected)


def test_it_counts_images_and_not_their_captions():
    ranks = drawn_ranks(np.random.default_rng(0), 200, 1)
    copied = interval_of(np.repeat(ranks, 5), np.repeat(np.arange(200), 5))
    assert copied == pytest.approx(interval_of(ranks.ravel()))


@pytest.mark.parametrize(("rank", "low"), [(1, 1.0), (7, 7 - 0.029311)])
def test_equal_ranks_have_no_point(rank, low):
    """Of 124 images without another rank, one in 34 may have one: 1 - 0.025 ** (1 / 124)."""
    assert interval_of(np.full(124, rank))[:2] == pytest.approx((low, rank + 0.029311), abs=1e-5)


def test_one_image_has_no_interval():
    assert intervals({"it": MeanRank(np.array([3, 4]), np.zeros(2, int))}) == {}


def test_stored_intervals_keep_their_method():
    ranks = drawn_ranks(np.random.default_rng(0), 300, 1).ravel()
    interval = interval_of(ranks, method="cluster bootstrap")
    means = [np.random.default_rng(seed).choice(ranks, 300).mean() for seed in range(2000)]
    assert interval.method == "cluster bootstrap"
    assert interval[:2] == pytest.approx(np.quantile(means, [0.025, 0.975]), rel=0.02)


@pytest.mark.parametrize(("images", "captions"), [(500, 1), (200, 5)])
def test_it_holds_the_mean_of_heavy_tails(images, captions):
    """300 studies (standard error 1.3 points); a percentile bootstrap holds it in 90%."""
    true = drawn_ranks(np.random.default_rng(99), 500_000, 2).mean()
    clusters, held = np.repeat(np.arange(images), captions), []
    for seed in range(300):
        ranks = drawn_ranks(np.random.default_rng(seed), images, captions)
        low, high = interval_of(ranks.ravel(), clusters)[:2]
        held.append(low <= true <= high)
    assert 0.925 <= np.mean(held) <= 0.975
