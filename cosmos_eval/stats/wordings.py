"""Errors of a metric over wordings of its texts, beside images and seeds.

A method is a model, or several trainings of a model with different seeds. The statistical model is

    value of a training with a wording on an image
        = method + wording + seed + image + all interactions of wording, seed and image

All terms but the method are random and crossed: every training is measured on every image with
every wording. The wordings are considered as a random sample of a population of similar wordings.

Variance components are computed from products of values that share one factor and no other. They
are therefore unbiased: a covariance over wordings between two different seeds, for example, has no
effect of the seeds. For a mean over images, they are the components by mean squares of a crossed
table (Searle, Casella and McCulloch 1992, "Variance Components", chapter 4). What images contribute
to each product follows from the jackknife (Efron and Tibshirani 1993, "An Introduction to the
Bootstrap", chapter 11), so that it holds for means over classes and intersections over unions, too.

The variance of a mean over wordings is a sum of terms with different degrees of freedom. Its
quantile is the mean of their t quantiles, weighted by their variances (Cochran and Cox 1957,
"Experimental Designs", section 4.14). Satterthwaite's degrees of freedom would be too many if a few
wordings are similar by chance. Intervals of components are by Ting, Burdick, Graybill, Jeyaratnam
and Lu 1990, Journal of Statistical Computation and Simulation 35.

Shapes: S seeds, W wordings, C images (or clusters of samples that depend on each other).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import chdtri, stdtrit

from cosmos_eval.stats.estimates import Estimate, MeanRank, Values
from cosmos_eval.stats.intervals import LEVEL
from cosmos_eval.stats.jackknife import values_without_each
from cosmos_eval.types import Interval

LEAST_WORDINGS = 3
"""The fewest wordings that an interval is computed from. Two would have one degree of freedom,
whose quantile, 12.7, makes most intervals uselessly wide."""
_MOST_LOGARITHM = 50.0  # the limit of log(end of an interval / variance)
METHOD = "images x wordings, weighted t"


class WordedValues(NamedTuple):
    """The values of a metric for all trainings of a method with all wordings on the same images."""

    # (S, W), the value of each training with each wording.
    values: Values
    # (S, W, C), how far each image moves each value, by the jackknife. The sum over images of the
    # products of two values' deviations is the covariance of the values, if images are drawn again.
    deviations: Values


class Component(NamedTuple):
    """A variance component, which is unbiased and may therefore be negative."""

    # The variance, in the square of the metric's unit.
    variance: float
    # The ends of the interval of the variance. They are at least 0.
    low: float
    high: float

    @property
    def sd(self) -> float:
        """The standard deviation. It is 0 if the variance is negative."""
        return math.sqrt(max(0.0, self.variance))


class Components(NamedTuple):
    """How much a metric varies by images, by wordings and by seeds."""

    # The variance if as many images are drawn again, in so far as all wordings and seeds share it.
    images: Component
    # The variance over wordings on infinitely many images.
    wording: Component
    # The variance over seeds on infinitely many images; None for a single training.
    seeds: Component | None


class VarianceTerm(NamedTuple):
    """A term of the variance of a mean, and its degrees of freedom."""

    variance: float
    dof: float


class WordedMean(NamedTuple):
    """The mean of a metric over wordings, or the mean difference of two models."""

    mean: float
    # The terms of the variance of the mean: one by wordings, one by the seeds of each method that
    # has several trainings, and one by images.
    terms: tuple[VarianceTerm, ...]
    # The variance of the mean if neither wordings nor seeds had an effect.
    images_only: VarianceTerm

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, from the sum of all terms."""
        return math.sqrt(sum(term.variance for term in self.terms))

    def interval(self, level: float = LEVEL) -> Interval:
        """Return the confidence interval of the mean over images, wordings and seeds.

        The half-width is computed from all terms, but is never below the one for images only.
        """
        half_width = max(_half_width([self.images_only], level), _half_width(self.terms, level))
        return Interval(self.mean - half_width, self.mean + half_width, METHOD, level)


def _half_width(terms: Sequence[VarianceTerm], level: float) -> float:
    """Return half the width of the interval of a value whose variance is a sum of terms.

    It is the standard error times the mean t quantile of the terms, weighted by their variances v:

        sqrt(sum(v)) * sum(v * t quantile) / sum(v) = sum(v * t quantile) / sqrt(sum(v))

    It is at least the half-width by each term alone. Otherwise it would fall as the variance of
    one term rises from 0, if the quantile of another term is more than twice as large.
    """
    total = sum(term.variance for term in terms)
    if total <= 0:
        return 0.0
    tail = (1 - level) / 2
    quantiles = [-float(stdtrit(term.dof, tail)) for term in terms]
    weighted_sum = sum(
        term.variance * quantile for term, quantile in zip(terms, quantiles, strict=True)
    )
    half_widths_alone = (
        math.sqrt(term.variance) * quantile for term, quantile in zip(terms, quantiles, strict=True)
    )
    return max(weighted_sum / math.sqrt(total), *half_widths_alone)


