"""Trials of a random search: the best of n trials, and how much a factor decides.

Shapes: N trials."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from cosmos_eval.stats.estimates import Values


class BestOf(NamedTuple):
    """The best of n trials, for n = 1, ..., N, over all choices of n of the N trials."""

    # (N,): the mean.
    expected: Values
    # (N,): the bounds of 95% of the choices.
    low: Values
    high: Values


def best_of(scores: Values, level: float = 0.95) -> BestOf:
    """Return the best of n of N scores (N,), drawn without replacement, for n = 1, ..., N.

    The mean is the unbiased estimate of Tang et al. (ACL 2020, "Showing Your Work Doesn't Always
    Work") for the expected validation performance of Dodge et al. (arXiv:1909.03004).
    """
    sorted_scores = np.sort(scores)
    count = len(sorted_scores)
    rank = np.arange(1, count + 1)
    at_most = np.ones(count)  # the probability that the best of n is at most each score
    rows = []
    for n in range(1, count + 1):
        at_most = at_most * np.maximum(rank - n + 1, 0) / (count - n + 1)
        expected = np.diff(at_most, prepend=0.0) @ sorted_scores
        low_index, high_index = np.searchsorted(at_most, [(1 - level) / 2, (1 + level) / 2])
        rows.append((expected, sorted_scores[low_index], sorted_scores[high_index]))
    expected_of_n, low_of_n, high_of_n = np.array(rows).T
    return BestOf(expected_of_n, low_of_n, high_of_n)


def explained(scores: Values, values: Sequence[Hashable]) -> float:
    """Return the share of the variance of scores (N,) that the values (N,) of a factor explain.

    The share is adjusted for the number of distinct values: 1 - (within / (N - groups)) / (total /
    (N - 1)), of sums of squares. It is about 0 if the factor decides nothing, and NaN if it is not
    defined.
    """
    groups = []
    for distinct_value in dict.fromkeys(values):
        groups.append(scores[[value == distinct_value for value in values]])
    dof_within = len(scores) - len(groups)
    total = float(((scores - scores.mean()) ** 2).sum())
    if len(groups) < 2 or not dof_within or not total:
        return float("nan")
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return 1 - (within / dof_within) / (total / (len(scores) - 1))
