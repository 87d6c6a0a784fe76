"""Means over several data sets: against scipy, a plain loop, hand-solved cases and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from cosmos_eval.stats.estimates import GroupMean, Mean, Proportion
from cosmos_eval.stats.suites import interval_of, resample, resample_overlapping, standings


def test_the_interval_of_a_mean_of_two_sets_is_scipys() -> None:
    rng = np.random.default_rng(0)
    sets = [rng.random(size) < share for size, share in ((300, 0.8), (120, 0.3))]
    resampled_sets = []
    for seed, hits in enumerate(sets):
        resampled, _ = resample({"share": Proportion(hits)}, seed=seed)
        resampled_sets.append(resampled["share"])
    mean = float(np.mean([hits.mean() for hits in sets]))
    interval = interval_of(mean, np.mean(resampled_sets, axis=0), 120)
    assert interval.low + interval.high == pytest.approx(2 * mean)

    def mean_of_two_sets(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return (a.mean(axis=axis) + b.mean(axis=axis)) / 2

    expected = bootstrap(
        sets,
        mean_of_two_sets,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert interval[:2] == pytest.approx([*expected], abs=0.004)  # a tenth of its half width


def test_estimates_are_resampled_together() -> None:
    """Each value is that of a plain loop over the samples that the generator draws."""
    rng = np.random.default_rng(3)
    hits, groups = rng.random((2, 40)) < 0.5, (np.arange(40) % 3 > 0).astype(int)
    values, clusters = rng.random(80), np.repeat(np.arange(40), 2)
    estimates = {
        "share": Proportion(hits[0]),
        "other share": Proportion(hits[1]),
        "mean": Mean(values, clusters),
        "groups": GroupMean(hits[0], groups),
        "other groups": GroupMean(hits[1], groups.copy()),
        "lowest": GroupMean(hits[0], groups, lowest=True),
    }
    resampled, size = resample(estimates, seed=7, resamples=50)
    assert size == 40
    draws = np.random.default_rng(7).integers(40, size=(50, 40))
    for index, drawn_samples in enumerate(draws):
        share, other_share = hits[:, drawn_samples].mean(axis=1)
        assert resampled["share"][index] == pytest.approx(share)
        assert resampled["other share"][index] == pytest.approx(other_share)
        mean = values.reshape(40, 2)[drawn_samples].mean()
        assert resampled["mean"][index] == pytest.approx(mean)
        drawn_groups = [drawn_samples[groups[drawn_samples] == group] for group in (0, 1)]
        group_shares = [hits[0][samples].mean() for samples in drawn_groups]
        other_group_shares = [hits[1][samples].mean() for samples in drawn_groups]
        assert resampled["groups"][index] == pytest.approx(np.mean(group_shares))
        assert resampled["other groups"][index] == pytest.approx(np.mean(other_group_shares))
        assert resampled["lowest"][index] == pytest.approx(min(group_shares))


def test_resamples_of_kinds_have_the_distribution_of_resamples_of_samples() -> None:
    """Samples are drawn as few kinds, or one by one, if the mean of other values needs them.

    Means and covariances of 2,000 resamples are compared.
    """
    rng = np.random.default_rng(5)
    n, groups = 1_500, rng.integers(3, size=1_500)
    first, second = rng.random((2, n)) < 0.2 + 0.2 * groups
    estimates = {
        "first": Proportion(first),
        "both": Proportion(first & second),
        "groups": GroupMean(second, groups),
        "lowest": GroupMean(first, groups, lowest=True),
    }
    by_kind, size = resample(estimates, seed=0)
    needs_samples = Mean(np.zeros(n), np.arange(n))
    by_sample, _ = resample({**estimates, "zero": needs_samples}, seed=1)
    assert size == n
    values_by_kind = np.stack([by_kind[name] for name in estimates])
    values_by_sample = np.stack([by_sample[name] for name in estimates])
    covariance, expected = np.cov(values_by_kind), np.cov(values_by_sample)
    np.testing.assert_allclose(covariance, expected, atol=0.12 * expected.diagonal().max())
    # The variance of a difference of two means of 2,000 resamples is 2 / 2,000 of one resample's.
    standard_error = np.sqrt(expected.diagonal() / 1_000)
    differences = values_by_kind.mean(axis=1) - values_by_sample.mean(axis=1)
    assert np.abs(differences / standard_error).max() < 4


def test_one_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="two images or more"):
        resample({"x": Proportion(np.array([True]))}, seed=0)


def test_p_values_of_neighbours_do_not_depend_on_the_order_of_equal_models() -> None:
    """In 600 studies of two equally good models, the better one of each study is first.

    Still, p is at most 5% in 5% of the studies (standard error 0.9 points), and 0.5 on average.
    The share of resamples in which the first is above the second would be 0.75 on average.
    """
    p_values = []
    for seed in range(600):
        hits = np.random.default_rng(seed).random((2, 300)) < 0.7
        estimates = {str(index): Proportion(model) for index, model in enumerate(hits)}
        resampled, n = resample(estimates, seed=seed, resamples=400)
        order = np.argsort(-hits.mean(axis=1))
        means = hits.mean(axis=1)[order].tolist()
        first, second = standings(means, [resampled[str(index)] for index in order], n)
        assert second.p_next is None
        p_values.append(first.p_next)
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.04)
    assert 0.03 <= np.mean(np.array(p_values) <= 0.05) <= 0.07


def test_equal_means_have_a_p_value_of_one() -> None:
    draws = np.random.default_rng(0).normal(0.5, 0.1, 500)
    assert standings([0.5, 0.5], [draws, draws.copy()], 30)[0].p_next == 1


def test_ranks_follow_from_paired_differences() -> None:
    """The first two vary together, so that their difference of 0.1 is exact.

    The third varies independently, by a standard error of 0.2.
    """
    shared_noise, other_noise = np.random.default_rng(0).normal(0, 0.2, (2, 2_000))
    resampled = [0.6 + shared_noise, 0.5 + shared_noise, 0.45 + other_noise]
    first, second, third = standings([0.6, 0.5, 0.45], resampled, 100)
    assert (first.ranks, second.ranks, third.ranks) == ((1, 2), (2, 3), (1, 3))
    assert (first.tied, second.tied, third.tied) == ({2}, {2}, {0, 1})


def test_ranks_of_many_means_hold_at_once() -> None:
    """A difference of 2.5 standard errors tells two means apart, but no pair of 20 means."""
    draws = np.random.default_rng(0).normal(0, 1, (20, 2_000))
    draws = (draws - draws.mean(axis=1, keepdims=True)) / draws.std(axis=1, keepdims=True)
    means = [2.5 * 2**0.5, *[0.0] * 19]
    two = standings(means[:2], [*draws[:2]], 10_000)
    assert [standing.ranks for standing in two] == [(1, 1), (2, 2)]
    assert standings(means, [*draws], 10_000)[0].ranks[1] > 1


def test_intervals_of_means_cover_the_truth_as_often_as_they_say() -> None:
    """1,000 studies of five sets; the standard error of the covered share is 0.7 points."""
    rng, studies = np.random.default_rng(0), 1_000
    sets = [(80, 0.9), (100, 0.75), (150, 0.5), (200, 0.3), (250, 0.95)]
    resampled_sets, values = [], np.zeros(studies)
    for seed, (size, share) in enumerate(sets):
        hits = rng.random((studies, size)) < share
        values += hits.mean(axis=1) / len(sets)
        estimates = {str(study): Proportion(study_hits) for study, study_hits in enumerate(hits)}
        resampled, _ = resample(estimates, seed=seed)
        resampled_sets.append(resampled)
    true_mean = np.mean([share for _, share in sets])
    covered = 0
    for study in range(studies):
        resampled_mean = np.mean([resampled[str(study)] for resampled in resampled_sets], axis=0)
        low, high = interval_of(values[study], resampled_mean, 80)[:2]
        covered += low <= true_mean <= high
    assert 0.93 <= covered / studies <= 0.97


def test_overlapping_lists_get_the_draws_of_their_common_samples() -> None:
    """Each value is that of a plain loop over the samples that the generator draws."""
    rng = np.random.default_rng(5)
    lists = ["dabc", "fbcdeg"]
    hits = [rng.random(len(names)) < 0.5 for names in lists]
    groups = np.array([0, 1, 1, 0, 0, 1])
    estimates = [
        {"share": Proportion(hits[0])},
        {"share": Proportion(hits[1]), "groups": GroupMean(hits[1], groups)},
    ]
    resampled, size = resample_overlapping(estimates, lists, seed=7, resamples=50)
    assert size == 4
    for index, drawn_samples in enumerate(np.random.default_rng(7).integers(7, size=(50, 7))):
        drawn_names = np.array(list("dabcfeg"))[drawn_samples]
        for names, list_hits, values in zip(lists, hits, resampled, strict=True):
            hit_of_name = dict(zip(names, list_hits, strict=True))
            drawn_hits = [hit_of_name[name] for name in drawn_names if name in hit_of_name]
            expected = np.mean(drawn_hits) if drawn_hits else np.nan
            assert values["share"][index] == pytest.approx(expected, nan_ok=True)
        hits_of_groups: dict[int, list[bool]] = {}
        for name in drawn_names:
            if name in lists[1]:
                sample = lists[1].index(name)
                hits_of_groups.setdefault(int(groups[sample]), []).append(bool(hits[1][sample]))
        group_shares = [np.mean(group_hits) for group_hits in hits_of_groups.values()]
        expected = np.mean(group_shares) if group_shares else np.nan
        assert resampled[1]["groups"][index] == pytest.approx(expected, nan_ok=True)


def test_the_mean_of_overlapping_lists_has_the_error_of_its_formula() -> None:
    """Two lists of 400 samples, 300 of them in both, where the hits are the same."""
    rng = np.random.default_rng(6)
    names = [f"{n:03}" for n in range(500)]
    hits = rng.random(500) < 0.4
    lists = [names[:400], names[100:]]
    estimates = [{"share": Proportion(hits[:400])}, {"share": Proportion(hits[100:])}]
    resampled, _ = resample_overlapping(estimates, lists, seed=1)
    mean = (resampled[0]["share"] + resampled[1]["share"]) / 2
    # Each sample of one list counts 1 / 800, and of both lists 2 / 800.
    expected = np.sqrt(hits.var() * (200 / 800**2 + 300 * 4 / 800**2))
    assert mean.std() == pytest.approx(expected, rel=0.07)


def test_lists_that_repeat_a_sample_or_have_dependent_ones_are_refused() -> None:
    hits = np.array([True, False, True])
    for list_names, estimate, message in (
        ("abb", Proportion(hits), "several images have the same name"),
        ("a", Proportion(hits[:1]), "two images or more are needed"),
        ("abc", Mean(hits, np.array([0, 1, 1])), "dependent samples are not resampled"),
    ):
        with pytest.raises(ValueError, match=message):
            resample_overlapping([{"share": estimate}], [list_names], seed=0)
