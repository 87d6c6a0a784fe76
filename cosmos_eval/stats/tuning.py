"""Trials of a random search: the best of n trials, and how much a factor explains.

Shapes: N trials."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from cosmos_eval.stats.estimates import Values


class BestOf(NamedTuple):
    """The best of n trials, for n = 1, ..., N, over all choices of n of the N trials."""

    # (N,): the mean of the best score over all choices.
    expected: Values
    # (N,): the bounds of the best score for 95% of the choices, or for another level.
    low: Values
    high: Values


def best_of(scores: Values, level: float = 0.95) -> BestOf:
    """Return the distribution of the best of n of N scores (N,), for n = 1, ..., N.

    The n scores are drawn without replacement. The mean is the unbiased estimate of Tang et al.
    (ACL 2020, "Showing Your Work Doesn't Always Work") for the expected validation performance of
    Dodge et al. (arXiv:1909.03004).
    """
    sorted_scores = np.sort(scores)
    n_scores = len(sorted_scores)
    rank = np.arange(1, n_scores + 1)
    # The probability that the best of n is at most each score: C(rank, n) / C(N, n), step by step.
    probability_at_most = np.ones(n_scores)
    expected, low, high = [], [], []
    for n in range(1, n_scores + 1):
        probability_at_most = probability_at_most * np.maximum(rank - n + 1, 0) / (n_scores - n + 1)
        probability_of_best = np.diff(probability_at_most, prepend=0.0)
        expected.append(probability_of_best @ sorted_scores)
        tails = [(1 - level) / 2, (1 + level) / 2]
        low_index, high_index = np.searchsorted(probability_at_most, tails)
        low.append(sorted_scores[low_index])
        high.append(sorted_scores[high_index])
    return BestOf(np.array(expected), np.array(low), np.array(high))


def explained(scores: Values, values: Sequence[Hashable]) -> float:
    """Return the share of the variance of scores (N,) that the values (N,) of a factor explain.

    It is 1 - (within / (N - groups)) / (total / (N - 1)), where `within` and `total` are the sums
    of squares within the groups of equal values and of all scores. The share is about 0 if the
    factor explains nothing. It is NaN for a single group, for groups of one trial each, and for
    equal scores.
    """
    groups = []
    for distinct_value in dict.fromkeys(values):
        is_in_group = [value == distinct_value for value in values]
        groups.append(scores[is_in_group])
    dof_within = len(scores) - len(groups)
    total = float(((scores - scores.mean()) ** 2).sum())
    if len(groups) < 2 or not dof_within or not total:
        return float("nan")
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return 1 - (within / dof_within) / (total / (len(scores) - 1))
