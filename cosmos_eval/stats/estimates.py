"""Estimates: metrics as functions of the samples of a result, with intervals and paired tests.

Each class of estimates holds the arrays that its value is computed from. `stats.intervals` computes
the intervals of each class, and `stats.paired` the paired tests. All classes but `Proportion` can
be resampled: weights (R, C) say how often each of C clusters is drawn in each of R resamples, and
give values (R,). A cluster is a set of samples that depend on each other, such as the captions of
one image.

Shapes: N samples, C clusters or classes, R resamples, D draws of a classifier.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.types import Interval

Values = NDArray[np.float64]
Features = NDArray[np.float32]
Ints = NDArray[np.integer]


class Proportion(NamedTuple):
    """The proportion of hits among independent samples.

    Its interval is Wilson's, its paired test McNemar's.
    """

    # (N,): whether each sample is a hit, such as a correct prediction.
    hits: NDArray[np.bool_]

    @property
    def value(self) -> float:
        """The share of samples that are hits."""
        return float(self.hits.mean())


class Mean(NamedTuple):
    """The mean of values of samples that may depend on each other.

    Interval and paired test are by a bootstrap over clusters.
    """

    # (N,): the value of each sample.
    values: NDArray[Any]
    # (N,) numbers: samples with the same number depend on each other.
    clusters: Ints

    @property
    def value(self) -> float:
        """The mean of all values."""
        return float(self.values.mean())


class MeanRank(Mean):
    """The mean of ranks (N,), from 1, whose distribution has a long tail.

    Its interval is Hall's. Everything else is as for `Mean`.
    """

    __slots__ = ()


class Median(NamedTuple):
    """The median of values. Interval and paired test are as for `Mean`."""

    # (N,): the value of each sample.
    values: Ints
    # (N,) numbers: samples with the same number depend on each other.
    clusters: Ints
    # Whether the median is rounded down. The median of an even number of values is the mean of the
    # two in the middle, such as 2.5 for [1, 2, 3, 4]. With `floor`, it is 2.
    floor: bool = False

    @property
    def value(self) -> float:
        """The median of all values, rounded down if `floor` is True."""
        median = float(np.median(self.values))
        return float(np.floor(median)) if self.floor else median


class GroupMean(NamedTuple):
    """The mean, or the lowest, of the proportions of hits of groups, such as classes.

    The paired test is by a bootstrap over clusters or samples, and so is the interval of a mean of
    dependent samples. Other intervals are by binomial counts (`stats.shares`). A group that a
    resample does not draw is left out of its mean.
    """

    # (N,): whether each sample is a hit, such as a correct prediction.
    hits: NDArray[np.bool_]
    # (N,): the number of each sample's group.
    groups: Ints
    # (N,) numbers: samples with the same number depend on each other. None: all are independent.
    clusters: Ints | None = None
    # Whether the value is the lowest proportion instead of the mean.
    lowest: bool = False

    @property
    def value(self) -> float:
        """The mean, or the lowest, of the proportions of hits of the groups.

        For example, the hits [1, 0, 1] in the groups [4, 4, 7] have the proportions 0.5 and 1.
        Their mean is 0.75, and the lowest is 0.5.
        """
        _, group_index = np.unique(self.groups, return_inverse=True)
        n_hits = np.bincount(group_index, weights=self.hits)
        n_samples = np.bincount(group_index)
        proportions = n_hits / n_samples
        return float(proportions.min() if self.lowest else np.mean(proportions))


class CrossedMean(NamedTuple):
    """The mean of hits of N samples by D draws of a classifier, such as few-shot classifiers.

    The interval is Wilson's with Student's t (`stats.crossed`). The paired test is by a bootstrap
    that draws samples and draws, independently of each other (Owen 2007, "The pigeonhole
    bootstrap", Annals of Applied Statistics 1).
    """

    # (N, D): whether the classifier of each draw is right about each sample.
    hits: NDArray[np.bool_]

    @property
    def value(self) -> float:
        """The mean of all hits."""
        return float(self.hits.mean())


class FunctionOfSums(NamedTuple):
    """A function of sums over independent samples, such as an intersection over a union.

    Interval and paired test are by a bootstrap over samples. Functions with the same `terms` share
    its sums.
    """

    # A NamedTuple of arrays (N, ...), such as the intersection and the union (N, C) of each image.
    terms: Any
    # Maps the sums of the terms to the value, and sums (R, ...) to values (R,). It is NaN if the
    # value is not defined. For example, it returns sums.intersection / sums.union.
    function: Callable[[Any], Values]
    # Whether the samples of the interval's resamples are drawn one by one. This is faster for many
    # samples, but the random numbers differ from those of a multinomial draw.
    one_by_one: bool = False
    # Whether the interval is by the jackknife. It is used for fractions whose resamples would be
    # biased, such as means over classes.
    jackknife: bool = False
    # The function that returns the interval from the terms and the level. None for the bootstrap
    # or the jackknife.
    interval: Callable[[Any, float], Interval] | None = None

    @property
    def value(self) -> float:
        """The function of the terms' sums over all samples."""
        sums = self.terms._make(term.sum(0) for term in self.terms)
        return float(self.function(sums))


class FunctionOfWeights(NamedTuple):
    """A function of how often each of N independent samples is drawn, such as average precision.

    The paired test is by a bootstrap over samples, and so is the interval without `interval`.
    """

    # (N, ...): what the function needs to know of each sample, such as its scores and labels.
    samples: NDArray[Any]
    # Maps the samples to the function of their weights. That function maps weights (R, N), how
    # often each sample is drawn in each of R resamples, to values (R,). A value is NaN if it is not
    # defined.
    prepare: Callable[[NDArray[Any]], Callable[[Values], Values]]
    # The function that returns the interval from the samples and the level. None for the bootstrap.
    interval: Callable[[NDArray[Any], float], Interval] | None = None

    @property
    def value(self) -> float:
        """The function's value if each sample is drawn once."""
        function = self.prepare(self.samples)
        each_once = np.ones((1, len(self.samples)))
        return float(function(each_once)[0])


Estimate = Proportion | Mean | Median | GroupMean | CrossedMean | FunctionOfSums | FunctionOfWeights


def mean_of_items(values: NDArray[Any], clusters: Ints) -> Proportion | Mean:
    """Return the estimate of the mean of the values of items.

    If every item is a cluster of its own, the items are independent, and the estimate is a
    `Proportion`. Otherwise it is a `Mean`, whose interval resamples clusters.

    Args:
        values: The value (N,) of each item.
        clusters: The number (N,) of each item's cluster. Items of one cluster depend on each other,
            for example because they share an image.
    """
    are_independent = len(np.unique(clusters)) == len(clusters)
    if are_independent:
        return Proportion(values)
    return Mean(values, clusters)


def without(estimate: Estimate, keep: NDArray[np.bool_]) -> Estimate:
    """Return the estimate without some of its clusters, which are left out with all their samples.

    A cluster is a set of samples that depend on each other. If the samples are independent, each
    sample is a cluster.

    Args:
        estimate: The estimate, whose clusters have the numbers 0, ..., C - 1.
        keep: (C,), whether to keep each cluster.

    Example:
        If `keep` is [True, False, True], Proportion([1, 0, 1]) becomes Proportion([1, 1]), and
        Mean([5, 6, 7, 8], clusters=[0, 0, 1, 2]) becomes Mean([5, 6, 8], clusters=[0, 0, 2]).
    """
    if isinstance(estimate, FunctionOfSums):
        terms = estimate.terms._make(term[keep] for term in estimate.terms)
        return estimate._replace(terms=terms)
    clusters = getattr(estimate, "clusters", None)
    keep_sample = keep if clusters is None else keep[clusters]  # (N,)
    # All arrays of other estimates, also of their clusters, have one row for each sample.
    arrays: dict[str, Any] = {}
    for name, field in estimate._asdict().items():
        if isinstance(field, np.ndarray):
            arrays[name] = field[keep_sample]
    return estimate._replace(**arrays)


def ratio(numerator: NDArray[np.number], denominator: NDArray[np.number]) -> NDArray[np.float64]:
    """Return numerator / denominator by element, which is NaN if the denominator is 0 or less.

    For example, ratio([1, 2], [4, 0]) is [0.25, NaN]. Both arguments have the same shape.
    """
    result = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=result, where=np.asarray(denominator) > 0)


