"""Rankings of models on some of the items, and how they differ from the ranking on all items."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.results.audit.metrics import AuditedMetric
from cosmos_eval.stats.estimates import Mean, Proportion
from cosmos_eval.stats.intervals import LEVEL
from cosmos_eval.stats.paired import PairedDifference, differences, holm
from cosmos_eval.tasks import task_named
from cosmos_eval.types import Interval

FEWEST_ITEMS = 30
"""With fewer items, models are not ranked."""


class PairTest(NamedTuple):
    """The paired test of two models."""

    # The indices of models A and B.
    a: int
    b: int
    # The value of model A minus the value of model B.
    difference: PairedDifference
    # The p-value, corrected by Holm's method for all pairs of models.
    adjusted: float

    @property
    def better(self) -> int | None:
        """The index of the model that is shown to have the higher value; None if neither is."""
        if self.adjusted > 1 - LEVEL or self.difference.difference == 0:
            return None
        return self.a if self.difference.difference > 0 else self.b


class Ranking(NamedTuple):
    """The values of K models on the same items, and the tests of all pairs of models."""

    n_items: int
    values: tuple[float, ...]
    intervals: tuple[Interval, ...]
    tests: tuple[PairTest, ...]

    @property
    def n_decided(self) -> int:
        """The number of decided pairs: those in which one model is shown to be better."""
        return sum(test.better is not None for test in self.tests)

    @property
    def ranks(self) -> list[tuple[int, int]]:
        """The first and last rank that each model can have, from 1.

        A model ranks behind all models that are shown to be better, and before all models that are
        shown to be worse. All ranks are right at once with 95%, since the tests are.

        Example:
            Among three models, only the first is shown to be better than the third. The ranks are
            (1, 2), (1, 3) and (2, 3).
        """
        n_models = len(self.values)
        n_better = [0] * n_models
        n_worse = [0] * n_models
        for test in self.tests:
            if test.better is not None:
                worse = test.b if test.better == test.a else test.a
                n_better[worse] += 1
                n_worse[test.better] += 1
        ranks = []
        for model in range(n_models):
            ranks.append((1 + n_better[model], n_models - n_worse[model]))
        return ranks


class RankingChange(NamedTuple):
    """How many pairs of models are decided differently on all items and without a group."""

    # The number of pairs that are decided for the same model in both rankings.
    kept: int
    # The number of pairs that are decided only on all items, and whose difference changes by more
    # than the removal of as many random items explains.
    lost: int
    # The number of the other pairs that are decided only on all items. They may be undecided
    # without the group just because there are fewer items.
    too_few: int
    # The number of pairs that are decided only without the group.
    gained: int
    # The number of pairs that are decided for one model on all items, and for the other without
    # the group.
    reversed: int
    # The greatest change of the difference of two models, in the unit of the metric.
    largest_change: float

    @property
    def survives(self) -> bool:
        """True if no pair is lost or reversed. Pairs that are `too_few` or gained do not count."""
        return self.lost == 0 and self.reversed == 0


def rank_models(metric: AuditedMetric, keep: NDArray[np.bool_]) -> Ranking | None:
    """Rank models on some of the items by paired tests of all pairs.

    Args:
        metric: The metric of K models.
        keep: (N,), true for the items on which the models are ranked.

    Returns:
        The ranking. It is None if fewer than FEWEST_ITEMS items are kept, or if all kept items
        belong to one image.
    """
    estimates = [_keep_items(estimate, keep) for estimate in metric.estimates]
    first = estimates[0]
    n_clusters = len(np.unique(first.clusters)) if isinstance(first, Mean) else int(keep.sum())
    if keep.sum() < FEWEST_ITEMS or n_clusters < 2:
        return None
    task = task_named(metric.row.task)
    intervals = []
    for estimate in estimates:
        seed = metric.row.provenance["seed"]
        intervals.append(task.intervals({metric.metric: estimate}, seed)[metric.metric])

    compare = differences([{metric.metric: estimate} for estimate in estimates])
    pairs = list(combinations(range(len(estimates)), 2))
    differences_of_pairs = [compare(a, b)[metric.metric] for a, b in pairs]
    adjusted = holm([difference.p_value for difference in differences_of_pairs])
    tests = []
    for (a, b), difference, p_value in zip(pairs, differences_of_pairs, adjusted, strict=True):
        tests.append(PairTest(a, b, difference, p_value))
    return Ranking(
        n_items=int(keep.sum()),
        values=tuple(estimate.value for estimate in estimates),
        intervals=tuple(intervals),
        tests=tuple(tests),
    )


def compare_rankings(on_all: Ranking, without: Ranking) -> RankingChange:
    """Count the pairs of models that are decided alike, or differently, without a group.

    Args:
        on_all: The ranking on all items.
        without: The ranking without the items of the group.
    """
    n_kept = n_lost = n_too_few = n_gained = n_reversed = 0
    largest_change = 0.0
    is_shifted = _shifted_pairs(on_all, without)
    for with_group, without_group, has_shifted in zip(
        on_all.tests, without.tests, is_shifted, strict=True
    ):
        change = with_group.difference.difference - without_group.difference.difference
        largest_change = max(largest_change, abs(change))
        if with_group.better is None:
            if without_group.better is not None:
                n_gained += 1
        elif without_group.better == with_group.better:
            n_kept += 1
        elif without_group.better is not None:
            n_reversed += 1
        elif has_shifted:
            n_lost += 1
        else:
            n_too_few += 1
    return RankingChange(n_kept, n_lost, n_too_few, n_gained, n_reversed, largest_change)


def _shifted_pairs(on_all: Ranking, without: Ranking) -> list[bool]:
    """Return for each pair of models whether its difference has shifted without the group.

    It has shifted if it changes by more than the removal of as many random items explains. If n of
    N items are kept at random, the standard error of the change is

        e * sqrt(N / n - 1), where e is the standard error of the difference on all items.

    A shift is shown if its normal p-value is at most 0.05 after Holm's correction for all pairs.
    """
    factor = (on_all.n_items / without.n_items - 1) ** 0.5
    p_values = []
    for with_group, without_group in zip(on_all.tests, without.tests, strict=True):
        change = without_group.difference.difference - with_group.difference.difference
        error = factor * with_group.difference.error
        z = abs(change) / error if error > 0 else 0.0
        p_values.append(2 * NormalDist().cdf(-z))
    return [p_value <= 1 - LEVEL for p_value in holm(p_values)]


def order_of(ranking: Ranking) -> Sequence[int]:
    """Return the indices of the models from the highest to the lowest value."""
    n_models = len(ranking.values)
    return sorted(range(n_models), key=lambda model: -ranking.values[model])


def _keep_items(estimate: Proportion | Mean, keep: NDArray[np.bool_]) -> Proportion | Mean:
    """Return the estimate on the kept items only. `keep` (N,) is true for these items."""
    if isinstance(estimate, Proportion):
        return Proportion(estimate.hits[keep])
    return Mean(estimate.values[keep], estimate.clusters[keep])
