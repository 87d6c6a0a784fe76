"""Two methods, each trained several times: differences whose errors cover seeds and images.

Model: value of a training on an image = method + seed (of the method) + image + method x image +
rest, of which all but the method are random. A training's value over all images is disturbed by
its seed, and by the images in a way that trainings have in common as far as they agree on images:
`image_covariance` of the trainings' values holds that. With c = 1/k of each training of A and -1/k
of B, c' covariance c is the part of the images in the variance of the difference; the variance
between the values of a group's trainings, less what the rest adds to it, over k is that of its
seeds. Degrees of freedom: Satterthwaite 1946, Biometrics Bulletin 2; of seeds alone they are
Welch's. The design is that of several readers and cases (Obuchowski and Rockette 1995,
Communications in Statistics 24; Hillis 2007, Statistics in Medicine 26), with readers nested in
methods. Jackknife: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 11.
Shapes: S trainings, C clusters (images), G groups of samples.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import gammaincinv, ndtr, stdtr, stdtrit

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
from cosmos_eval.stats.intervals import LEVEL
from cosmos_eval.stats.paired import POWER
from cosmos_eval.stats.suites import resample
from cosmos_eval.types import Interval

METHOD = "Satterthwaite"
IMAGES_ONLY = "images alone"
_QUANTILES = (np.arange(50) + 0.5) / 50


class Trainings(NamedTuple):
    """The k trainings of a method, or k pairs of trainings of two methods: the variance between
    their values, and the variance of a value by images that its other trainings do not share. Those
    of two methods that vary alike are `pooled`: k is then what one over the sum of their inverse
    numbers is, and `freedom` the degrees of freedom of `between`, otherwise k - 1."""

    k: float
    between: float
    rest: float
    freedom: int | None = None

    @property
    def dof(self) -> float:
        return self.k - 1 if self.freedom is None else self.freedom

    @property
    def seed_variance(self) -> float | None:
        """The variance by seeds, which one training does not show."""
        return max(0.0, self.between - self.rest) if self.dof > 0 else None

    @property
    def seed_sd(self) -> float | None:
        return None if self.seed_variance is None else math.sqrt(self.seed_variance)


class GroupDifference(NamedTuple):
    """The mean of a metric over the trainings of one method (`a`) minus that of another (`b`), in
    the metric's unit. `image_error` is the standard error by the images alone; `factors` are what
    the seeds add: both groups, or the pairs of trainings of the same seed. `units` counts images.
    """

    a: float
    b: float
    groups: tuple[Trainings, Trainings]
    factors: tuple[Trainings, ...]
    image_error: float
    units: int

    @property
    def difference(self) -> float:
        return self.a - self.b

    @property
    def method(self) -> str:
        return METHOD if self._several else IMAGES_ONLY

    @property
    def of_methods(self) -> bool:
        """Whether both groups have seeds, so that the difference is one of methods."""
        return all(one.k > 1 for one in self.groups)

    @property
    def error(self) -> float:
        return math.sqrt(self._moments()[0])

    @property
    def dof(self) -> float:
        return float(self._moments()[1])

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference."""
        if self.error > 0:
            return 2 * float(stdtr(self.dof, -abs(self.difference) / self.error))
        return 1.0 if self.difference == 0 else min(1.0, 2 * 0.5**self.units)

    def p_below(self, bound: float) -> float:
        """One-sided p-value against a true difference of `bound` or more."""
        if self.error > 0:
            return float(stdtr(self.dof, (self.difference - bound) / self.error))
        return 1.0 if self.difference >= bound else 0.5**self.units

    def flipped(self) -> "GroupDifference":
        return self._replace(a=self.b, b=self.a, groups=self.groups[::-1])

    def interval(self, level: float = LEVEL) -> Interval:
        half = float(stdtrit(self.dof, (1 + level) / 2)) * self.error
        return Interval(self.difference - half, self.difference + half, self.method, level)

    def detectable(
        self,
        alpha: float = 1 - LEVEL,
        power: float = POWER,
        *,
        k: int | None = None,
        images: float = 1,
    ) -> float | None:
        """The true difference that a two-sided test at `alpha` finds with probability `power`: with
        these trainings or k of each method, and `images` times as many images. It is what it is on
        average over how much so many trainings happen to vary. None where nothing varied."""
        dofs = [k - 1 if k else one.dof for one in self._several]
        expected = [(one.seed_variance or 0) + one.rest / images for one in self._several]
        error = math.sqrt(self._moments(expected, k, images)[0])
        if error == 0:
            return None
        happened = np.meshgrid(*(2 * gammaincinv(n / 2, _QUANTILES) / n for n in dofs))
        between = [one * varied for one, varied in zip(expected, happened, strict=True)]
        variance, dof = self._moments(between, k, images)
        least = stdtrit(dof, 1 - alpha / 2) * np.sqrt(variance)

        def lacking(true: float) -> float:
            return float(np.mean(ndtr((true - least) / error))) - power

        return float(brentq(lacking, 0, np.max(least) + 10 * error))

    @property
    def _several(self) -> list[Trainings]:
        return [one for one in self.factors if one.dof > 0]

    def _moments(
        self, between: Sequence[Any] | None = None, k: int | None = None, images: float = 1
    ) -> tuple[Any, Any]:
        """Return the variance of the difference and its degrees of freedom, for variances `between`
        k trainings, by default these."""
        several, of_images = self._several, self.image_error**2
        sizes = [(k, k - 1) if k else (one.k, one.dof) for one in several]
        common = max(0.0, of_images - sum(one.rest / one.k for one in several)) / images
        total: Any = common
        spread: Any = common**2 / max(1, self.units * images - 1)
        values = between or [one.between for one in several]
        for value, (size, dof) in zip(values, sizes, strict=True):
            total = total + value / size
            spread = spread + (value / size) ** 2 / dof
        if min((dof for _, dof in sizes), default=1) == 1:  # two values may be equal by chance
            rest = sum(one.rest / n for one, (n, _) in zip(several, sizes, strict=True))
            total = np.maximum(total, common + rest / images if k else of_images)
        return total, np.where(spread > 0, total**2 / np.where(spread > 0, spread, 1), math.inf)


