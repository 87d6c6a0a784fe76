"""Two methods, each trained several times: differences whose errors cover seeds and images.

Model: value of a training on an image = method + seed (of the method) + image + method x image +
rest, of which all but the method are random. A training's value over all images is disturbed by
its seed, and by the images in a way that trainings have in common as far as they agree on images:
`image_covariance` of the trainings' values holds that. With c = 1/k of each training of A and -1/k
of B, c' covariance c is the part of the images in the variance of the difference; the variance
between the values of a group's trainings, less what the rest adds to it, over k is that of its
seeds. By chance the values of few trainings lie closer together than images without seeds make
them. An error is therefore never below that by images: of the test with seeds and the test by
images alone, the wider interval and the larger p-value count.

Degrees of freedom within the seeds: Satterthwaite 1946, Biometrics Bulletin 2; of two groups of the
same size they are Welch's, and the smaller size counts for both otherwise. Quantiles of seeds and
images together: Cochran and Cox 1957, "Experimental Designs", section 4.14, since Satterthwaite's
degrees of freedom are too many if a large variance, known from few trainings, happens to look small
beside one that is well known. The design is that of several readers and cases (Obuchowski and
Rockette 1995, Communications in Statistics 24; Hillis 2007, Statistics in Medicine 26), with
readers nested in methods. Jackknife: Efron and Tibshirani 1993, "An Introduction to the Bootstrap",
chapter 11. Shapes: S trainings, C clusters (images), G groups of samples.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaincinv, ndtr, stdtrit

from cosmos_eval.stats.estimates import Estimate, Values
from cosmos_eval.stats.intervals import LEVEL
from cosmos_eval.stats.jackknife import values_without_each
from cosmos_eval.stats.paired import POWER
from cosmos_eval.stats.suites import resample
from cosmos_eval.types import Interval

METHOD = "Satterthwaite and Cochran"
IMAGES_ONLY = "images alone"
_QUANTILES = (np.arange(50) + 0.5) / 50
_LEAST_P = 1e-100  # below which quantiles of t are not accurate


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


class ErrorVariance(NamedTuple):
    """The variance of a difference: the part of the seeds, the part that trainings have in common
    by the images, and the whole by the images alone. Arrays are of several studies."""

    seeds: Any
    seeds_dof: Any
    common: Any
    images: float
    images_dof: float

    def half_width(self, tail: float) -> Any:
        """Return how far the difference is off with a probability of `tail`, to one side."""
        of_images = -stdtrit(self.images_dof, tail)
        of_seeds = -stdtrit(self.seeds_dof, tail)
        total = self.seeds + self.common
        weighted = (self.seeds * of_seeds + self.common * of_images) / np.sqrt(total)
        return np.maximum(weighted, of_images * math.sqrt(self.images))

    def tail(self, distance: float) -> float:
        """Return the probability that a difference is off by a distance or more, to one side."""
        from scipy.optimize import brentq  # which tables without groups need not wait for

        if distance == 0:
            return 0.5

        def excess(log_tail: float) -> float:
            return float(self.half_width(math.exp(log_tail))) - abs(distance)

        least = math.log(_LEAST_P)
        tail = math.exp(least if excess(least) < 0 else brentq(excess, least, math.log(0.5)))
        return tail if distance > 0 else 1 - tail


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
        return all(group.k > 1 for group in self.groups)

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference; at least that of signs that are the same in all images."""
        return 2 * max(0.5**self.units, self._variance().tail(abs(self.difference)))

    def p_below(self, bound: float) -> float:
        """One-sided p-value against a true difference of `bound` or more."""
        return max(0.5**self.units, self._variance().tail(bound - self.difference))

    def flipped(self) -> "GroupDifference":
        return self._replace(a=self.b, b=self.a, groups=self.groups[::-1])

    def interval(self, level: float = LEVEL) -> Interval:
        half = float(self._variance().half_width((1 - level) / 2))
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
        from scipy.optimize import brentq

        dofs = [k - 1 if k else trainings.dof for trainings in self._several]
        expected = [
            (trainings.seed_variance or 0) + trainings.rest / images for trainings in self._several
        ]
        true = self._variance(expected, k, images)
        error = math.sqrt(true.seeds + true.common)
        if error == 0:
            return None
        happened = np.meshgrid(*(2 * gammaincinv(dof / 2, _QUANTILES) / dof for dof in dofs))
        between = [value * varied for value, varied in zip(expected, happened, strict=True)]
        least = self._variance(between, k, images).half_width(alpha / 2)

        def lacking(difference: float) -> float:
            return float(np.mean(ndtr((difference - least) / error))) - power

        return float(brentq(lacking, 0, np.max(least) + 10 * error))

    @property
    def _several(self) -> list[Trainings]:
        return [trainings for trainings in self.factors if trainings.dof > 0]

    def _variance(
        self, between: Sequence[Any] | None = None, k: int | None = None, images: float = 1
    ) -> ErrorVariance:
        """Return the variance of the difference for variances `between` trainings, by default those
        that were seen; of k trainings of each method and `images` times as many images, if given.

        No value is known better than to one image: groups that are all right would have no error
        otherwise.
        """
        several, one_image = self._several, (self.units * images + 2) ** -2
        sizes = [(k, k - 1) if k else (trainings.k, trainings.dof) for trainings in several]
        values = between or [trainings.between for trainings in several]
        of_groups: list[Any] = []
        rest, rest_of_size = 0.0, 0.0
        for trainings, value, (size, _) in zip(several, values, sizes, strict=True):
            of_groups.append(np.maximum(value, one_image) / size)
            rest += trainings.rest / trainings.k
            rest_of_size += trainings.rest / size / images
        common = max(0.0, self.image_error**2 - rest) / images
        of_images = max(common + rest_of_size, one_image)
        return ErrorVariance(
            seeds=sum(of_groups),
            seeds_dof=_freedom(of_groups, [dof for _, dof in sizes]),
            common=common if several else of_images,
            images=of_images,
            images_dof=max(1, self.units * images - 1),
        )


def _freedom(variances: Sequence[Any], dofs: Sequence[float]) -> Any:
    """Return the degrees of freedom of a sum of variances by Satterthwaite, for the smallest
    number of trainings. Two trainings may be equal by chance, which others do not make up for."""
    fewest, total = min(dofs, default=1), sum(variances)
    if fewest == 1 and len(set(dofs)) > 1:
        return 1
    squares = np.asarray(sum(variance**2 for variance in variances))
    return fewest * np.divide(total**2, squares, out=np.ones(squares.shape), where=squares > 0)


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
    left_out = [values_without_each(estimate) for estimate in estimates]
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
