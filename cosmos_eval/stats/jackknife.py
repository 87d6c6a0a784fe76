"""Values of a metric without each of its clusters in turn, from which the jackknife has its error.

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
    """Return the values (C,) of an estimate without each cluster.

    Return None for estimates that the jackknife does not hold for, such as medians, and for those
    that would take a pass over all samples per cluster.
    """
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
            each_sample = np.arange(len(hits))
            return _group_mean_without_each(
                hits, groups, each_sample if clusters is None else clusters
            )
    return None


def _group_mean_without_each(hits: NDArray[np.bool_], groups: Ints, clusters: Ints) -> Values:
    """Return the mean proportions of hits (N,) of groups (N,) without each cluster, (C,).

    The mean without a cluster leaves out groups that only this cluster has.
    """
    group = np.unique(groups, return_inverse=True)[1]
    cluster = np.unique(clusters, return_inverse=True)[1]
    total, right = np.bincount(group), np.bincount(group, weights=hits)
    cells, cell = np.unique(cluster * len(total) + group, return_inverse=True)
    cluster_of_cell, group_of_cell = np.divmod(cells, len(total))
    # The samples and the share of a cell's group without the cell's cluster.
    samples_left = total[group_of_cell] - np.bincount(cell)
    right_left = right[group_of_cell] - np.bincount(cell, weights=hits)
    share_left = np.nan_to_num(ratio(right_left, samples_left))
    shares = right / total
    change = np.bincount(cluster_of_cell, weights=share_left - shares[group_of_cell])
    empty_groups = np.bincount(cluster_of_cell, weights=samples_left == 0)
    return ratio(shares.sum() + change, len(total) - empty_groups)


def sums_without_each(estimate: FunctionOfSums) -> Values:
    """Return the values (C,) of a function of sums without each sample, NaN without a value."""
    terms = estimate.terms
    return estimate.function(terms._make(term.sum(0) - term for term in terms))
