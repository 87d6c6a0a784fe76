"""What the trials of a random search show: the best of n of them, and how much a factor decides.
Shapes: N trials."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from cosmos_eval.stats.estimates import Values


class BestOf(NamedTuple):
    """The best of n trials, n = 1, ..., N: its mean (N,) over all choices of n of the N trials, and
    the bounds (N,) that it keeps in 95% of these choices."""

    expected: Values
    low: Values
    high: Values


def best_of(scores: Values, level: float = 0.95) -> BestOf:
    """Return the best of n of N scores (N,), drawn without replacement.

    The mean is the unbiased estimate of Tang et al. (ACL 2020, "Showing Your Work Doesn't Always
    Work") for the expected validation performance of Dodge et al. (arXiv:1909.03004)."""
    ordered = np.sort(scores)
    rank, count = np.arange(1, len(ordered) + 1), len(ordered)
    below = np.ones(count)  # probability that the best of n is at most this score
    found = []
    for n in range(1, count + 1):
        below = below * np.maximum(rank - n + 1, 0) / (count - n + 1)
        bounds = np.searchsorted(below, [(1 - level) / 2, (1 + level) / 2])
        found.append((np.diff(below, prepend=0.0) @ ordered, *ordered[bounds]))
    return BestOf(*np.array(found).T)


def explained(scores: Values, values: Sequence[Hashable]) -> float:
    """Return the share of the variance of scores (N,) between the values (N,) of a factor, adjusted
    for their number: about 0 where the factor decides nothing. NaN where it is not defined."""
    groups = [scores[[one == value for one in values]] for value in dict.fromkeys(values)]
    rest, total = len(scores) - len(groups), float(((scores - scores.mean()) ** 2).sum())
    if len(groups) < 2 or not rest or not total:
        return float("nan")
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    return 1 - (within / rest) / (total / (len(scores) - 1))
