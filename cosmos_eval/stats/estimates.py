"""What a metric is of the samples of a result: estimates that have intervals and paired tests.

Each kind holds the arrays that its value follows from. All but `Proportion` are resampled: they
give values (R,) for weights (R, C), how often each of C clusters is drawn in each of R resamples.
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
    """The proportion of hits (N,) among independent samples. Its interval is Wilson's, its paired
    test McNemar's."""

    hits: NDArray[np.bool_]

    @property
    def value(self) -> float:
        return float(self.hits.mean())


class Mean(NamedTuple):
    """The mean of values (N,); samples with the same number in clusters (N,) are dependent.
    Interval and paired test are by a bootstrap over clusters."""

    values: NDArray[Any]
    clusters: Ints

    @property
    def value(self) -> float:
        return float(self.values.mean())


class MeanRank(Mean):
    """The mean of ranks (N,), from 1, whose distribution has a long tail: its interval is Hall's.
    Otherwise like `Mean`."""

    __slots__ = ()


class Median(NamedTuple):
    """The median of values (N,), otherwise like `Mean`; of an even number the mean of two, or the
    whole number below (`floor`)."""

    values: Ints
    clusters: Ints
    floor: bool = False

    @property
    def value(self) -> float:
        median = float(np.median(self.values))
        return float(np.floor(median)) if self.floor else median


class GroupMean(NamedTuple):
    """The mean, or the `lowest`, of the proportions of hits (N,) of groups (N,). Samples with the
    same number in clusters (N,) are dependent; without clusters all are independent. The paired
    test is by a bootstrap over clusters or samples, and so is the interval of a mean of dependent
    samples; other intervals are by binomial counts (`stats.shares`). A group that a resample does
    not draw is left out of it."""

    hits: NDArray[np.bool_]
    groups: Ints
    clusters: Ints | None = None
    lowest: bool = False

    @property
    def value(self) -> float:
        _, group = np.unique(self.groups, return_inverse=True)
        proportions = np.bincount(group, weights=self.hits) / np.bincount(group)
        return float(proportions.min() if self.lowest else np.mean(proportions))


class CrossedMean(NamedTuple):
    """The mean of hits (N, D) of N samples by D draws of what classifies them. The interval is
    Wilson's with Student's t (`stats.crossed`). The paired test is by a bootstrap that draws
    samples and draws, each on their own (Owen 2007, "The pigeonhole bootstrap", Annals of Applied
    Statistics 1)."""

    hits: NDArray[np.bool_]

    @property
    def value(self) -> float:
        return float(self.hits.mean())


class FunctionOfSums(NamedTuple):
    """A function of sums over independent samples, such as an intersection over a union. `terms` is
    a NamedTuple of arrays (N, ...); `function` gets their sums and returns the value, NaN where
    there is none, or values (R,) of sums (R, ...). Interval and paired test are by a bootstrap over
    samples; functions with the same `terms` share its sums. Of many samples the interval is
    faster where they are drawn `one_by_one`, by other random numbers. Where resamples are biased,
    as of means over classes, the interval of a fraction is by the `jackknife`, or `interval`
    returns it, given the terms and the level."""

    terms: Any
    function: Callable[[Any], Values]
    one_by_one: bool = False
    jackknife: bool = False
    interval: Callable[[Any, float], Interval] | None = None

    @property
    def value(self) -> float:
        return float(self.function(self.terms._make(term.sum(0) for term in self.terms)))


class FunctionOfWeights(NamedTuple):
    """A function of how often each of N independent samples (N, ...) is drawn, such as average
    precision: `prepare` gets the samples and returns the function of weights (R, N) -> values (R,),
    NaN where there is none. The paired test is by a bootstrap over samples, and so is the interval
    if no `interval` returns it, given the samples and the level."""

    samples: NDArray[Any]
    prepare: Callable[[NDArray[Any]], Callable[[Values], Values]]
    interval: Callable[[NDArray[Any], float], Interval] | None = None

    @property
    def value(self) -> float:
        return float(self.prepare(self.samples)(np.ones((1, len(self.samples))))[0])


Estimate = Proportion | Mean | Median | GroupMean | CrossedMean | FunctionOfSums | FunctionOfWeights


def without(estimate: Estimate, keep: NDArray[np.bool_]) -> Estimate:
    """Return an estimate of those clusters, or samples, that are to be kept (C,)."""
    if isinstance(estimate, FunctionOfSums):
        terms = estimate.terms._make(term[keep] for term in estimate.terms)
        return estimate._replace(terms=terms)
    clusters = getattr(estimate, "clusters", None)
    kept = keep if clusters is None else keep[clusters]
    arrays: Any = {
        n: a[kept] if isinstance(a, np.ndarray) else a for n, a in estimate._asdict().items()
    }
    return estimate._replace(**arrays)


def ratio(part: NDArray[np.number], whole: NDArray[np.number]) -> NDArray[np.float64]:
    """Return part / whole, NaN where whole is 0."""
    empty = np.full(np.shape(whole), np.nan)
    return np.divide(part, whole, out=empty, where=np.asarray(whole) > 0)


def mean_of_known(values: NDArray[np.float64]) -> Values:
    """Return the means (R,) over the values (C, R) that are not NaN, NaN where all are."""
    return ratio(np.nansum(values, axis=0), np.sum(~np.isnan(values), axis=0))


def means_of_groups(
    names: Sequence[str], group: Ints, columns: Mapping[str, NDArray[Any]], counted: str
) -> dict[str, dict[str, float | None]]:
    """Return for each named group the means of columns (N,), and how many samples are `counted`.
    `group` (N,) holds indices of names; means of a group without samples are None."""
    counts = np.bincount(group, minlength=len(names))
    means = {
        column: ratio(np.bincount(group, weights=values, minlength=len(names)), counts)
        for column, values in columns.items()
    }
    return {
        name: {
            **{column: float(m[i]) if counts[i] else None for column, m in means.items()},
            counted: int(counts[i]),
        }
        for i, name in enumerate(names)
    }


def first_equal(features: Features) -> NDArray[np.int64]:
    """Return the index of the first row that is equal, for each row of (N, D) features.

    Hashes of 8 bytes tell which rows can have an equal one: only these are kept and compared.
    """
    first = np.arange(len(features))
    hashes = np.fromiter((hash(row.tobytes()) for row in features), np.int64, len(features))
    _, group, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    first_of_bytes: dict[bytes, int] = {}
    for index in np.flatnonzero(counts[group] > 1).tolist():
        first[index] = first_of_bytes.setdefault(features[index].tobytes(), index)
    return first


def require_finite(*features: Features) -> None:
    """Raise ValueError for features that are not finite."""
    if not all(np.isfinite(some).all() for some in features):
        raise ValueError("features hold NaN or infinity")