def worded_values(estimates: Sequence[Sequence[Estimate]]) -> WordedValues | None:
    """Return the values of a metric and how far each image moves them.

    Args:
        estimates: The estimates of the metric: S trainings, each with W wordings, on the same
            images.

    Returns:
        The values. None if Student's t does not hold for the metric, as for medians, mean ranks and
        calibration errors, or if the metric has no value when one of the images is left out.

    Raises:
        ValueError: If there are fewer than two images.
    """
    values = np.array([[estimate.value for estimate in row] for row in estimates])
    deviations = []
    for row in estimates:
        for estimate in row:
            without_each = values_without_each(estimate) if _is_usual(estimate) else None
            if without_each is None or not np.isfinite(without_each).all():
                return None
            n_images = len(without_each)
            if n_images < 2:
                raise ValueError("two images or more are needed to tell models apart")
            factor = math.sqrt((n_images - 1) / n_images)
            deviations.append(factor * (without_each - without_each.mean()))
    return WordedValues(values, np.reshape(deviations, (*values.shape, -1)))


def _is_usual(estimate: Estimate) -> bool:
    """Return whether the errors of an estimate are approximately normal.

    If they are not, the estimate has a method of its own for its interval. The mean rank is not
    usual either, since its distribution has a long tail.
    """
    has_own_method = getattr(estimate, "interval", None) is not None
    return not (isinstance(estimate, MeanRank) or has_own_method)


def require_enough_wordings(n_wordings: int) -> None:
    """Raise ValueError if there are too few wordings for an honest interval."""
    if n_wordings < LEAST_WORDINGS:
        plural = "" if n_wordings == 1 else "s"
        raise ValueError(
            f"{n_wordings} wording{plural} cannot show how much wording matters: an interval needs "
            f"{LEAST_WORDINGS} or more"
        )


def mean_over_wordings(a: WordedValues, b: WordedValues | None = None) -> WordedMean:
    """Return the mean of a method over wordings, or its mean difference to another method.

    Both methods have the same wordings and images, in the same order. The trainings of A and of B
    are independent. The mean of B is subtracted for each wording and each image. The difficulty
    that a wording or an image has for both methods therefore cancels out.

    Raises:
        ValueError: If there are fewer than three wordings, or if B has other numbers of wordings or
            images than A.
    """
    n_wordings = a.values.shape[1]
    require_enough_wordings(n_wordings)
    differences = a.values.mean(axis=0)
    deviations = a.deviations.mean(axis=0)
    methods = [a]
    if b is not None:
        if a.deviations.shape[1:] != b.deviations.shape[1:]:
            raise ValueError("the models have other wordings or images")
        methods.append(b)
        differences = differences - b.values.mean(axis=0)
        deviations = deviations - b.deviations.mean(axis=0)

    # The variance between wordings, and the variance between the seeds of each method. Both include
    # a residual: the draw of images moves one wording or seed more than the others.
    between, residual = _spread(differences, deviations)
    terms = [VarianceTerm(between / n_wordings, n_wordings - 1)]
    residual_variance = residual / n_wordings
    for method in methods:
        n_seeds = len(method.values)
        if n_seeds > 1:
            between, residual = _spread(method.values.mean(axis=1), method.deviations.mean(axis=1))
            terms.append(VarianceTerm(between / n_seeds, n_seeds - 1))
            residual_variance += residual / n_seeds

    # The variance by which images move all wordings and seeds alike. For images only, it is at
    # least that by one image: otherwise, models that are right on all images would have no error.
    n_images = deviations.shape[1]
    image_variance = float(np.square(deviations.mean(axis=0)).sum())
    terms.append(VarianceTerm(max(0.0, image_variance - residual_variance), n_images - 1))
    images_only = VarianceTerm(max(image_variance, (n_images + 2) ** -2), n_images - 1)
    return WordedMean(float(differences.mean()), tuple(terms), images_only)


def _spread(values: Values, deviations: Values) -> tuple[float, float]:
    """Return the variance between k values, and the residual: its part by the draw of images.

    Args:
        values: (k,), the value of each wording or seed.
        deviations: (k, C), how far each image moves each value.

    Example:
        The values [1, 3] have the variance 2. With the deviations [[1, 0], [0, 1]], the draw of
        images gives each value a variance of 1, and does not move both together: (2, 1).
    """
    between = float(values.var(ddof=1))
    residual = float(np.square(deviations - deviations.mean(axis=0)).sum()) / (len(values) - 1)
    return between, residual