def mean_of_known(values: NDArray[np.float64]) -> Values:
    """Return the means (R,) over the first axis of values (C, R), ignoring NaN.

    For example, [[1, NaN], [3, NaN]] gives [2, NaN]. It equals np.nanmean(values, axis=0), but does
    not warn if all values of a column are NaN.
    """
    n_known = np.sum(~np.isnan(values), axis=0)  # (R,)
    return ratio(np.nansum(values, axis=0), n_known)


def means_of_groups(
    names: Sequence[str], group: Ints, columns: Mapping[str, NDArray[Any]], counted: str
) -> dict[str, dict[str, float | None]]:
    """Return a table with one row for each group, which holds means over the group's samples.

    Args:
        names: The names of the groups, such as classes.
        group: (N,), the index in `names` of each sample's group.
        columns: The values (N,) of the samples that are averaged, by the name of the column.
        counted: The name of a last column for the number of the group's samples.

    Returns:
        The cells of each group's row by column, by the name of the group. The means of a group
        without samples are None.

    Example:
        >>> means_of_groups(["cat", "dog"], [0, 0], {"accuracy": [1, 0]}, "images")
        {"cat": {"accuracy": 0.5, "images": 2}, "dog": {"accuracy": None, "images": 0}}
    """
    counts = np.bincount(group, minlength=len(names))
    means_by_column = {}
    for column, values in columns.items():
        sums = np.bincount(group, weights=values, minlength=len(names))
        means_by_column[column] = ratio(sums, counts)
    rows: dict[str, dict[str, float | None]] = {}
    for index, name in enumerate(names):
        n_samples = int(counts[index])
        row: dict[str, float | None] = {}
        for column, means in means_by_column.items():
            row[column] = float(means[index]) if n_samples else None
        row[counted] = n_samples
        rows[name] = row
    return rows


def first_equal(features: Features) -> NDArray[np.int64]:
    """Return, for each row of features (N, D), the index of the first row that is equal, (N,).

    Rows are equal if their bytes are. For example, the rows [[1, 2], [3, 4], [1, 2]] give
    [0, 1, 0].
    """
    # A row whose hash no other row has is the first of its kind.
    first_index = np.arange(len(features))
    hashes = np.fromiter((hash(row.tobytes()) for row in features), np.int64, len(features))
    _, hash_index, hash_counts = np.unique(hashes, return_inverse=True, return_counts=True)
    has_equal_hash = hash_counts[hash_index] > 1

    # To save memory, only the bytes of the other rows are kept and compared.
    first_index_of_bytes: dict[bytes, int] = {}
    for index in np.flatnonzero(has_equal_hash).tolist():
        row_bytes = features[index].tobytes()
        first_index[index] = first_index_of_bytes.setdefault(row_bytes, index)
    return first_index


def require_finite(*features: Features) -> None:
    """Raise ValueError if an element of any of the arrays is NaN or infinite."""
    for array in features:
        if not np.isfinite(array).all():
            raise ValueError("features hold NaN or infinity")
