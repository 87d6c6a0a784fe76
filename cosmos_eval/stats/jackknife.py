"""Values of a metric without each of its clusters in turn, by which the jackknife tells its error.

Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 11. Shapes: C clusters.
"""

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import (
    Estimate,
    FunctionOfSums,
    GroupMean,
    Ints,
    Mean,
    Proportion,
    Values,
    ratio,
)


def values_without_each(estimate: Estimate) -> Values | None:
    """Return the values (C,) of an estimate without each cluster, which the jackknife varies; None
    where it does not hold or takes as many passes as there are clusters."""
    match estimate:
        case Proportion(hits):
            return (hits.sum() - hits) / (len(hits) - 1) if len(hits) > 1 else np.zeros(1)
        case Mean(values, clusters):
            cluster = np.unique(clusters, return_inverse=True)[1]
            sums, sizes = np.bincount(cluster, weights=values), np.bincount(cluster)
            return ratio(sums.sum() - sums, sizes.sum() - sizes)
        case FunctionOfSums():
            return sums_without_each(estimate)
        case GroupMean(hits, groups, clusters, lowest=False):
            owner = np.arange(len(hits)) if clusters is None else clusters
            return _group_mean_without_each(hits, groups, owner)
    return None


def _group_mean_without_each(hits: NDArray[np.bool_], groups: Ints, clusters: Ints) -> Values:
    """Groups that only one cluster has are left out of the mean without it."""
    group = np.unique(groups, return_inverse=True)[1]
    cluster = np.unique(clusters, return_inverse=True)[1]
    total, right = np.bincount(group), np.bincount(group, weights=hits)
    cells, cell = np.unique(cluster * len(total) + group, return_inverse=True)
    of_cluster, of_group = np.divmod(cells, len(total))
    left = total[of_group] - np.bincount(cell)
    share = np.nan_to_num(ratio(right[of_group] - np.bincount(cell, weights=hits), left))
    shares = right / total
    change = np.bincount(of_cluster, weights=share - shares[of_group])
    return ratio(shares.sum() + change, len(total) - np.bincount(of_cluster, weights=left == 0))


def sums_without_each(estimate: FunctionOfSums) -> Values:
    """Return the values (C,) of a function of sums without each sample; NaN if there is none."""
    terms = estimate.terms
    return estimate.function(terms._make(term.sum(0) - term for term in terms))
