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


def found(entries, ties=()):
    """Rank by model; `ties` says (model, p-value of its being as good as the best)."""
    best = max(entries, key=lambda e: e.metrics["acc1"])
    known = {Pair(best.key, e.key, "acc1"): p for e in entries for m, p in ties if m == e.model}
    ranks = rank_entries(entries, known)
    return {key.model: rank._replace(second=False) for (key, _), rank in ranks.items()}


def widened(one):
    half = (one.intervals["acc1"]["high"] - one.metrics["acc1"]) * ndtri(1 - 0.025 / 8) / 1.959964
    return {"low": one.metrics["acc1"] - half, "high": one.metrics["acc1"] + half}


# Only the intervals of neighbours overlap: [0.78, 0.82], [0.75, 0.79], [0.72, 0.76], [0.58, 0.62].
CHAIN = [entry("a", 0.80, 0.02), entry("b", 0.77, 0.02), entry("c", 0.74, 0.02)]
CHAIN += [entry("d", 0.60, 0.02)]


def test_intervals_alone():
    assert found(CHAIN) == {
        "a": Rank(True, "", (1, 2)),
        "b": Rank(False, "intervals", (1, 3)),
        "c": Rank(False, "", (2, 3)),
        "d": Rank(False, "", (4, 4)),
    }


def test_samples_decide_near_the_best():
    assert close_pairs(CHAIN) == [Pair(CHAIN[0].key, CHAIN[1].key, "acc1")]
    apart = found(CHAIN, [("b", 0.004)])
    assert apart["a"] == Rank(True, "", (1, 1))
    assert apart["b"] == Rank(False, "", (2, 3))
    tied = found(CHAIN, [("b", 0.5)])
    assert tied["a"] == Rank(True, "", (1, 2))
    assert tied["b"] == Rank(False, "paired", (1, 3))
    assert apart["c"] == tied["c"] == Rank(False, "", (2, 3))


def test_four_results_are_tested_at_levels_for_four() -> None:
    """0.05 / 3 for the best, and 0.05 / 12 for the ranks of all at once."""
    assert found(CHAIN, [("b", 0.017)])["b"] == Rank(False, "paired", (1, 3))
    assert found(CHAIN, [("b", 0.016)])["b"] == Rank(False, "", (1, 3))
    assert found(CHAIN, [("b", 0.0042)])["a"].ranks == (1, 2)
    assert found(CHAIN, [("b", 0.0041)])["a"].ranks == (1, 1)
    assert found(CHAIN[:2], [("b", 0.026)])["b"].tie == "paired"  # as of two models alone
    assert found(CHAIN[:2], [("b", 0.024)])["b"] == Rank(False, "", (2, 2))


def test_of_a_metric_that_is_better_lower_the_lowest_is_best(monkeypatch):
    metric = Metric("acc1", higher_is_better=False)
    monkeypatch.setattr(ranking, "metric_of", lambda task, name: metric)
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
    result = found([entry("a", 0.5004, 0.1), entry("b", 0.5, 0.1), entry("c", 0.4, 0.1)])
    assert [result[model].best for model in "abc"] == [True, True, False]
    assert [result[model].tie for model in "abc"] == ["", "", "intervals"]
    assert {standing.ranks for standing in result.values()} == {(1, 3)}


def test_what_is_not_ranked():
    others = [
        entry("first samples", 0.99, partial=True),
        entry("hearsay", 0.98, None, "unverified"),
    ]
    assert found([*CHAIN, *others]) == found(CHAIN)
    assert found(CHAIN[:1]) == {}
    assert found([CHAIN[0], *others]) == {}


def test_a_number_without_an_interval_is_a_point_and_has_no_place():
    result = found([entry("a", 0.8, 0.02), entry("b", 0.79), entry("c", 0.7), entry("d", 0.5, 0.1)])
    assert result["b"] == Rank(False, "intervals", None)
    assert result["c"] == Rank(False, "", None)
    assert result["a"].ranks == (1, 1)
    assert result["d"].ranks == (2, 2)
    assert [s.tie for s in found([entry("a", 0.8), entry("b", 0.8 - 1e-9)]).values()] == ["", ""]


def test_a_published_number_may_be_best_but_is_compared_with_no_samples():
    best = entry("paper", 0.81, None, "published")
    assert close_pairs([best, *CHAIN]) == []
    result = found([best, *CHAIN])
    assert result["paper"] == Rank(True, "", None)
    assert result["a"] == Rank(False, "intervals", (1, 2))
    assert result["b"] == Rank(False, "", (1, 3))


@pytest.mark.parametrize("seed", range(20))
def test_places_are_those_of_all_orders_within_the_intervals(seed):
    """A second way: put the result at one end of its interval and all others at theirs. Intervals
    are normal ones of eight values at once."""
    import random

    rng = random.Random(seed)
    entries = [entry(str(i), rng.random(), 0.15 * rng.random()) for i in range(8)]
    best = max(entries, key=lambda e: e.metrics["acc1"])
    for (key, _), standing in rank_entries(entries).items():
        if key == best.key:
            continue
        wide = {e.key: widened(e) for e in entries}
        own, ends = wide[key], [ends for other, ends in wide.items() if other != key]
        first = 1 + sum(other["low"] > own["high"] for other in ends)
        last = 1 + sum(other["high"] >= own["low"] for other in ends)
        assert standing.ranks == (first, last)
