"""Intervals: against scipy, normal theory, a plain bootstrap, and in simulated studies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import binomtest
from support.coverage import cluster_coverage, miou_coverage, wilson_coverage

from cosmos_eval.stats.estimates import (
    Estimate,
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

# The quantile of the chi-squared distribution of one degree of freedom: 1.96 squared.
CHI_SQUARED_95 = 3.841459
# The quantiles 0.975 and 0.75 of Student's t of two degrees of freedom.
T_975_OF_2 = 4.302653
T_75_OF_2 = 0.816497


def interval_of(estimate: Estimate, **options: int) -> Interval:
    return intervals({"metric": estimate}, **options)["metric"]


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (7, 7), (1, 3), (412, 500), (1, 100_000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_equals_scipy(successes: int, n: int, level: float) -> None:
    expected = binomtest(successes, n).proportion_ci(level, method="wilson")
    interval = wilson(successes, n, level)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (interval.method, interval.level) == ("wilson", level)
    assert type(interval.low) is type(interval.high) is float


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 4), (5, 4)])
def test_wilson_refuses_counts_that_are_not_a_share(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson(successes, n)


def test_the_interval_of_a_proportion_is_wilsons() -> None:
    interval = interval_of(Proportion(np.array([True, False, True])))
    assert interval == wilson(2, 3)


def test_the_interval_of_equal_values_holds_means_with_values_that_no_cluster_has() -> None:
    """Four clusters may all miss up to 1 - 0.025^(1/4) of the population.

    The missed share may have any value from 0 to 1, the bounds of the metric. Without a bound,
    there is no interval.
    """
    estimates = {"metric": Mean(np.full(6, 0.25), np.array([0, 0, 1, 1, 2, 9]))}
    stored = intervals(estimates, methods={"metric": "cluster bootstrap"})["metric"]
    assert stored == Interval(0.25, 0.25, "cluster bootstrap", 0.95)
    missed_share = 1 - 0.025**0.25
    interval = intervals(estimates)["metric"]
    expected = (0.25 - missed_share * 0.25, 0.25 + missed_share * 0.75)
    assert interval[:2] == pytest.approx(expected)
    assert interval.method == "exact, all alike"
    assert intervals(estimates, bounds={"metric": (0, np.inf)}) == {}


def test_cluster_bootstrap_equals_normal_theory_for_many_clusters() -> None:
    values = np.random.default_rng(0).random(4000)
    interval = interval_of(Mean(values, np.arange(4000)), resamples=4000)
    half_width = 1.96 * values.std() / np.sqrt(4000)
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.1 * half_width)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.1 * half_width)


def test_cluster_bootstrap_is_fixed_by_its_seed() -> None:
    a_values, b_values = np.random.default_rng(1).random((2, 60))
    clusters = np.repeat(np.arange(12), 5)
    estimates = {"a": Mean(a_values, clusters), "b": Mean(b_values, clusters)}
    first, second, other_seed = (intervals(estimates, seed=seed) for seed in (3, 3, 4))
    assert first == second
    assert all(first[name] != other_seed[name] for name in estimates)
    # Clusters that are equal, but another array, are drawn alike.
    of_copied_clusters = interval_of(Mean(b_values, clusters.copy()), seed=3)
    assert of_copied_clusters[:2] == pytest.approx(first["b"][:2])


@pytest.mark.parametrize("resamples", [1, 199, 200, 201])
def test_blocks_make_all_resamples(resamples: int) -> None:
    """A resample of 7 clusters takes 7 numbers of the generator.

    This holds for any number of resamples, although they are computed in blocks of 200.
    """
    values = np.random.default_rng(2).random(7)
    drawn_clusters = np.random.default_rng(5).integers(7, size=(resamples, 7))
    expected = np.quantile(values[drawn_clusters].mean(axis=1), [0.025, 0.975])
    estimates, methods = {"metric": Mean(values, np.arange(7))}, {"metric": "cluster bootstrap"}
    interval = intervals(estimates, seed=5, resamples=resamples, methods=methods)["metric"]
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=1e-12)


@pytest.mark.parametrize(("n", "share"), [(500, 0.7), (500, 0.95), (5000, 0.4)])
def test_wilson_covers(n: int, share: float) -> None:
    assert 0.93 <= wilson_coverage(n, share, studies=10_000) <= 0.97


def test_wilson_of_clusters_covers_if_captions_of_an_image_depend_on_each_other() -> None:
    assert 0.93 <= cluster_coverage(200, blocks=10) <= 0.97
    assert cluster_coverage(200, blocks=10, by_image=False) < 0.9


def test_jackknife_of_miou_covers() -> None:
    # Fewer studies of fewer images than benchmarks/coverage.py has.
    assert 0.91 <= miou_coverage(150, 0.3, blocks=2) <= 0.985


def test_cluster_median_equals_medians_of_the_same_draws() -> None:
    rng = np.random.default_rng(7)
    clusters = rng.choice([2, 5, 6, 9], size=31)
    values = rng.integers(1, 9, size=31)
    values_by_cluster = [values[clusters == cluster] for cluster in (2, 5, 6, 9)]
    resampled_values = [
        np.concatenate([values_by_cluster[index] for index in drawn_clusters])
        for drawn_clusters in np.random.default_rng(3).integers(4, size=(200, 4))
    ]
    # Some resamples have an even number of values, some an odd number.
    assert {len(resample) % 2 for resample in resampled_values} == {0, 1}
    interval = interval_of(Median(values, clusters), seed=3, resamples=200)
    medians = [np.median(resample) for resample in resampled_values]
    assert [interval.low, interval.high] == np.quantile(medians, [0.025, 0.975]).tolist()
    assert interval.method == "cluster bootstrap"


def test_a_floored_median_is_the_whole_number_below() -> None:
    """It is numpy.floor(numpy.median(ranks from 0)) + 1, also in resamples.

    Resamples of the ranks 3 and 6 have the medians 3, 4 and 6.
    """
    ranks = np.array([3, 6])
    median = Median(ranks, np.arange(2), floor=True)
    assert median.value == np.floor(np.median(ranks - 1)) + 1 == 4
    (resampled,) = resample([statistic_of({"median": median})], np.ones(2, int), resamples=50)
    assert set(resampled["median"]) == {3, 4, 6}


def test_mean_class_recall_equals_a_plain_bootstrap_over_images() -> None:
    rng = np.random.default_rng(5)
    labels = rng.choice([0, 1, 4], size=150, p=[0.1, 0.3, 0.6])
    hits = rng.random(150) < np.array([0.9, 0.5, 0, 0, 0.3])[labels]
    mean_recalls = []
    for _ in range(3000):
        drawn_images = rng.integers(150, size=150)
        mean_recalls.append(mean_hits_of_groups(hits[drawn_images], labels[drawn_images]))
    estimates = {"metric": GroupMean(hits, labels)}
    interval = intervals(estimates, methods={"metric": "bootstrap"}, resamples=20_000)["metric"]
    expected = np.quantile(mean_recalls, [0.025, 0.975])
    assert (interval.low, interval.high) == pytest.approx(expected, abs=0.012)


def mean_hits_of_groups(hits: np.ndarray, groups: np.ndarray) -> float:
    """Return the mean over groups of their shares of hits."""
    shares = [hits[groups == group].mean() for group in np.unique(groups)]
    return float(np.mean(shares))


@pytest.mark.parametrize(
    ("clusters", "method"), [(None, "bootstrap"), (np.array([7, 9]), "cluster bootstrap")]
)
def test_groups_that_were_not_drawn_are_left_out(clusters: np.ndarray | None, method: str) -> None:
    estimates = {"metric": GroupMean(np.array([True, False]), np.array([0, 1]), clusters)}
    # A resample has both groups, the first only or the second only: means 0.5, 1 and 0.
    interval = intervals(estimates, resamples=400, methods={"metric": method})["metric"]
    assert interval == Interval(0.0, 1.0, method, 0.95)


def test_estimates_without_samples_are_refused() -> None:
    no_hits, no_numbers = np.empty(0, bool), np.empty(0, int)
    estimates = (
        Mean(no_numbers, no_numbers),
        Median(no_numbers, no_numbers),
        GroupMean(no_hits, no_numbers),
        GroupMean(no_hits, no_numbers, no_numbers),
    )
    for estimate in estimates:
        with pytest.raises(ValueError, match="no samples"):
            interval_of(estimate)
    with pytest.raises(ValueError, match="no share"):
        interval_of(Proportion(no_hits))


def test_mean_of_groups_equals_a_plain_bootstrap_over_clusters() -> None:
    rng = np.random.default_rng(6)
    clusters = rng.integers(0, 40, 200)
    groups = rng.choice([0, 2, 3], size=200, p=[0.1, 0.3, 0.6])
    hits = (rng.random(200) + rng.random(40)[clusters]) / 2 < np.array([0.7, 0, 0.5, 0.4])[groups]
    labels = np.unique(clusters)
    samples_by_cluster = [np.flatnonzero(clusters == label) for label in labels]
    means = []
    for _ in range(1500):
        drawn_clusters = rng.integers(len(labels), size=len(labels))
        drawn_samples = np.concatenate([samples_by_cluster[index] for index in drawn_clusters])
        means.append(mean_hits_of_groups(hits[drawn_samples], groups[drawn_samples]))
    interval = interval_of(GroupMean(hits, groups, clusters), resamples=20_000)
    expected = np.quantile(means, [0.025, 0.975])
    assert (interval.low, interval.high) == pytest.approx(expected, abs=0.012)
    assert interval.method == "cluster bootstrap"


def test_wilson_stays_within_bounds() -> None:
    for n in range(1, 300):
        assert 0.0 <= wilson(0, n).low < 1e-12
        assert 1 - 1e-12 < wilson(n, n).high <= 1.0


def test_independent_samples_are_drawn_by_a_multinomial_of_seed_0() -> None:
    """In means of groups and in functions of sums.

    Two groups of one sample each are two kinds of samples, of which two are drawn. `np.unique`
    sorts them, so that group 0, whose sample is a hit, comes first.
    """

    def mean_of_three(sums: OneTerm) -> np.ndarray:
        return sums.values / 3

    times_drawn = np.random.default_rng(0).multinomial(2, [0.5, 0.5], size=33)
    means = (times_drawn[:, 0] > 0) / (times_drawn > 0).sum(axis=1)
    estimates = {"metric": GroupMean(np.array([False, True]), np.array([1, 0]))}
    interval = intervals(estimates, methods={"metric": "bootstrap"}, resamples=33)["metric"]
    assert list(interval[:2]) == np.quantile(means, [0.025, 0.975]).tolist()

    times_drawn = np.random.default_rng(0).multinomial(3, [1 / 3, 1 / 3, 1 / 3], size=33)
    means = times_drawn @ [1, 5, 9] / 3
    estimate = FunctionOfSums(OneTerm(np.array([1, 5, 9])), mean_of_three)
    interval = interval_of(estimate, resamples=33)
    assert list(interval[:2]) == np.quantile(means, [0.025, 0.975]).tolist()


class OneTerm(NamedTuple):
    """The only term that the metric is computed from."""

    values: np.ndarray


def test_resamples_without_a_value_do_not_count() -> None:
    """One of two samples has no value, and so has a resample that draws it twice."""

    def positive_sum(sums: OneTerm) -> np.ndarray:
        return np.where(sums.values > 0, sums.values, np.nan)

    def no_value(sums: OneTerm) -> np.ndarray:
        return sums.values * np.nan

    terms = OneTerm(np.array([1.0, 0.0]))
    interval = interval_of(FunctionOfSums(terms, positive_sum), seed=3)
    assert (interval.low, interval.high) == (1.0, 2.0)
    assert intervals({"metric": FunctionOfSums(terms, no_value)}) == {}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_intervals_of_no_hit_and_of_no_miss_are_not_points(share: float) -> None:
    """All five captions of an image are alike, so that only the three images count as samples.

    Wilson's interval then is 3.84 / (3 + 3.84) wide.
    """
    hits, images = np.full(15, share, bool), np.repeat([4, 7, 2], 5)
    interval = interval_of(Mean(hits, images))
    width = CHI_SQUARED_95 / (3 + CHI_SQUARED_95)
    low, high = sorted((share, abs(share - width)))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-6)


def test_wilson_of_clusters_has_the_standard_error_of_their_means() -> None:
    """Four images of two captions each: shares 1, 1, 1/2, 0 have a variance of 11/48 / 4."""
    hits = np.array([1, 1, 1, 1, 1, 0, 0, 0], bool)
    interval = interval_of(Mean(hits, np.repeat(np.arange(4), 2)))
    effective_n = (5 / 8) * (3 / 8) / (11 / 48 / 4)
    assert effective_n == pytest.approx(4.0909, abs=1e-4)
    center = 5 / 8 + CHI_SQUARED_95 / (2 * effective_n)
    center /= 1 + CHI_SQUARED_95 / effective_n
    assert (interval.low + interval.high) / 2 == pytest.approx(center, abs=1e-6)
    assert interval_of(Mean(hits, np.arange(8))) == wilson(5, 8)


class Shares(NamedTuple):
    """Numerators and denominators of images, for a ratio of their sums."""

    numerator: np.ndarray
    denominator: np.ndarray


def ratio_of_sums(sums: Shares) -> np.ndarray:
    return ratio(sums.numerator, sums.denominator)


def test_jackknife_leaves_each_image_out_in_turn() -> None:
    images = Shares(np.array([3.0, 1.0, 2.0]), np.array([4.0, 5.0, 3.0]))
    estimate = FunctionOfSums(images, ratio_of_sums, jackknife=True)
    without_each = np.array([3 / 8, 5 / 7, 4 / 9])
    squares = (without_each - without_each.mean()) ** 2
    error = np.sqrt(2 / 3 * squares.sum())
    # The ratio is 6 / 12, and the interval is cut off at 0 and 1.
    assert T_975_OF_2 * error > 0.5
    assert interval_of(estimate) == Interval(0.0, 1.0, "jackknife t", 0.95)
    half_width = T_75_OF_2 * error
    interval = interval_of(estimate, level=0.5)
    expected = (0.5 - half_width, 0.5 + half_width)
    assert (interval.low, interval.high) == pytest.approx(expected, abs=1e-6)
    first_image = Shares(images.numerator[:1], images.denominator[:1])
    single_image = FunctionOfSums(first_image, ratio_of_sums, jackknife=True)
    assert interval_of(single_image).method == "exact, all alike"


def test_stored_methods_of_earlier_versions_are_kept() -> None:
    hits, clusters = np.random.default_rng(0).random(30) < 0.5, np.repeat(np.arange(6), 5)
    estimates = {"metric": Mean(hits, clusters)}
    stored = intervals(estimates, methods={"metric": "cluster bootstrap"})
    assert stored["metric"] == interval_of(Mean(hits.astype(float), clusters))
    of_unknown_method = intervals(estimates, methods={"metric": "mine"})
    assert of_unknown_method["metric"].method == "wilson, effective n"


@pytest.mark.parametrize("all_hit", [True, False])
def test_all_or_none_of_one_group_is_clopper_and_pearsons(all_hit: bool) -> None:
    hits = np.full(50, all_hit)
    expected = binomtest(int(hits.sum()), 50).proportion_ci()
    for lowest in (False, True):
        interval = interval_of(GroupMean(hits, np.zeros(50, int), lowest=lowest))
        assert interval[:2] == pytest.approx((expected.low, expected.high))
        assert interval.method == ("exact, lowest of groups" if lowest else "exact, all or none")


def test_all_hits_are_bounded_by_the_lowest_mean_that_is_still_possible() -> None:
    """Search shares of misses of three groups on a grid.

    Shares are possible if all samples of all groups are hits 2.5% of the time or more often. The
    lowest of the groups is bounded by the smallest one, of two samples.
    """
    sizes = np.array([2, 3, 12])
    groups = np.repeat([0, 1, 2], sizes)
    low = interval_of(GroupMean(np.ones(17, bool), groups)).low
    grid = np.linspace(0, 1, 201)
    misses = np.stack(np.meshgrid(grid, grid, grid[:60])).reshape(3, -1)
    possible = ((1 - misses) ** sizes[:, None]).prod(axis=0) >= 0.025
    assert low == pytest.approx(1 - misses[:, possible].mean(axis=0).max(), abs=0.005)
    lowest = GroupMean(np.ones(17, bool), groups, lowest=True)
    assert interval_of(lowest).low == pytest.approx(0.025 ** (1 / 2))


def test_the_interval_of_a_mean_of_shares_has_all_likely_means() -> None:
    """Search shares of three groups on a grid.

    Shares are likely if their log-likelihood is at most 3.84 / 2, half of the chi-squared
    quantile, below that of the observed shares 1/2, 3/3 and 10/12.
    """
    hit_counts, sizes = np.array([1, 3, 10]), np.array([2, 3, 12])
    miss_counts = sizes - hit_counts
    grid = np.linspace(0.005, 0.995, 100)
    shares = np.stack(np.meshgrid(grid, grid, grid)).reshape(3, -1)
    by_group = hit_counts[:, None] * np.log(shares) + miss_counts[:, None] * np.log(1 - shares)
    log_likelihood = by_group.sum(axis=0)
    highest = np.log(1 / 2) + 10 * np.log(10 / 12) + 2 * np.log(2 / 12) + np.log(1 / 2)
    is_likely = log_likelihood >= highest - CHI_SQUARED_95 / 2
    likely_means = shares[:, is_likely].mean(axis=0)
    hits = np.concatenate(
        [np.arange(n) < n_hits for n_hits, n in zip(hit_counts, sizes, strict=True)]
    )
    mean = GroupMean(hits, np.repeat([0, 1, 2], sizes))
    interval = or_likelihood(Interval(0.7, 0.75, "bootstrap", 0.95), mean, 0.95)
    assert interval[:2] == pytest.approx((likely_means.min(), likely_means.max()), abs=0.01)
    assert interval.method == "bootstrap or likelihood"
    assert or_likelihood(Interval(0.1, 0.99, "bootstrap", 0.95), mean, 0.95)[:2] == (0.1, 0.99)


def test_misses_of_a_rare_class_are_possible_though_no_resample_has_them() -> None:
    """99 of 100 images of one class are hits, and both images of another.

    For the second class, all resamples of a bootstrap have the same recall.
    """
    mean = GroupMean(np.arange(102) != 7, np.repeat([0, 1], [100, 2]))
    bootstrap = intervals({"metric": mean}, methods={"metric": "bootstrap"})["metric"]
    assert bootstrap.low > 0.98
    assert interval_of(mean).low < 0.8


def test_clusters_of_all_or_none_count_once() -> None:
    """Two groups of the same 20 images count as if each had 10 images of its own."""
    images, groups = np.repeat(np.arange(20), 6), np.tile([0, 0, 0, 1, 1, 1], 20)
    interval = interval_of(GroupMean(np.ones(120, bool), groups, images))
    assert interval.low == pytest.approx(0.025 ** (1 / 20))


def test_a_group_without_hits_bounds_the_lowest_share_of_stored_results() -> None:
    """None of 20 samples of one group are hits, none of 5 of another, and all of a third."""
    groups = np.repeat([0, 1, 2], [20, 5, 30])
    estimates = {"metric": GroupMean(groups == 2, groups, lowest=True)}
    interval = intervals(estimates, methods={"metric": "exact, all or none"})["metric"]
    assert interval[:2] == pytest.approx((0, binomtest(0, 20).proportion_ci().high))


def test_a_stored_bootstrap_interval_stays_a_point() -> None:
    all_hits = GroupMean(np.ones(5, bool), np.zeros(5, int))
    stored = intervals({"metric": all_hits}, methods={"metric": "bootstrap"})["metric"]
    assert stored[:2] == (1, 1)
    one_miss = all_hits._replace(hits=np.arange(5) > 0)
    assert 0 < interval_of(one_miss).low < 1
