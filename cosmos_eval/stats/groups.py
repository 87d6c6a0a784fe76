"""Comparisons of two methods, each trained several times. Errors cover both seeds and images.

Model: value of a training on an image = method + seed (of the method) + image + method x image +
rest. All terms but the method are random. The rest is what an image does to a single training: for
example, one training is right on an image on which other trainings of the method are wrong. So a
training's value over all images varies by its seed and by the draw of the images. The images move
all trainings in a similar way, as far as trainings agree on images: this is the `image_covariance`
of the trainings' values.

The variance of the difference of two means of k trainings each is the sum of
- images: c' covariance c, with c = 1/k for each training of A and -1/k for each training of B;
- seeds, for each method: the variance between the values of its trainings, less the variance that
  the rest adds to it (`rest_variance`), over k.
By chance, the values of few trainings may lie closer together than images move them even if seeds
have no effect. An error is therefore never below the error by images only: of the test with seeds
and the test by images only, the wider interval and the larger p-value count.

Degrees of freedom within the seeds: Satterthwaite 1946, Biometrics Bulletin 2. For two groups of
the same size they are Welch's; otherwise, the smaller size counts for both. Quantiles of seeds and
images together: Cochran and Cox 1957, "Experimental Designs", section 4.14, because Satterthwaite's
degrees of freedom are too many if a large variance, known from few trainings, happens to look small
beside a variance that is well known. The design is the one of several readers and cases (Obuchowski
and Rockette 1995, Communications in Statistics 24; Hillis 2007, Statistics in Medicine 26), with
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
_QUANTILES = (np.arange(50) + 0.5) / 50  # the middles of 50 equally probable ranges
_LEAST_P = 1e-100  # below which quantiles of t are not accurate


class Trainings(NamedTuple):
    """How much the trainings of a method vary, or pairs of trainings of two methods.

    The trainings of two methods whose seeds have the same variance may be pooled into one record.
    """

    # The number of trainings or pairs. For pooled trainings, k_A and k_B: 1 / (1/k_A + 1/k_B).
    k: float
    # The variance between the values of the trainings.
    variance_between: float
    # The variance by which the draw of the images moves the value of one training, but not the
    # values of the other trainings. It is by the rest in the model above.
    rest_variance: float
    # The degrees of freedom of `variance_between` for pooled trainings. None stands for k - 1.
    pooled_dof: int | None = None

    @property
    def dof(self) -> float:
        """The degrees of freedom of `variance_between`. They are 0 for a single training."""
        return self.k - 1 if self.pooled_dof is None else self.pooled_dof

    @property
    def seed_variance(self) -> float | None:
        """The variance by seeds: the variance between trainings less `rest_variance`.

        It is at least 0. It is None for a single training.
        """
        if self.dof <= 0:
            return None
        return max(0.0, self.variance_between - self.rest_variance)

    @property
    def seed_sd(self) -> float | None:
        """The standard deviation by seeds. It is None for a single training."""
        return None if self.seed_variance is None else math.sqrt(self.seed_variance)


class ErrorVariance(NamedTuple):
    """The variance of the difference of two methods.

    Fields of type Any may be arrays with one element for each of several studies.
    """

    # The variance by seeds, and its degrees of freedom.
    seeds: Any
    seeds_dof: Any
    # The variance by images that all trainings of a method share.
    common: Any
    # The variance by images only, as if seeds had no effect, and its degrees of freedom.
    images_only: float
    images_dof: float

    def half_width(self, tail: float) -> Any:
        """Return the distance that the error exceeds on one side with a probability of `tail`.

        It is a quantile times the standard error, sqrt(seeds + common). The quantile is the mean of
        the t quantiles of seeds and of images, weighted by their variances (Cochran and Cox):
            (seeds * t_seeds + common * t_images) / (seeds + common).
        The half width is at least the half width by images only, t_images * sqrt(images_only), and
        by seeds only, t_seeds * sqrt(seeds). Without the latter, it would fall as `common` rises
        from 0, if t_seeds is more than twice t_images. For example, an interval of the level 0.95
        is the difference -+ half_width(0.025).
        """
        image_quantile = -stdtrit(self.images_dof, tail)
        seed_quantile = -stdtrit(self.seeds_dof, tail)
        total = self.seeds + self.common
        weighted = (self.seeds * seed_quantile + self.common * image_quantile) / np.sqrt(total)
        by_images = image_quantile * math.sqrt(self.images_only)
        by_seeds = seed_quantile * np.sqrt(self.seeds)
        return np.maximum(weighted, np.maximum(by_images, by_seeds))

    def tail(self, distance: float) -> float:
        """Return the probability that the error exceeds a distance on one side.

        It is the inverse function of `half_width`: half_width(tail(distance)) = distance. The tail
        of a distance of 0 is 0.5. The tails of -distance and distance add up to 1. The least
        probability of a tail that is computed is 1e-100.
        """
        from scipy.optimize import brentq  # loading it takes long, and tables rarely need it

        if distance == 0:
            return 0.5

        def width_beyond_distance(log_tail: float) -> float:
            """Return half_width(tail) - |distance|. It is 0 at the tail that is searched for."""
            return float(self.half_width(math.exp(log_tail))) - abs(distance)

        # Search the logarithm of the tail, because tails differ by many orders of magnitude.
        log_tail = math.log(_LEAST_P)
        is_above_least = width_beyond_distance(log_tail) >= 0
        if is_above_least:
            log_tail = brentq(width_beyond_distance, log_tail, math.log(0.5))
        tail = math.exp(log_tail)
        return tail if distance > 0 else 1 - tail


class GroupDifference(NamedTuple):
    """The mean of a metric over the trainings of method A minus the mean of method B."""

    # The mean of A and the mean of B, in the metric's unit.
    a: float
    b: float
    # The trainings of A and of B.
    groups: tuple[Trainings, Trainings]
    # The trainings whose seeds add to the error. This is `groups`, or one record of pairs
    # of trainings with the same seed, or one record of both groups pooled.
    factors: tuple[Trainings, ...]
    # The standard error by images only.
    image_error: float
    # The number of images.
    units: int

    @property
    def difference(self) -> float:
        """The mean of A minus the mean of B."""
        return self.a - self.b

    @property
    def method(self) -> str:
        """The name of the statistical method in results."""
        return METHOD if self._repeated_trainings else IMAGES_ONLY

    @property
    def compares_methods(self) -> bool:
        """True if both groups have several trainings, so that methods are compared."""
        return all(group.k > 1 for group in self.groups)

    @property
    def p_value(self) -> float:
        """The two-sided p-value for no difference.

        It is at least the p-value of a sign test with the same sign in all images.
        """
        tail = self._error_variance().tail(abs(self.difference))
        return 2 * max(0.5**self.units, tail)

    def p_below(self, bound: float) -> float:
        """Return the one-sided p-value against a true difference of `bound` or more."""
        tail = self._error_variance().tail(bound - self.difference)
        return max(0.5**self.units, tail)

    def flipped(self) -> "GroupDifference":
        """Return the difference of B minus A."""
        return self._replace(a=self.b, b=self.a, groups=self.groups[::-1])

    def interval(self, level: float = LEVEL) -> Interval:
        """Return the confidence interval of the difference."""
        half = float(self._error_variance().half_width((1 - level) / 2))
        return Interval(self.difference - half, self.difference + half, self.method, level)

    def detectable(
        self,
        alpha: float = 1 - LEVEL,
        power: float = POWER,
        *,
        k: int | None = None,
        images: float = 1,
    ) -> float | None:
        """Return the true difference that a planned study finds with probability `power`.

        The variances that such a study will estimate are random: the power is the mean over their
        distribution.

        Args:
            alpha: The significance of the two-sided test, such as 0.05.
            power: The probability that the test is significant if there is the returned difference.
            k: The number of trainings of each method, by default as many as there are now.
            images: The number of images, as a multiple of the number of images now.

        Returns:
            The difference in the metric's unit, or None if nothing varied.
        """
        from scipy.optimize import brentq  # loading it takes long, and tables rarely need it

        # The true standard error of the planned study.
        expected_variances = []
        for trainings in self._repeated_trainings:
            seed_variance = trainings.seed_variance or 0
            expected_variances.append(seed_variance + trainings.rest_variance / images)
        expected = self._error_variance(expected_variances, k, images)
        standard_error = math.sqrt(expected.seeds + expected.common)
        if standard_error == 0:
            return None

        # The least difference that is significant, for each variance that the study may estimate.
        possible_variances = self._possible_variances(expected_variances, k)
        possible = self._error_variance(possible_variances, k, images)
        least_significant = possible.half_width(alpha / 2)

        def power_beyond_target(true_difference: float) -> float:
            """Return the mean power minus `power`. It is 0 at the detectable difference."""
            # The probability that the observed difference is significant, for each possible study.
            power_of_studies = ndtr((true_difference - least_significant) / standard_error)
            return float(np.mean(power_of_studies)) - power

        largest = np.max(least_significant) + 10 * standard_error
        return float(brentq(power_beyond_target, 0, largest))

    def _possible_variances(self, expected_variances: list[float], k: int | None) -> list[Any]:
        """Return the variances between trainings that a study with k trainings may estimate.

        The variance between k trainings, estimated again and again, is distributed like
            expected variance * chi-squared / dof, with dof = k - 1 degrees of freedom.
        This distribution is replaced by 50 equally probable values: its quantiles.

        Args:
            expected_variances: The expected variance between trainings, for each of the repeated
                trainings.
            k: The number of trainings of each method, by default as many as there are now.

        Returns:
            The possible variances of each of the repeated trainings. Position i of all arrays is
            one possible study. If trainings are paired or pooled, or if only one method has several
            trainings, there is one array (50,). For two methods, whose variances are independent,
            there are two arrays (2500,) with all pairs of a variance of A and a variance of B.

        Example:
            With the two quantiles 1 and 2 for A, and 10 and 20 for B, the arrays would be
            [1, 2, 1, 2] and [10, 10, 20, 20].
        """
        possible_variances = []
        for trainings, expected_variance in zip(
            self._repeated_trainings, expected_variances, strict=True
        ):
            dof = k - 1 if k else trainings.dof
            # gammaincinv(dof / 2, p) is half the quantile p of chi-squared.
            relative_quantiles = 2 * gammaincinv(dof / 2, _QUANTILES) / dof
            possible_variances.append(expected_variance * relative_quantiles)

        if len(possible_variances) < 2:
            return possible_variances
        variances_of_a, variances_of_b = possible_variances
        return [
            np.tile(variances_of_a, len(variances_of_b)),
            np.repeat(variances_of_b, len(variances_of_a)),
        ]

    @property
    def _repeated_trainings(self) -> list[Trainings]:
        """The factors that have several trainings."""
        return [trainings for trainings in self.factors if trainings.dof > 0]

    def _error_variance(
        self,
        variances_between: Sequence[Any] | None = None,
        k: int | None = None,
        images: float = 1,
    ) -> ErrorVariance:
        """Return the variance of the difference, of this study or of a planned one.

        The difference of two means of k trainings has the variance by seeds
            variance_between_A / k + variance_between_B / k,
        and the variance by images that trainings share
            image_error^2 - rest_variance_A / k - rest_variance_B / k.

        Variances are at least the variance of one image among all images. Otherwise, methods that
        are right on all images would have no error.

        Args:
            variances_between: The variance between trainings, for each of the repeated trainings.
                By default, they are the variances that this study has estimated.
            k: The number of trainings of each method, by default as many as there are now.
            images: The number of images, as a multiple of the number of images now.
        """
        repeated = self._repeated_trainings
        least_variance = (self.units * images + 2) ** -2
        if not variances_between:
            variances_between = [trainings.variance_between for trainings in repeated]
        seed_variances: list[Any] = []
        dofs: list[float] = []
        # The variance of the difference by the rest, in this study and in the planned one.
        rest_now, rest_planned = 0.0, 0.0
        for trainings, variance_between in zip(repeated, variances_between, strict=True):
            n_trainings = k or trainings.k
            dofs.append(k - 1 if k else trainings.dof)
            seed_variances.append(np.maximum(variance_between, least_variance) / n_trainings)
            rest_now += trainings.rest_variance / trainings.k
            rest_planned += trainings.rest_variance / n_trainings / images
        common = max(0.0, self.image_error**2 - rest_now) / images
        images_only = max(common + rest_planned, least_variance)
        return ErrorVariance(
            seeds=sum(seed_variances),
            seeds_dof=_dof_of_sum(seed_variances, dofs),
            common=common if repeated else images_only,
            images_only=images_only,
            images_dof=max(1, self.units * images - 1),
        )


def _dof_of_sum(variances: Sequence[Any], dofs: Sequence[float]) -> Any:
    """Return the degrees of freedom of a sum of variances by Satterthwaite.

    All variances count as if they had the fewest degrees of freedom:
        min(dofs) * (sum of variances)^2 / (sum of squared variances).
    If one variance has a single degree of freedom and another one has more, the result is 1: two
    trainings may be equal by chance, and the trainings of the other method do not make up for that.

    Args:
        variances: The variances that are added up. They may be arrays of the same shape.
        dofs: The degrees of freedom of each variance.

    Example:
        Two variances have 4 degrees of freedom each. If they are equal, their sum has 8. If one of
        them is 0, the sum has 4.
    """
    fewest_dof = min(dofs, default=1)
    has_different_dofs = len(set(dofs)) > 1
    if fewest_dof == 1 and has_different_dofs:
        return 1
    total = sum(variances)
    squares = np.asarray(sum(variance**2 for variance in variances))
    # How many equal variances the sum is worth, 1 if all variances are 0.
    n_equal = np.divide(total**2, squares, out=np.ones(squares.shape), where=squares > 0)
    return fewest_dof * n_equal


def group_difference(
    a: Values,
    b: Values,
    covariance: Values,
    units: int,
    *,
    by_seed: bool = False,
    pooled: bool = False,
) -> GroupDifference:
    """Return the difference of the mean values of two methods, each trained several times.

    Args:
        a: (k_A,), the value of a metric for each training of method A.
        b: (k_B,), the value of the same metric for each training of method B.
        covariance: (k_A + k_B, k_A + k_B), the covariance of the values by the draw of the images,
            see `image_covariance`. Its rows and columns are first the trainings of A, then the
            trainings of B.
        units: The number of images.
        by_seed: True if trainings of the same index are pairs, which share everything that a seed
            decides for both methods.
        pooled: True if the seeds of both methods are assumed to have the same variance, so that one
            of the methods may have a single training.

    Raises:
        ValueError: There are fewer than two images, or `by_seed` is True and the methods have
            different numbers of trainings.
    """
    if units < 2:
        raise ValueError("two images or more are needed to tell models apart")
    if by_seed and len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} trainings do not make pairs")
    k_a, k_b = len(a), len(b)
    trainings_a = _measure_spread(a, covariance[:k_a, :k_a])
    trainings_b = _measure_spread(b, covariance[k_a:, k_a:])
    factors: tuple[Trainings, ...] = (trainings_a, trainings_b)
    if by_seed:
        pairs = np.concatenate([np.eye(k_a), -np.eye(k_a)], axis=1)  # pairs @ [a, b] is a - b
        covariance_of_pairs = pairs @ covariance @ pairs.T
        factors = (_measure_spread(a - b, covariance_of_pairs),)
    elif pooled:
        factors = (_pool(trainings_a, trainings_b),)
    # weights @ [a, b] is the difference of the means.
    weights = np.concatenate([np.full(k_a, 1 / k_a), np.full(k_b, -1 / k_b)])
    image_variance = max(0.0, float(weights @ covariance @ weights))
    return GroupDifference(
        a=float(a.mean()),
        b=float(b.mean()),
        groups=(trainings_a, trainings_b),
        factors=factors,
        image_error=math.sqrt(image_variance),
        units=units,
    )


def _measure_spread(values: Values, covariance: Values) -> Trainings:
    """Return how much the values of k trainings of a method vary, and how much of it is by images.

    Trainings differ by their seeds, and because an image may help one training only. The covariance
    tells how much is by images. If other images are drawn,
    - the variance of one training's value is an element of its diagonal;
    - the variance that two trainings share is an element off the diagonal.
    So the variance that a training does not share, `rest_variance`, is the mean of the diagonal
    minus the mean of all other elements. It is at least 0. For a single training, both variances
    are 0, since they cannot be estimated.

    Args:
        values: (k,), the value of a metric for each training, or the difference of each pair.
        covariance: (k, k), the covariance of the values by the draw of the images.

    Example:
        The values [1, 3] have a variance of 2 between trainings. With the covariance [[5, 2],
        [2, 5]], the draw of the images gives each value a variance of 5, of which the trainings
        share 2. `rest_variance` is 5 - 2 = 3.
    """
    k = len(values)
    if k == 1:
        return Trainings(k=1, variance_between=0.0, rest_variance=0.0)
    variance_between = float(values.var(ddof=1))
    sum_of_variances = np.trace(covariance)
    mean_variance = sum_of_variances / k
    mean_covariance = (covariance.sum() - sum_of_variances) / (k * (k - 1))
    rest_variance = max(0.0, float(mean_variance - mean_covariance))
    return Trainings(k, variance_between, rest_variance)


def _pool(a: Trainings, b: Trainings) -> Trainings:
    """Return one record for the trainings of two methods whose seeds have the same variance.

    The variances are the means of both methods, weighted by the degrees of freedom. For example,
    variances of 1 by three trainings and 4 by two trainings give (2 * 1 + 1 * 4) / 3 = 2.
    """
    dof = int(a.dof) + int(b.dof)
    if not dof:
        return Trainings(k=1, variance_between=0.0, rest_variance=0.0)
    variance_between = (a.dof * a.variance_between + b.dof * b.variance_between) / dof
    rest_variance = (a.dof * a.rest_variance + b.dof * b.rest_variance) / dof
    return Trainings(
        k=1 / (1 / a.k + 1 / b.k),
        variance_between=variance_between,
        rest_variance=rest_variance,
        pooled_dof=dof,
    )


def image_covariance(estimates: Sequence[Estimate], *, seed: int = 0) -> tuple[Values, int]:
    """Return how much the values of S models would vary together if other images were drawn.

    The covariance is by the jackknife: with the values (S, n) without each of n images, it is
        (n - 1) / n * sum over images of (value - mean) * (value - mean)'.
    For medians, minima and other estimates that the jackknife does not hold for, it is by the
    bootstrap. It is NaN if the metric has no value without one of the images.

    Args:
        estimates: The same metric of each model, on the same images.
        seed: The seed of the bootstrap.

    Returns:
        The covariance (S, S), and the number of images, or of clusters of samples that depend on
        each other.

    Raises:
        ValueError: There are fewer than two images.
    """
    jackknife_values = []
    for estimate in estimates:
        values_of_model = values_without_each(estimate)
        if values_of_model is None:
            return _bootstrap_covariance(estimates, seed)
        jackknife_values.append(values_of_model)
    values = np.stack(jackknife_values)  # (S, n)
    n = values.shape[1]
    if n < 2:
        raise ValueError("two images or more are needed to tell models apart")
    changes = values - values.mean(axis=1, keepdims=True)
    covariance = (n - 1) / n * changes @ changes.T
    return covariance, n


def _bootstrap_covariance(estimates: Sequence[Estimate], seed: int) -> tuple[Values, int]:
    """Return the covariance (S, S) of the values of S models by the bootstrap.

    Also return the number of images or clusters that each resample draws. Resamples in which a
    model has no value do not count. `estimates` holds the same metric of each model, on the same
    images.
    """
    estimates_by_name = {str(index): estimate for index, estimate in enumerate(estimates)}
    values_by_name, n = resample(estimates_by_name, seed=seed)
    values = np.stack([values_by_name[name] for name in estimates_by_name])  # (S, R)
    is_complete = ~np.isnan(values).any(axis=0)
    covariance = np.atleast_2d(np.cov(values[:, is_complete]))
    # The variance of resampled values of n clusters is too small by a factor (n - 1) / n.
    return covariance * n / (n - 1), n
