"""Intervals: against scipy, normal theory, a plain bootstrap, and in simulated studies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import binomtest
from support.coverage import cluster_coverage, miou_coverage, wilson_coverage

from cosmos_eval.stats.estimates import (
    FunctionOfSums,
    GroupMean,
    Mean,
    Median,
    Proportion,
    ratio,
)
from cosmos_eval.stats.intervals import intervals, resample, statistic_of, wilson
from cosmos_eval.stats.shares import or_likelihood
from cosmos_eval.types import Interval


def interval_of(estimate, **options: int) -> Interval:
    return intervals({"it": estimate}, **options)["it"]


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (7, 7), (1, 3), (412, 500), (1, 100_000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_equals_scipy(successes: int, n: int, level: float) -> None:
    expected = binomtest(successes, n).proportion_ci(level, method="wilson")
    found = wilson(successes, n, level)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (found.method, found.level) == ("wilson", level)
    assert type(found.low) is type(found.high) is float


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 4), (5, 4)])
def test_wilson_refuses_what_is_no_share(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson(successes, n)


def test_the_interval_of_a_proportion_is_wilsons() -> None:
    found = interval_of(Proportion(np.array([True, False, True])))
    assert found == wilson(2, 3)


def test_the_interval_of_equal_values_is_of_those_that_four_clusters_may_all_miss() -> None:
    """Up to 1 - 0.025^(1/4) of the population may have other values, of 0 or of 1."""
    estimate = {"it": Mean(np.full(6, 0.25), np.array([0, 0, 1, 1, 2, 9]))}
    stored = intervals(estimate, methods={"it": "cluster bootstrap"})["it"]
    assert stored == Interval(0.25, 0.25, "cluster bootstrap", 0.95)
    missed = 1 - 0.025**0.25
    found = intervals(estimate)["it"]
    assert found[:2] == pytest.approx((0.25 - missed * 0.25, 0.25 + missed * 0.75))
    assert found.method == "exact, all alike"
    assert intervals(estimate, bounds={"it": (0, np.inf)}) == {}


def test_cluster_bootstrap_equals_normal_theory_for_many_clusters() -> None:
    values = np.random.default_rng(0).random(4000)
    found = interval_of(Mean(values, np.arange(4000)), resamples=4000)
    half = 1.96 * values.std() / np.sqrt(4000)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_cluster_bootstrap_is_fixed_by_its_seed() -> None:
    values, clusters = np.random.default_rng(1).random((2, 60)), np.repeat(np.arange(12), 5)
    both = {name: Mean(some, clusters) for name, some in zip("ab", values, strict=True)}
    again = [intervals(both, seed=seed) for seed in (3, 3, 4)]
    assert again[0] == again[1]
    assert all(again[0][name] != again[2][name] for name in both)
    # Clusters that are equal, but another array, are drawn alike.
    apart = interval_of(Mean(values[1], clusters.copy()), seed=3)
    assert apart[:2] == pytest.approx(again[0]["b"][:2])


@pytest.mark.parametrize("resamples", [1, 199, 200, 201])
def test_blocks_make_all_resamples(resamples: int) -> None:
    """A draw of C clusters takes C numbers of the generator, whatever the size of blocks."""
    values = np.random.default_rng(2).random(7)
    draws = np.random.default_rng(5).integers(7, size=(resamples, 7))
    expected = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    estimate, methods = {"": Mean(values, np.arange(7))}, {"": "cluster bootstrap"}
    found = intervals(estimate, seed=5, resamples=resamples, methods=methods)[""]
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)


@pytest.mark.parametrize(("n", "share"), [(500, 0.7), (500, 0.95), (5000, 0.4)])
def test_wilson_covers(n: int, share: float) -> None:
    assert 0.93 <= wilson_coverage(n, share, studies=10_000) <= 0.97


def test_wilson_of_clusters_covers_where_captions_of_an_image_depend_on_each_other() -> None:
    assert 0.93 <= cluster_coverage(200, blocks=10) <= 0.97
    assert cluster_coverage(200, blocks=10, by_image=False) < 0.9


def test_jackknife_of_miou_covers() -> None:
    # Fewer studies of fewer images than benchmarks/coverage.py has.
    assert 0.91 <= miou_coverage(150, 0.3, blocks=2) <= 0.985


def test_cluster_median_equals_medians_of_the_same_draws() -> None:
    rng = np.random.default_rng(7)
    clusters = rng.choice([2, 5, 6, 9], size=31)
    values = rng.integers(1, 9, size=31)
    rows = [np.flatnonzero(clusters == label) for label in (2, 5, 6, 9)]
    draws = np.random.default_rng(3).integers(4, size=(200, 4))
    drawn = [values[np.concatenate([rows[i] for i in draw])] for draw in draws]
    assert {len(some) % 2 for some in drawn} == {0, 1}
    found = interval_of(Median(values, clusters), seed=3, resamples=200)
    expected = np.quantile([np.median(some) for some in drawn], [0.025, 0.975])
    assert [found.low, found.high] == expected.tolist()
    assert found.method == "cluster bootstrap"


def test_a_floored_median_is_the_whole_number_below() -> None:
    """numpy.floor(numpy.median(ranks from 0)) + 1, also in resamples: of 3 and 6 it is 3, 4, 6."""
    ranks = np.array([3, 6])
    found = Median(ranks, np.arange(2), floor=True)
    assert found.value == np.floor(np.median(ranks - 1)) + 1 == 4
    (drawn,) = resample([statistic_of({"it": found})], np.ones(2, int), resamples=50)
    assert set(drawn["it"]) == {3, 4, 6}


def test_mean_class_recall_equals_a_plain_bootstrap_over_images() -> None:
    rng = np.random.default_rng(5)
    labels = rng.choice([0, 1, 4], size=150, p=[0.1, 0.3, 0.6])
    hits = rng.random(150) < np.array([0.9, 0.5, 0, 0, 0.3])[labels]
    means = []
    for _ in range(3000):
        drawn = rng.integers(150, size=150)
        recalls = [hits[drawn][labels[drawn] == c].mean() for c in np.unique(labels[drawn])]
        means.append(np.mean(recalls))
    estimate = {"": GroupMean(hits, labels)}
    found = intervals(estimate, methods={"": "bootstrap"}, resamples=20_000)[""]
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.012)


@pytest.mark.parametrize(
    ("clusters", "method"), [(None, "bootstrap"), (np.array([7, 9]), "cluster bootstrap")]
)
def test_groups_that_were_not_drawn_are_left_out(clusters: np.ndarray | None, method: str) -> None:
    estimate = GroupMean(np.array([True, False]), np.array([0, 1]), clusters)
    # Both, the first alone or the second alone: means 0.5, 1 and 0.
    found = intervals({"": estimate}, resamples=400, methods={"": method})[""]
    assert found == Interval(0.0, 1.0, method, 0.95)


def test_nothing_to_resample() -> None:
    nothing, none = np.empty(0, bool), np.empty(0, int)
    groups = (GroupMean(nothing, none), GroupMean(nothing, none, none))
    for estimate in (Mean(none, none), Median(none, none), *groups):
        with pytest.raises(ValueError, match="no samples"):
            interval_of(estimate)
    with pytest.raises(ValueError, match="no share"):
        interval_of(Proportion(nothing))


def test_mean_of_groups_equals_a_plain_bootstrap_over_clusters() -> None:
    rng = np.random.default_rng(6)
    clusters = rng.integers(0, 40, 200)
    groups = rng.choice([0, 2, 3], size=200, p=[0.1, 0.3, 0.6])
    hits = (rng.random(200) + rng.random(40)[clusters]) / 2 < np.array([0.7, 0, 0.5, 0.4])[groups]
    labels = np.unique(clusters)
    rows = [np.flatnonzero(clusters == label) for label in labels]
    means = []
    for _ in range(1500):
        drawn = np.concatenate([rows[i] for i in rng.integers(len(labels), size=len(labels))])
        recalls = [hits[drawn][groups[drawn] == g].mean() for g in np.unique(groups[drawn])]
        means.append(np.mean(recalls))
    found = interval_of(GroupMean(hits, groups, clusters), resamples=20_000)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.012)
    assert found.method == "cluster bootstrap"


def test_wilson_stays_within_bounds() -> None:
    for n in range(1, 300):
        assert 0.0 <= wilson(0, n).low < 1e-12
        assert 1 - 1e-12 < wilson(n, n).high <= 1.0


def test_independent_samples_are_drawn_by_a_multinomial_of_the_first_seed() -> None:
    """Two groups of one sample each: two kinds, of which two are drawn."""
    drawn = np.random.default_rng(0).multinomial(2, [0.5, 0.5], size=33)
    means = (drawn[:, 0] > 0) / (drawn > 0).sum(axis=1)
    estimate = {"": GroupMean(np.array([False, True]), np.array([1, 0]))}
    found = intervals(estimate, methods={"": "bootstrap"}, resamples=33)[""]
    assert list(found[:2]) == np.quantile(means, [0.025, 0.975]).tolist()
    # As `np.unique` sorts them, the kind of group 0 comes first.
    total = np.random.default_rng(0).multinomial(3, [1 / 3, 1 / 3, 1 / 3], size=33)
    sums = FunctionOfSums(Terms(np.array([1, 5, 9])), lambda terms: terms.values / 3)
    found = interval_of(sums, resamples=33)
    assert list(found[:2]) == np.quantile(total @ [1, 5, 9] / 3, [0.025, 0.975]).tolist()


class Terms(NamedTuple):
    values: np.ndarray


def test_resamples_without_a_value_do_not_count() -> None:
    """Of two samples one has no value, and a resample of that alone has none."""
    terms = Terms(np.array([1.0, 0.0]))
    ratio = FunctionOfSums(terms, lambda some: np.where(some.values > 0, some.values, np.nan))
    found = interval_of(ratio, seed=3)
    assert (found.low, found.high) == (1.0, 2.0)
    nowhere = FunctionOfSums(terms, lambda some: some.values * np.nan)
    assert intervals({"it": nowhere}) == {}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_hit_and_no_miss_have_intervals_of_some_width(share: float) -> None:
    """All captions of an image alike, the samples are no more than images: 3 / (3 + 3.84)."""
    hits, clusters = np.full(15, share, bool), np.repeat([4, 7, 2], 5)
    found = interval_of(Mean(hits, clusters))
    low, high = sorted((share, abs(share - 3.841459 / (3 + 3.841459))))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)


def test_wilson_of_clusters_has_the_standard_error_of_their_means() -> None:
    """Four images of two captions each: shares 1, 1, 1/2, 0 have a variance of 11/48 / 4."""
    hits = np.array([1, 1, 1, 1, 1, 0, 0, 0], bool)
    found = interval_of(Mean(hits, np.repeat(np.arange(4), 2)))
    n = (5 / 8) * (3 / 8) / (11 / 48 / 4)
    assert n == pytest.approx(4.0909, abs=1e-4)
    center = (5 / 8 + 3.841459 / (2 * n)) / (1 + 3.841459 / n)
    assert (found.low + found.high) / 2 == pytest.approx(center, abs=1e-6)
    assert interval_of(Mean(hits, np.arange(8))) == wilson(5, 8)


def test_jackknife_leaves_each_image_out_in_turn() -> None:
    class Parts(NamedTuple):
        part: np.ndarray
        whole: np.ndarray

    parts = Parts(np.array([3.0, 1.0, 2.0]), np.array([4.0, 5.0, 3.0]))
    estimate = FunctionOfSums(parts, lambda sums: ratio(sums.part, sums.whole), jackknife=True)
    left = np.array([3 / 8, 5 / 7, 4 / 9])
    half = 4.302653 * np.sqrt(2 / 3 * ((left - left.mean()) ** 2).sum())
    assert half > 0.5
    assert interval_of(estimate) == Interval(0.0, 1.0, "jackknife t", 0.95)
    found = interval_of(estimate, level=0.5)
    half *= 0.816497 / 4.302653
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    alone = FunctionOfSums(Parts(*(part[:1] for part in parts)), estimate.function, jackknife=True)
    assert interval_of(alone).method == "exact, all alike"


def test_stored_methods_of_earlier_versions_are_kept() -> None:
    hits, clusters = np.random.default_rng(0).random(30) < 0.5, np.repeat(np.arange(6), 5)
    former = intervals({"it": Mean(hits, clusters)}, methods={"it": "cluster bootstrap"})
    assert former["it"] == interval_of(Mean(hits.astype(float), clusters))
    invented = intervals({"it": Mean(hits, clusters)}, methods={"it": "mine"})
    assert invented["it"].method == "wilson, effective n"


@pytest.mark.parametrize("is_all", [True, False])
def test_all_or_none_of_one_group_is_clopper_and_pearsons(is_all):
    hits = np.full(50, is_all)
    for lowest in (False, True):
        found = intervals({"": GroupMean(hits, np.zeros(50, int), lowest=lowest)})[""]
        expected = binomtest(int(hits.sum()), 50).proportion_ci()
        assert found[:2] == pytest.approx((expected.low, expected.high))
        assert found.method == ("exact, lowest of groups" if lowest else "exact, all or none")


def test_all_or_none_is_the_worst_mean_that_may_still_be_by_a_search():
    """The shares of misses of three groups on a grid, of which all are missed together 2.5% of
    the time or more often."""
    sizes = np.array([2, 3, 12])
    low = intervals({"": GroupMean(np.ones(17, bool), np.repeat([0, 1, 2], sizes))})[""].low
    grid = np.linspace(0, 1, 201)
    misses = np.stack(np.meshgrid(grid, grid, grid[:60])).reshape(3, -1)
    possible = ((1 - misses) ** sizes[:, None]).prod(axis=0) >= 0.025
    assert low == pytest.approx(1 - misses[:, possible].mean(axis=0).max(), abs=0.005)
    lowest = GroupMean(np.ones(17, bool), np.repeat([0, 1, 2], sizes), lowest=True)
    assert intervals({"": lowest})[""].low == pytest.approx(0.025 ** (1 / 2))


def test_the_interval_of_a_mean_of_shares_has_all_likely_means_by_a_search():
    """The shares of three groups on a grid, whose log-likelihood is at most 3.84 / 2 below that of
    the shares found: half of the chi-squared quantile."""
    right, sizes = np.array([1, 3, 10]), np.array([2, 3, 12])
    grid = np.linspace(0.005, 0.995, 100)
    shares = np.stack(np.meshgrid(grid, grid, grid)).reshape(3, -1)
    found = right[:, None] * np.log(shares) + (sizes - right)[:, None] * np.log(1 - shares)
    of_found = np.log(1 / 2) + 10 * np.log(10 / 12) + 2 * np.log(2 / 12) + np.log(1 / 2)
    likely = shares[:, found.sum(axis=0) >= of_found - 1.920729].mean(axis=0)
    hits = np.concatenate([np.arange(n) < k for k, n in zip(right, sizes, strict=True)])
    mean = GroupMean(hits, np.repeat([0, 1, 2], sizes))
    interval = or_likelihood(Interval(0.7, 0.75, "bootstrap", 0.95), mean, 0.95)
    assert interval[:2] == pytest.approx((likely.min(), likely.max()), abs=0.01)
    assert interval.method == "bootstrap or likelihood"
    assert or_likelihood(Interval(0.1, 0.99, "bootstrap", 0.95), mean, 0.95)[:2] == (0.1, 0.99)


def test_misses_of_a_rare_class_are_possible_though_no_resample_has_them():
    """99 of 100 of one class, all two of another: by the bootstrap of the second alone a point."""
    mean = GroupMean(np.arange(102) != 7, np.repeat([0, 1], [100, 2]))
    former = intervals({"": mean}, methods={"": "bootstrap"})[""]
    found = interval_of(mean)
    assert former.low > 0.98
    assert found.low < 0.8


def test_clusters_of_all_or_none_count_once():
    """Two groups of the same 20 images, as if each had 10 of its own, whatever their hits."""
    images, groups = np.repeat(np.arange(20), 6), np.tile([0, 0, 0, 1, 1, 1], 20)
    found = intervals({"": GroupMean(np.ones(120, bool), groups, images)})[""]
    assert found.low == pytest.approx(0.025 ** (1 / 20))


def test_none_of_a_group_right_bounds_the_lowest_of_stored_results():
    """None of 20 of one group, of 5 of another; others are right."""
    groups = np.repeat([0, 1, 2], [20, 5, 30])
    estimate = {"": GroupMean(groups == 2, groups, lowest=True)}
    found = intervals(estimate, methods={"": "exact, all or none"})[""]
    assert found[:2] == pytest.approx((0, binomtest(0, 20).proportion_ci().high))


def test_stored_intervals_of_a_point_stay():
    estimate = {"": GroupMean(np.ones(5, bool), np.zeros(5, int))}
    assert intervals(estimate, methods={"": "bootstrap"})[""][:2] == (1, 1)
    assert 0 < intervals({"": estimate[""]._replace(hits=np.arange(5) > 0)})[""].low < 1