def group_difference(
    a: Values,
    b: Values,
    covariance: Values,
    units: int,
    *,
    by_seed: bool = False,
    pooled: bool = False,
) -> GroupDifference:
    """Compare the values (k_A,) and (k_B,) of two groups of trainings, whose covariance by `units`
    images is (k_A + k_B,) squared, A's before B's. `by_seed` pairs trainings of the same index,
    which share what a seed decides for both methods. `pooled` takes both methods to vary alike by
    seeds, so that one of them may have one training. Raises ValueError where `by_seed` has groups
    of different sizes, and for fewer than two images."""
    if units < 2:
        raise ValueError("two images or more are needed to tell models apart")
    if by_seed and len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} trainings are no pairs")
    k = len(a)
    weights = np.concatenate([np.full(k, 1 / k), np.full(len(b), -1 / len(b))])
    groups = _trainings(a, covariance[:k, :k]), _trainings(b, covariance[k:, k:])
    factors: tuple[Trainings, ...] = groups
    if by_seed:
        pairs = np.concatenate([np.eye(k), -np.eye(k)], axis=1)
        factors = (_trainings(a - b, pairs @ covariance @ pairs.T),)
    elif pooled:
        factors = (_pooled(groups),)
    image_error = math.sqrt(max(0.0, float(weights @ covariance @ weights)))
    return GroupDifference(float(a.mean()), float(b.mean()), groups, factors, image_error, units)


def _trainings(values: Values, covariance: Values) -> Trainings:
    k = len(values)
    if k == 1:
        return Trainings(1, 0.0, 0.0)
    between = float(values.var(ddof=1))
    common = (covariance.sum() - np.trace(covariance)) / (k * (k - 1))
    return Trainings(k, between, max(0.0, float(np.trace(covariance) / k - common)))


def _pooled(groups: tuple[Trainings, Trainings]) -> Trainings:
    freedom = sum(int(one.dof) for one in groups)
    if not freedom:
        return Trainings(1, 0.0, 0.0)
    between, rest = (
        sum(one.dof * getattr(one, name) for one in groups) / freedom
        for name in ("between", "rest")
    )
    return Trainings(1 / sum(1 / one.k for one in groups), between, rest, freedom)


def image_covariance(estimates: Sequence[Estimate], *, seed: int = 0) -> tuple[Values, int]:
    """Return the covariance (S, S) of a metric's values of S models that the draw of their common
    images causes, and the number of images or clusters.

    By the jackknife, or, for medians, minima and what samples have no sums of, by the bootstrap. It
    is NaN where the metric has no value without one of the images. Raises ValueError for fewer than
    two images.
    """
    left_out = [_without_each(estimate) for estimate in estimates]
    known = [values for values in left_out if values is not None]
    if len(known) == len(left_out):
        values, n = np.stack(known), len(known[0])
        if n < 2:
            raise ValueError("two images or more are needed to tell models apart")
        changes = values - values.mean(axis=1, keepdims=True)
        return (n - 1) / n * changes @ changes.T, n
    drawn, n = resample({str(index): one for index, one in enumerate(estimates)}, seed=seed)
    values = np.stack([drawn[str(index)] for index in range(len(estimates))])
    values = values[:, ~np.isnan(values).any(axis=0)]
    # Resampling n clusters varies by a factor (n - 1) / n too little.
    return np.atleast_2d(np.cov(values)) * n / (n - 1), n


def _without_each(estimate: Estimate) -> Values | None:
    """Return the values (C,) of an estimate without each cluster, which the jackknife varies; None
    where it does not hold or takes as many passes as there are clusters."""
    match estimate:
        case Proportion(hits):
            return (hits.sum() - hits) / (len(hits) - 1) if len(hits) > 1 else np.zeros(1)
        case Mean(values, clusters):
            cluster = np.unique(clusters, return_inverse=True)[1]
            sums, sizes = np.bincount(cluster, weights=values), np.bincount(cluster)
            return ratio(sums.sum() - sums, sizes.sum() - sizes)
        case FunctionOfSums(terms, function):
            return function(terms._make(term.sum(0) - term for term in terms))
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
