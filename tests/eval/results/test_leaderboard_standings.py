"""Best, ties and places, solved by hand."""

import pytest
from scipy.special import ndtri

from cosmos_eval.results.leaderboard import ranking
from cosmos_eval.results.leaderboard.entries import Entry
from cosmos_eval.results.leaderboard.ranking import Pair, Rank, close_pairs, rank_entries
from cosmos_eval.tasks import Metric


def entry(model, value, half=None, source="measured", partial=False):
    """A result whose interval reaches `half` to both sides."""
    ends = {} if half is None else {"acc1": {"low": value - half, "high": value + half}}
    return Entry(model, "cls", "food101", "cosmos", {"acc1": value}, ends, source, partial)


def accuracy_of(entry):
    return entry.metrics["acc1"]


def ranks_by_model(entries, ties=()):
    """Return the rank of each model.

    A tie is a model and the p-value of the hypothesis that it is as good as the best model.
    """
    best = max(entries, key=accuracy_of)
    p_values = {}
    for model, p_value in ties:
        for tied_entry in entries:
            if tied_entry.model == model:
                p_values[Pair(best.key, tied_entry.key, "acc1")] = p_value
    ranks = rank_entries(entries, p_values)
    return {key.model: rank._replace(second=False) for (key, _), rank in ranks.items()}


def simultaneous_interval(entry):
    """Return the interval of a value that holds for eight values at once, by Bonferroni."""
    value = entry.metrics["acc1"]
    half_width = entry.intervals["acc1"]["high"] - value
    wider = half_width * ndtri(1 - 0.025 / 8) / 1.959964  # the normal quantiles of both levels
    return {"low": value - wider, "high": value + wider}


# Only the intervals of neighbours overlap: [0.78, 0.82], [0.75, 0.79], [0.72, 0.76], [0.58, 0.62].
CHAIN = [entry("a", 0.80, 0.02), entry("b", 0.77, 0.02), entry("c", 0.74, 0.02)]
CHAIN += [entry("d", 0.60, 0.02)]


def test_intervals_alone():
    assert ranks_by_model(CHAIN) == {
        "a": Rank(True, "", (1, 2)),
        "b": Rank(False, "intervals", (1, 3)),
        "c": Rank(False, "", (2, 3)),
        "d": Rank(False, "", (4, 4)),
    }


def test_samples_decide_near_the_best():
    assert close_pairs(CHAIN) == [Pair(CHAIN[0].key, CHAIN[1].key, "acc1")]
    apart = ranks_by_model(CHAIN, [("b", 0.004)])
    assert apart["a"] == Rank(True, "", (1, 1))
    assert apart["b"] == Rank(False, "", (2, 3))
    tied = ranks_by_model(CHAIN, [("b", 0.5)])
    assert tied["a"] == Rank(True, "", (1, 2))
    assert tied["b"] == Rank(False, "paired", (1, 3))
    assert apart["c"] == tied["c"] == Rank(False, "", (2, 3))


def test_four_results_are_tested_at_levels_for_four() -> None:
    """0.05 / 3 for the best, and 0.05 / 12 for the ranks of all at once."""
    assert ranks_by_model(CHAIN, [("b", 0.017)])["b"] == Rank(False, "paired", (1, 3))
    assert ranks_by_model(CHAIN, [("b", 0.016)])["b"] == Rank(False, "", (1, 3))
    assert ranks_by_model(CHAIN, [("b", 0.0042)])["a"].ranks == (1, 2)
    assert ranks_by_model(CHAIN, [("b", 0.0041)])["a"].ranks == (1, 1)
    assert ranks_by_model(CHAIN[:2], [("b", 0.026)])["b"].tie == "paired"  # as of two models alone
    assert ranks_by_model(CHAIN[:2], [("b", 0.024)])["b"] == Rank(False, "", (2, 2))


