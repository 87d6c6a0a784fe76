"""Values of a metric without each of its clusters in turn. The jackknife's error is their spread.

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
    """Return the value of an estimate without each cluster in turn, (C,).

    A cluster is a set of samples that depend on each other, such as the captions of one image. If
    the samples are independent, each sample is a cluster. For example, the hits [1, 1, 0] have the
    proportions [0.5, 0.5, 1] without each sample. Return None for estimates that the jackknife does
    not hold for, such as medians, and for estimates that would take a pass over all samples per
    cluster.
    """
    match estimate:
        case Proportion(hits):
            if len(hits) < 2:
                return np.zeros(1)
            return (hits.sum() - hits) / (len(hits) - 1)
        case Mean(values, clusters):
            cluster_index = np.unique(clusters, return_inverse=True)[1]
            sums = np.bincount(cluster_index, weights=values)
            sizes = np.bincount(cluster_index)
            return ratio(sums.sum() - sums, sizes.sum() - sizes)
        case FunctionOfSums():
            return sums_without_each(estimate)
        case GroupMean(hits, groups, clusters, lowest=False):
            if clusters is None:
                clusters = np.arange(len(hits))
            return _group_mean_without_each(hits, groups, clusters)
    return None


def _group_mean_without_each(hits: NDArray[np.bool_], groups: Ints, clusters: Ints) -> Values:
    """Return the mean of the groups' shares of hits without each cluster in turn, (C,).

    The mean without a cluster leaves out groups that only this cluster has. Without a cluster, only
    the shares of the groups that it has samples in change. So the sum of the shares without a
    cluster is

        sum of all shares + sum over the cluster's groups of (share without cluster - share)

    Args:
        hits: (N,), whether each sample is a hit.
        groups: (N,), the number of each sample's group, such as its class.
        clusters: (N,), the number of each sample's cluster. Samples of a cluster depend on each
            other.

    Example:
        The hits [1, 0, 1], the groups [0, 0, 1] and the clusters [0, 1, 1] give [0.5, 1]. Without
        cluster 0, the shares are 0 and 1. Without cluster 1, group 0 has the share 1, and group 1
        is left out.
    """
    group_index = np.unique(groups, return_inverse=True)[1]
    cluster_index = np.unique(clusters, return_inverse=True)[1]
    n_samples = np.bincount(group_index)
    n_hits = np.bincount(group_index, weights=hits)
    n_groups = len(n_samples)
    shares = n_hits / n_samples

    # Number the pairs of a cluster and a group by cluster * n_groups + group. For example, with 10
    # groups, cluster 1 and group 7 are pair 17. Only pairs that have samples in common occur.
    # `pair_index` (N,) is the index of each sample's pair among the distinct pairs.
    pair_numbers, pair_index = np.unique(
        cluster_index * n_groups + group_index, return_inverse=True
    )
    cluster_of_pair, group_of_pair = np.divmod(pair_numbers, n_groups)

    # For each pair: the samples, and the hits, of its group without its cluster.
    samples_without = n_samples[group_of_pair] - np.bincount(pair_index)
    hits_without = n_hits[group_of_pair] - np.bincount(pair_index, weights=hits)
    share_without = np.nan_to_num(ratio(hits_without, samples_without))

    # For each cluster (C,): sums over its pairs.
    change = np.bincount(cluster_of_pair, weights=share_without - shares[group_of_pair])
    n_empty_groups = np.bincount(cluster_of_pair, weights=samples_without == 0)
    return ratio(shares.sum() + change, n_groups - n_empty_groups)


def sums_without_each(estimate: FunctionOfSums) -> Values:
    """Return the values (N,) of a function of sums without each sample in turn.

    For example, the terms [1, 2, 4] have the sums [6, 5, 3] without each sample, of which the
    function is computed. A value is NaN if the function has no value for the other samples.
    """
    terms = estimate.terms
    # The sum of all samples, less the sample's own term, (N, ...).
    sums_without_sample = terms._make(term.sum(0) - term for term in terms)
    return estimate.function(sums_without_sample)
