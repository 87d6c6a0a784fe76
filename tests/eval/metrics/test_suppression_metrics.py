"""Suppression: by hand, by plain formulas, and by simulations with a known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, ndtr

from cosmos_eval.stats.estimates import FunctionOfSums
from cosmos_eval.stats.intervals import intervals, wilson
from cosmos_eval.stats.paired import differences
from cosmos_eval.stats.suppression import (
    GroupHits,
    count_group_hits,
    difference_interval,
    odds_ratio_by_area,
    share_difference,
)


def test_counts_and_value_by_hand() -> None:
    hits = np.array([True, False, True, True, False])
    dominant = np.array([True, False, False, True, False])
    small = np.array([False, True, True, False, False])  # the last item has no role
    counts = count_group_hits(hits, dominant, small, np.array([4, 4, 7, 7, 7]))
    assert [array.tolist() for array in counts] == [[1, 1], [1, 1], [0, 1], [1, 1]]
    estimate = share_difference(counts)
    assert estimate is not None
    assert estimate.value == 1 - 1 / 2
    assert share_difference(count_group_hits(hits, dominant, ~hits & hits, np.arange(5))) is None


def test_interval_of_independent_items_by_newcombes_formula() -> None:
    # 56 of 70 and 48 of 80 is the example of Newcombe 1998 (Statistics in Medicine 17, 873-890,
    # method 10), whose interval is 0.0524 to 0.3339.
    hits = np.array([True] * 56 + [False] * 14 + [True] * 48 + [False] * 32)
    dominant = np.arange(150) < 70
    counts = count_group_hits(hits, dominant, ~dominant, np.arange(150))
    interval = difference_interval(counts, 0.95)
    assert (interval.low, interval.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_items_of_one_image_that_agree_narrow_the_interval() -> None:
    # In each image, the dominant and the small item are both right or both wrong.
    right = np.array([1.0] * 12 + [0.0] * 8)
    ones = np.ones(20)
    interval = difference_interval(GroupHits(right, ones, right, ones), 0.95)
    share = wilson(12, 20)
    # With a correlation of 1, the sides of both intervals subtract.
    side = abs((0.6 - share.low) - (share.high - 0.6))
    assert (interval.low, interval.high) == pytest.approx((-side, side))


def test_interval_has_a_width_if_everything_is_right() -> None:
    ones = np.ones(50)
    intervals_by_metric = intervals(
        {"suppression": share_difference(GroupHits(ones, ones, ones, ones))}
    )
    reach = math.hypot(0, 1 - wilson(50, 50).low)
    interval = intervals_by_metric["suppression"]
    assert (interval.low, interval.high) == pytest.approx((-reach, reach))


def draw_counts(
    rng: np.random.Generator, n_images: int, p: float, q: float, shared: float
) -> GroupHits:
    """One dominant and one to three small items per image, with correlated hits."""
    common, noise = rng.normal(size=(n_images, 1)), rng.normal(size=(n_images, 4))
    quantiles = ndtr(math.sqrt(shared) * common + math.sqrt(1 - shared) * noise)
    hits = quantiles < np.array([p, q, q, q])
    is_item = np.arange(4) <= rng.integers(1, 4, (n_images, 1))
    is_dominant = np.broadcast_to(np.arange(4) == 0, is_item.shape)
    image = np.broadcast_to(np.arange(n_images)[:, None], is_item.shape)
    return count_group_hits(
        hits[is_item], is_dominant[is_item], ~is_dominant[is_item], image[is_item]
    )


@pytest.mark.parametrize(
    ("n_images", "p", "q", "shared"),
    [(40, 0.9, 0.6, 0.3), (100, 0.99, 0.5, 0.5), (200, 0.6, 0.6, 0), (100, 0.7, 0.65, 0.8)],
)
def test_intervals_cover_the_truth(n_images: int, p: float, q: float, shared: float) -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(400):
        interval = difference_interval(draw_counts(rng, n_images, p, q, shared), 0.95)
        covered.append(interval.low <= p - q <= interval.high)
    assert 0.925 <= np.mean(covered) <= 0.98


def test_equal_models_seldom_differ_and_different_ones_do() -> None:
    """The paired test of suppression draws images: its errors are as rare as its level says."""
    rng = np.random.default_rng(2)
    p_values = []
    for _ in range(80):
        models = [
            {"suppression": share_difference(draw_counts(rng, 60, 0.8, 0.5, 0.4))} for _ in range(2)
        ]
        difference = differences(models, resamples=200)(0, 1)["suppression"]
        assert difference.units == 60
        p_values.append(difference.p_value)
    assert np.mean(np.array(p_values) < 0.05) <= 0.12
    better = {"suppression": share_difference(draw_counts(rng, 300, 0.8, 0.7, 0.4))}
    worse = {"suppression": share_difference(draw_counts(rng, 300, 0.8, 0.4, 0.4))}
    large_difference = differences([worse, better])(0, 1)["suppression"]
    assert large_difference.difference > 0.15
    assert large_difference.p_value < 1e-3


def test_odds_ratio_equals_a_plain_logistic_regression() -> None:
    rng = np.random.default_rng(3)
    n = 400
    cluster = np.arange(n) // 2
    area = rng.uniform(0.1, 0.6, n // 2)[cluster]
    hits = rng.random(n) < expit(1.5 - 4 * area)

    def loss(parameters: np.ndarray) -> float:
        logits = parameters[0] + parameters[1] * area
        return float(np.logaddexp(0, np.where(hits, -logits, logits)).sum())

    fitted = minimize(loss, [0, 0], tol=1e-10).x
    estimate = odds_ratio_by_area(hits, area, cluster)
    assert estimate is not None
    assert estimate.value == pytest.approx(math.exp(0.1 * fitted[1]), rel=1e-4)
    assert fitted[1] < -2
    interval = intervals({"odds": estimate}, bounds={"odds": (0, math.inf)})["odds"]
    assert interval.low < math.exp(0.1 * -4) < interval.high < 1
    # A resample that draws an image twice is the regression of its items twice.
    weights = np.ones((1, n // 2))
    weights[0, :50] = 2
    twice = np.concatenate([np.arange(n), np.arange(100)])
    copies = np.concatenate([cluster, cluster[:100] + n])
    repeated = odds_ratio_by_area(hits[twice], area[twice], copies)
    assert repeated is not None
    assert estimate.prepare(estimate.samples)(weights)[0] == pytest.approx(repeated.value)


@pytest.mark.parametrize("are_hits", [True, False])
def test_odds_ratio_has_no_value_if_all_items_are_alike(are_hits: bool) -> None:
    """The odds are infinite or 0 for all areas."""
    area = np.linspace(0.1, 0.6, 300)
    estimate = odds_ratio_by_area(np.full(300, are_hits), area, np.arange(300))
    assert estimate is not None
    assert math.isnan(estimate.value)


def test_odds_ratio_has_no_value_if_areas_separate_hits() -> None:
    area = np.linspace(0.1, 0.6, 20)
    separated = odds_ratio_by_area(area < 0.3, area, np.arange(20))
    assert separated is not None
    assert math.isnan(separated.value)
    assert odds_ratio_by_area(area < 0.3, np.full(20, 0.2), np.arange(20)) is None


def test_odds_ratio_is_left_out_if_areas_differ_within_clusters() -> None:
    """The means of pairs of a small and a large dominant object would hide the effect."""
    hits = np.tile([True, False, True, True], 25)
    area = np.tile([0.2, 0.6], 50) + 0.001 * (np.arange(100) // 2)
    assert odds_ratio_by_area(hits, area, np.arange(100) // 2) is None
    assert odds_ratio_by_area(hits, area, np.arange(100)) is not None


def test_a_function_of_sums_has_one_row_per_image() -> None:
    counts = draw_counts(np.random.default_rng(4), 30, 0.8, 0.5, 0.4)
    estimate = share_difference(counts)
    assert isinstance(estimate, FunctionOfSums)
    assert all(len(term) == 30 for term in estimate.terms)