def test_the_lowest_value_is_best_if_lower_is_better(monkeypatch):
    metric = Metric("acc1", higher_is_better=False)

    def lower_is_better(task, name):
        return metric

    monkeypatch.setattr(ranking, "metric_of", lower_is_better)
    mirrored = [entry(e.model, 1 - e.metrics["acc1"], 0.02) for e in CHAIN]
    assert close_pairs(mirrored) == [Pair(mirrored[0].key, mirrored[1].key, "acc1")]
    ranks = {key.model: rank for (key, _), rank in rank_entries(mirrored).items()}
    assert ranks["a"] == Rank(True, "", (1, 2))
    assert ranks["b"] == Rank(False, "intervals", (1, 3), second=True)
    assert ranks["d"] == Rank(False, "", (4, 4))


def test_the_second_best_is_the_best_of_what_is_shown_otherwise():
    entries = [entry("a", 0.8), entry("b", 0.8001), entry("c", 0.7), entry("d", 0.7004)]
    entries.append(entry("e", 0.6))

    def seconds(decimals):
        ranks = rank_entries(entries, decimals=decimals)
        return [key.model for (key, _), rank in ranks.items() if rank.second]

    assert seconds(None) == ["c", "d"]  # 80.0, 80.0, 70.0, 70.0
    assert seconds(2) == ["a"]  # 80.00, 80.01


def test_all_of_equal_numbers_are_the_best():
    result = ranks_by_model([entry("a", 0.5004, 0.1), entry("b", 0.5, 0.1), entry("c", 0.4, 0.1)])
    assert [result[model].best for model in "abc"] == [True, True, False]
    assert [result[model].tie for model in "abc"] == ["", "", "intervals"]
    assert {standing.ranks for standing in result.values()} == {(1, 3)}


def test_partial_and_unverified_results_and_single_ones_are_not_ranked():
    unranked = [
        entry("first samples", 0.99, partial=True),
        entry("hearsay", 0.98, None, "unverified"),
    ]
    assert ranks_by_model([*CHAIN, *unranked]) == ranks_by_model(CHAIN)
    assert ranks_by_model(CHAIN[:1]) == {}
    assert ranks_by_model([CHAIN[0], *unranked]) == {}


def test_a_number_without_an_interval_is_a_point_and_has_no_place():
    result = ranks_by_model(
        [entry("a", 0.8, 0.02), entry("b", 0.79), entry("c", 0.7), entry("d", 0.5, 0.1)]
    )
    assert result["b"] == Rank(False, "intervals", None)
    assert result["c"] == Rank(False, "", None)
    assert result["a"].ranks == (1, 1)
    assert result["d"].ranks == (2, 2)
    assert [s.tie for s in ranks_by_model([entry("a", 0.8), entry("b", 0.8 - 1e-9)]).values()] == [
        "",
        "",
    ]


def test_a_published_number_may_be_best_but_is_compared_with_no_samples():
    best = entry("paper", 0.81, None, "published")
    assert close_pairs([best, *CHAIN]) == []
    result = ranks_by_model([best, *CHAIN])
    assert result["paper"] == Rank(True, "", None)
    assert result["a"] == Rank(False, "intervals", (1, 2))
    assert result["b"] == Rank(False, "", (1, 3))


@pytest.mark.parametrize("seed", range(20))
def test_places_are_those_of_all_orders_within_the_intervals(seed):
    """Compute the places another way: count the results whose intervals lie above the result's
    interval, and those whose intervals reach it. The normal intervals hold for eight values."""
    import random

    rng = random.Random(seed)
    entries = [entry(str(i), rng.random(), 0.15 * rng.random()) for i in range(8)]
    best = max(entries, key=accuracy_of)
    intervals = {entry.key: simultaneous_interval(entry) for entry in entries}
    for (key, _), standing in rank_entries(entries).items():
        if key == best.key:
            continue
        interval = intervals[key]
        others = [intervals[other_key] for other_key in intervals if other_key != key]
        first = 1 + sum(other["low"] > interval["high"] for other in others)
        last = 1 + sum(other["high"] >= interval["low"] for other in others)
        assert standing.ranks == (first, last)
