"""Estimates: metrics as functions of the samples of a result, with intervals and paired tests.

Each kind of estimate holds the arrays that its value follows from. `stats.intervals` has the
intervals of each kind, and `stats.paired` the paired tests. All kinds but `Proportion` can be
resampled: from weights (R, C), how often each of C clusters is drawn in each of R resamples, follow
values (R,).
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

    # (N,)
    hits: NDArray[np.bool_]

    @property
    def value(self) -> float:
        return float(self.hits.mean())

    def drawn_sizes(self) -> None:
        """Return None: a proportion is not resampled."""


class Mean(NamedTuple):
    """The mean of values of samples that may depend on each other.

    Interval and paired test are by a bootstrap over clusters.
    """

    # (N,)
    values: NDArray[Any]
    # (N,) numbers: samples with the same number depend on each other.
    clusters: Ints

    @property
    def value(self) -> float:
        return float(self.values.mean())

    def drawn_sizes(self) -> tuple[int, ...]:
        """Return the number of clusters, which a bootstrap draws."""
        return (len(np.unique(self.clusters)),)


class MeanRank(Mean):
    """The mean of ranks (N,), from 1, whose distribution has a long tail.

    Its interval is Hall's. Everything else is as for `Mean`.
    """

    __slots__ = ()


class Median(NamedTuple):
    """The median of values. Interval and paired test are as for `Mean`."""

    # (N,)
    values: Ints
    # (N,) numbers: samples with the same number depend on each other.
    clusters: Ints
    # Of an even number of values, the median is the mean of the two in the middle. With `floor`, it
    # is the whole number below.
    floor: bool = False

    @property
    def value(self) -> float:
        median = float(np.median(self.values))
        return float(np.floor(median)) if self.floor else median

    def drawn_sizes(self) -> tuple[int, ...]:
        """Return the number of clusters, which a bootstrap draws."""
        return (len(np.unique(self.clusters)),)


class GroupMean(NamedTuple):
    """The mean, or the lowest, of the proportions of hits of groups, such as classes.

    The paired test is by a bootstrap over clusters or samples, and so is the interval of a mean of
    dependent samples. Other intervals are by binomial counts (`stats.shares`). A group that a
    resample does not draw is left out of its mean.
    """

    # (N,)
    hits: NDArray[np.bool_]
    # (N,) numbers of the groups.
    groups: Ints
    # (N,) numbers: samples with the same number depend on each other. None: all are independent.
    clusters: Ints | None = None
    # Whether the value is the lowest proportion instead of the mean.
    lowest: bool = False

    @property
    def value(self) -> float:
        _, group = np.unique(self.groups, return_inverse=True)
        proportions = np.bincount(group, weights=self.hits) / np.bincount(group)
        return float(proportions.min() if self.lowest else np.mean(proportions))

    def drawn_sizes(self) -> tuple[int, ...] | None:
        """Return the number of clusters, which a bootstrap draws; None without clusters."""
        if self.clusters is None:
            return None
        return (len(np.unique(self.clusters)),)


class CrossedMean(NamedTuple):
    """The mean of hits of N samples by D draws of a classifier, such as few-shot classifiers.

    The interval is Wilson's with Student's t (`stats.crossed`). The paired test is by a bootstrap
    that draws samples and draws, independently of each other (Owen 2007, "The pigeonhole
    bootstrap", Annals of Applied Statistics 1).
    """

    # (N, D)
    hits: NDArray[np.bool_]

    @property
    def value(self) -> float:
        return float(self.hits.mean())

    def drawn_sizes(self) -> tuple[int, ...]:
        """Return N and D: a bootstrap draws samples, and draws of the classifier."""
        return self.hits.shape


class FunctionOfSums(NamedTuple):
    """A function of sums over independent samples, such as an intersection over a union.

    Interval and paired test are by a bootstrap over samples. Functions with the same `terms` share
    its sums.
    """

    # A NamedTuple of arrays (N, ...).
    terms: Any
    # Maps the sums of the terms to the value, and sums (R, ...) to values (R,). It is NaN if the
    # value is not defined.
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
        return float(self.function(self.terms._make(term.sum(0) for term in self.terms)))

    def drawn_sizes(self) -> tuple[int, ...]:
        """Return the number of samples, which a bootstrap draws."""
        return (len(self.terms[0]),)


class FunctionOfWeights(NamedTuple):
    """A function of how often each of N independent samples is drawn, such as average precision.

    The paired test is by a bootstrap over samples, and so is the interval without `interval`.
    """

    # (N, ...)
    samples: NDArray[Any]
    # Returns, from the samples, the function that maps weights (R, N) to values (R,). A value is
    # NaN if it is not defined.
    prepare: Callable[[NDArray[Any]], Callable[[Values], Values]]
    # The function that returns the interval from the samples and the level. None for the bootstrap.
    interval: Callable[[NDArray[Any], float], Interval] | None = None

    @property
    def value(self) -> float:
        return float(self.prepare(self.samples)(np.ones((1, len(self.samples))))[0])

    def drawn_sizes(self) -> tuple[int, ...]:
        """Return the number of samples, which a bootstrap draws."""
        return (len(self.samples),)


Estimate = Proportion | Mean | Median | GroupMean | CrossedMean | FunctionOfSums | FunctionOfWeights


def without(estimate: Estimate, keep: NDArray[np.bool_]) -> Estimate:
    """Return an estimate of some of its clusters only.

    `keep` (C,) is True for the clusters that are kept. If the samples are independent, each sample
    is a cluster. The numbers of clusters are their indices in `keep`.
    """
    if isinstance(estimate, FunctionOfSums):
        terms = estimate.terms._make(term[keep] for term in estimate.terms)
        return estimate._replace(terms=terms)
    clusters = getattr(estimate, "clusters", None)
    keep_sample = keep if clusters is None else keep[clusters]
    arrays: dict[str, Any] = {}
    for name, field in estimate._asdict().items():
        if isinstance(field, np.ndarray):
            arrays[name] = field[keep_sample]
    return estimate._replace(**arrays)


def ratio(numerator: NDArray[np.number], denominator: NDArray[np.number]) -> NDArray[np.float64]:
    """Return numerator / denominator, NaN if the denominator is 0."""
    result = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=result, where=np.asarray(denominator) > 0)


def mean_of_known(values: NDArray[np.float64]) -> Values:
    """Return the means (R,) over the first axis of values (C, R), ignoring NaN.

    The mean of values that are all NaN is NaN.
    """
    return ratio(np.nansum(values, axis=0), np.sum(~np.isnan(values), axis=0))


def means_of_groups(
    names: Sequence[str], group: Ints, columns: Mapping[str, NDArray[Any]], counted: str
) -> dict[str, dict[str, float | None]]:
    """Return, for each group, the means of columns (N,) over its samples and their number.

    `group` (N,) holds the index of each sample's group in `names`. `counted` is the key of the
    number of samples. The means of a group without samples are None. For example, {"cat":
    {"accuracy": 0.8, "images": 5}} for the column "accuracy" and counted="images".
    """
    counts = np.bincount(group, minlength=len(names))
    means = {}
    for column, values in columns.items():
        sums = np.bincount(group, weights=values, minlength=len(names))
        means[column] = ratio(sums, counts)
    rows: dict[str, dict[str, float | None]] = {}
    for index, name in enumerate(names):
        row: dict[str, float | None] = {}
        for column in columns:
            row[column] = float(means[column][index]) if counts[index] else None
        row[counted] = int(counts[index])
        rows[name] = row
    return rows


def first_equal(features: Features) -> NDArray[np.int64]:
    """Return the index of the first row that is equal to each row of features (N, D), (N,).

    For example, rows a, b, a give [0, 1, 0]. Only rows with equal hashes of 8 bytes are compared.
    """
    first = np.arange(len(features))
    hashes = np.fromiter((hash(row.tobytes()) for row in features), np.int64, len(features))
    _, group, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    first_of_bytes: dict[bytes, int] = {}
    for index in np.flatnonzero(counts[group] > 1).tolist():
        first[index] = first_of_bytes.setdefault(features[index].tobytes(), index)
    return first


def require_finite(*features: Features) -> None:
    """Raise ValueError if any features are NaN or infinite."""
    for array in features:
        if not np.isfinite(array).all():
            raise ValueError("features hold NaN or infinity")