def components(worded: WordedValues, level: float = LEVEL) -> Components:
    """Return the unbiased variance components of a metric with their intervals.

    With a single training, the component of the wording includes its interaction with the training.

    Raises:
        ValueError: If there are fewer than three wordings.
    """
    values, deviations = worded
    n_seeds, n_wordings = values.shape
    require_enough_wordings(n_wordings)
    wording = _factor_component(values, deviations, level)
    seeds = None
    if n_seeds > 1:
        seeds = _factor_component(values.T, deviations.swapaxes(0, 1), level)
    return Components(_image_component(deviations, level), wording, seeds)


def _factor_component(values: Values, deviations: Values, level: float) -> Component:
    """Return the variance component of the factor that belongs to the columns, with its interval.

        component = variance between the means of the columns
                    - interaction of both factors
                    - residual, by which the draw of images moves some columns more than others

    Args:
        values: (K, L), the values for each level of two crossed factors. K may be 1.
        deviations: (K, L, C), how far each image moves each value.
        level: The level of the interval.
    """
    n_rows, n_columns = values.shape
    column_means = values.mean(axis=0)
    between, residual_of_means = _spread(column_means, deviations.mean(axis=0))
    squares = [(1.0, between, n_columns - 1)]
    interaction, residual = 0.0, residual_of_means
    if n_rows > 1:
        dof = (n_rows - 1) * (n_columns - 1)
        interaction = float(np.square(_residuals(values)).sum()) / dof / n_rows
        # The interaction already includes the part of the residual that differs between rows.
        residual -= float(np.square(_residuals(deviations)).sum()) / dof / n_rows
        squares.append((-1.0, interaction, dof))
    variance = between - interaction - residual

    # Each mean square has an interval by the chi-squared distribution. Their distances to its ends
    # are added as squares. A square that is subtracted moves the variance the other way.
    tail = (1 - level) / 2
    squared_distance_below, squared_distance_above = 0.0, 0.0
    for sign, square, dof in squares:
        distance_below = square * (1 - dof / chdtri(dof, tail))
        distance_above = square * (dof / chdtri(dof, 1 - tail) - 1)
        if sign > 0:
            squared_distance_below += distance_below**2
            squared_distance_above += distance_above**2
        else:
            squared_distance_below += distance_above**2
            squared_distance_above += distance_below**2
    low = max(0.0, variance - math.sqrt(squared_distance_below))
    high = max(low, variance + math.sqrt(squared_distance_above))
    return Component(variance, low, high)


def _residuals(table: Values) -> Values:
    """Return a table (K, L, ...) without the means of its rows and columns."""
    return table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean(axis=(0, 1))


def _image_component(deviations: Values, level: float) -> Component:
    """Return the variance by images that all wordings and seeds share, with its interval.

    The interval is by the jackknife: images are left out one by one, and so are wordings and seeds
    if there are three or more. The variance by images depends on the wording, too. For example, a
    wording with which an accuracy is near 100% makes it smaller. The interval is on a logarithmic
    scale, since the distribution of a variance is skewed.

    Args:
        deviations: (S, W, C), how far each image moves each value.
        level: The level of the interval.
    """
    products = _image_products(deviations)
    n_images = len(products)
    variance = float(products.sum())
    terms = [VarianceTerm(n_images * float(products.var(ddof=1)), n_images - 1)]
    wording_axis, seed_axis = 1, 0
    for axis in (wording_axis, seed_axis):
        k = deviations.shape[axis]
        if k >= 3:
            variances = []
            for index in range(k):
                remaining_deviations = np.delete(deviations, index, axis)
                variances.append(float(_image_products(remaining_deviations).sum()))
            terms.append(VarianceTerm((k - 1) ** 2 / k * float(np.var(variances, ddof=1)), k - 1))

    half_width = _half_width(terms, level)
    if variance <= 0:
        return Component(variance, 0.0, max(0.0, variance + half_width))
    factor = math.exp(min(half_width / variance, _MOST_LOGARITHM))
    return Component(variance, variance / factor, variance * factor)


def _image_products(deviations: Values) -> Values:
    """Return for each image the mean product of two of its deviations, (C,).

    The two deviations of a product are from different wordings and from different seeds. With a
    single training, they are from different wordings only. The sum of the products over images is
    the variance by images.

    Args:
        deviations: (S, W, C), how far each image moves each value.

    Example:
        One training has two wordings, and two images. The deviations are [1, 2] with the first
        wording and [3, 4] with the second. The products are 1 x 3 and 2 x 4.
    """
    n_seeds, n_wordings, _ = deviations.shape
    # All products, minus the products within a wording, minus the products within a seed.
    products = deviations.sum(axis=(0, 1)) ** 2 - np.square(deviations.sum(axis=0)).sum(axis=0)
    n_pairs = n_wordings * (n_wordings - 1)
    if n_seeds > 1:
        products -= np.square(deviations.sum(axis=1)).sum(axis=0)
        products += np.square(deviations).sum(axis=(0, 1))  # these were subtracted twice
        n_pairs *= n_seeds * (n_seeds - 1)
    return products / n_pairs
