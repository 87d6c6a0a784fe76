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
    """Return the distribution of the best of n of N scores, for n = 1, ..., N.

    The n scores are drawn without replacement. The mean is the unbiased estimate of Tang et al.
    (ACL 2020, "Showing Your Work Doesn't Always Work") for the expected validation performance of
    Dodge et al. (arXiv:1909.03004).

    Args:
        scores: (N,), the score of each trial. Higher scores are better.
        level: The share of all choices of n scores whose best score lies within the bounds.

    Example:
        Two of the scores [1, 2, 4] are 1 and 2, 1 and 4, or 2 and 4. Their best scores are 2, 4 and
        4, so that `expected` is 10 / 3 for n = 2.
    """
    sorted_scores = np.sort(scores)
    n_scores = len(sorted_scores)
    rank = np.arange(1, n_scores + 1)
    # The probability that the best of n is at most the score of each rank, with the binomial
    # coefficients C: C(rank, n) / C(N, n). Each n multiplies it by (rank - n + 1) / (N - n + 1).
    probability_at_most = np.ones(n_scores)
    expected, low, high = [], [], []
    for n in range(1, n_scores + 1):
        probability_at_most = probability_at_most * np.maximum(rank - n + 1, 0) / (n_scores - n + 1)
        probability_of_best = np.diff(probability_at_most, prepend=0.0)
        expected.append(probability_of_best @ sorted_scores)
        # The scores whose probabilities reach the tails, for example 2.5% and 97.5%.
        tails = [(1 - level) / 2, (1 + level) / 2]
        low_index, high_index = np.searchsorted(probability_at_most, tails)  # it rises with rank
        low.append(sorted_scores[low_index])
        high.append(sorted_scores[high_index])
    return BestOf(np.array(expected), np.array(low), np.array(high))


def explained(scores: Values, values: Sequence[Hashable]) -> float:
    """Return the share of the variance of scores that the values of a factor explain.

    It is 1 - (within / (N - G)) / (total / (N - 1)). The scores of equal values form one of G
    groups: `within` is the sum of squares of scores around the mean of their group, and `total` the
    sum of squares around the mean of all scores. It is about 0 if the factor explains nothing. It
    is NaN for a single value, for values of one trial each, and for equal scores.

    Args:
        scores: (N,), the score of each trial.
        values: (N,), the value of the factor in each trial, such as its learning rate.

    Example:
        The scores [0, 0, 1, 1] are fully explained by the values ["a", "a", "b", "b"]: the share is
        1.
    """
    scores_of_values = []  # the scores of each distinct value
    for distinct_value in dict.fromkeys(values):
        has_value = [value == distinct_value for value in values]
        scores_of_values.append(scores[has_value])
    n_values = len(scores_of_values)
    dof_within = len(scores) - n_values
    total = float(((scores - scores.mean()) ** 2).sum())
    if n_values < 2 or dof_within == 0 or total == 0:
        return float("nan")
    within = 0.0
    for scores_of_value in scores_of_values:
        within += float(((scores_of_value - scores_of_value.mean()) ** 2).sum())
    return 1 - (within / dof_within) / (total / (len(scores) - 1))
