"""Means over several data sets: against scipy, a plain loop, hand-solved cases and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from cosmos_eval.stats.estimates import GroupMean, Mean, Proportion
from cosmos_eval.stats.suites import interval_of, resample, standings


def test_the_interval_of_a_mean_of_two_sets_is_scipys() -> None:
    rng = np.random.default_rng(0)
    sets = [rng.random(size) < share for size, share in ((300, 0.8), (120, 0.3))]
    drawn = [resample({"x": Proportion(hits)}, seed=i)[0]["x"] for i, hits in enumerate(sets)]
    mean = float(np.mean([hits.mean() for hits in sets]))
    found = interval_of(mean, np.mean(drawn, axis=0), 120)
    assert found.low + found.high == pytest.approx(2 * mean)
    expected = bootstrap(
        sets,
        lambda a, b, axis: (a.mean(axis=axis) + b.mean(axis=axis)) / 2,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found[:2] == pytest.approx([*expected], abs=0.004)  # a tenth of its half width


def test_estimates_of_one_seed_are_of_the_same_draws() -> None:
    """Each value is that of a plain loop over the generator's own draws."""
    rng = np.random.default_rng(3)
    hits, groups = rng.random((2, 40)) < 0.5, (np.arange(40) % 3 > 0).astype(int)
    values, clusters = rng.random(80), np.repeat(np.arange(40), 2)
    several = {
        "share": Proportion(hits[0]),
        "other": Proportion(hits[1]),
        "mean": Mean(values, clusters),
        "groups": GroupMean(hits[0], groups),
        "other groups": GroupMean(hits[1], groups.copy()),
        "lowest": GroupMean(hits[0], groups, lowest=True),
    }
    drawn, size = resample(several, seed=7, resamples=50)
    assert size == 40
    plain = np.random.default_rng(7).integers(40, size=(50, 40))
    for index, draw in enumerate(plain):
        assert drawn["share"][index] == pytest.approx(hits[0][draw].mean())
        assert drawn["other"][index] == pytest.approx(hits[1][draw].mean())
        assert drawn["mean"][index] == pytest.approx(values.reshape(40, 2)[draw].mean())
        for name, of_model in zip(("groups", "other groups"), hits, strict=True):
            halves = [of_model[draw[groups[draw] == group]].mean() for group in (0, 1)]
            assert drawn[name][index] == pytest.approx(np.mean(halves))
        halves = [hits[0][draw[groups[draw] == group]].mean() for group in (0, 1)]
        assert drawn["lowest"][index] == pytest.approx(min(halves))


def test_samples_of_few_kinds_are_drawn_as_single_ones_are() -> None:
    """Means and covariances of 2,000 draws of kinds and of samples, which one more mean forces."""
    rng = np.random.default_rng(5)
    n, groups = 1_500, rng.integers(3, size=1_500)
    first, second = rng.random((2, n)) < 0.2 + 0.2 * groups
    several = {
        "first": Proportion(first),
        "both": Proportion(first & second),
        "groups": GroupMean(second, groups),
        "lowest": GroupMean(first, groups, lowest=True),
    }
    kinds, size = resample(several, seed=0)
    single, _ = resample({**several, "more": Mean(np.zeros(n), np.arange(n))}, seed=1)
    assert size == n
    both = [np.stack([drawn[name] for name in several]) for drawn in (kinds, single)]
    cov, expected = map(np.cov, both)
    np.testing.assert_allclose(cov, expected, atol=0.12 * expected.diagonal().max())
    apart = (both[0].mean(axis=1) - both[1].mean(axis=1)) / np.sqrt(expected.diagonal() / 1_000)
    assert np.abs(apart).max() < 4


def test_one_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="two images or more"):
        resample({"x": Proportion(np.array([True]))}, seed=0)


def test_p_values_of_neighbours_do_not_depend_on_the_order_of_equal_models() -> None:
    """600 studies of two equally good models: p is at most 5% in 5% of them (standard error 0.9
    points) and 0.5 on average, although the better one of each study is first. The share of
    resamples in which the first is above would be 0.75 on average."""
    found = []
    for seed in range(600):
        hits = np.random.default_rng(seed).random((2, 300)) < 0.7
        several = {str(index): Proportion(one) for index, one in enumerate(hits)}
        drawn, n = resample(several, seed=seed, resamples=400)
        order = np.argsort(-hits.mean(axis=1))
        draws = [drawn[str(index)] for index in order]
        first, last = standings(hits.mean(axis=1)[order].tolist(), draws, n)
        assert last.p_next is None
        found.append(first.p_next)
    assert np.mean(found) == pytest.approx(0.5, abs=0.04)
    assert 0.03 <= np.mean(np.array(found) <= 0.05) <= 0.07


def test_equal_means_have_a_p_value_of_one() -> None:
    draws = np.random.default_rng(0).normal(0.5, 0.1, 500)
    assert standings([0.5, 0.5], [draws, draws.copy()], 30)[0].p_next == 1


def test_ranks_follow_from_paired_differences() -> None:
    """The first two vary together, so that their difference of 0.1 is exact; the third varies on
    its own, by a standard error of 0.2."""
    common, own = np.random.default_rng(0).normal(0, 0.2, (2, 2_000))
    means = [0.6, 0.5, 0.45]
    first, second, third = standings(means, [0.6 + common, 0.5 + common, 0.45 + own], 100)
    assert (first.ranks, second.ranks, third.ranks) == ((1, 2), (2, 3), (1, 3))
    assert (first.tied, second.tied, third.tied) == ({2}, {2}, {0, 1})


def test_ranks_of_many_means_hold_at_once() -> None:
    """2.5 standard errors tell two means apart, and not one of 190 pairs."""
    draws = np.random.default_rng(0).normal(0, 1, (20, 2_000))
    draws = (draws - draws.mean(axis=1, keepdims=True)) / draws.std(axis=1, keepdims=True)
    means = [2.5 * 2**0.5, *[0.0] * 19]
    two = standings(means[:2], [*draws[:2]], 10_000)
    assert [one.ranks for one in two] == [(1, 1), (2, 2)]
    assert standings(means, [*draws], 10_000)[0].ranks[1] > 1


def test_intervals_of_means_hold_the_truth_as_often_as_they_say() -> None:
    """1,000 studies of five sets; the standard error of their share is 0.7 points."""
    rng, studies = np.random.default_rng(0), 1_000
    sets = [(80, 0.9), (100, 0.75), (150, 0.5), (200, 0.3), (250, 0.95)]
    drawn, values = [], np.zeros(studies)
    for seed, (size, share) in enumerate(sets):
        hits = rng.random((studies, size)) < share
        values += hits.mean(axis=1) / len(sets)
        several = {str(study): Proportion(one) for study, one in enumerate(hits)}
        drawn.append(resample(several, seed=seed)[0])
    true = np.mean([share for _, share in sets])
    holds = 0
    for study in range(studies):
        several = [one[str(study)] for one in drawn]
        low, high = interval_of(values[study], np.mean(several, axis=0), 80)[:2]
        holds += low <= true <= high
    assert 0.93 <= holds / studies <= 0.97
