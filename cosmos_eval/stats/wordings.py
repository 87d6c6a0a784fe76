"""Errors of a metric over wordings of its texts, beside images and seeds.

Model: value of a training with a wording on an image = model + wording + seed + image + all their
interactions. All terms but the model are random and crossed: every training sees every image with
every wording. The wordings count as a random sample of a population of wordings like these.

Components follow from products of values that share a factor or not, which makes them unbiased: a
covariance over wordings between two different seeds, for example, holds no effect of the seeds.
For a mean over images, they are the components by mean squares of a crossed table (Searle, Casella
and McCulloch 1992, "Variance Components", chapter 4). The images' share of each product follows
from the jackknife (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 11), so
that it holds for means over classes and intersections over unions, too.

The variance of a mean over wordings adds up terms with different degrees of freedom. Its quantile
is the mean of their t quantiles, weighted by their variances (Cochran and Cox 1957, "Experimental
Designs", section 4.14). Satterthwaite's degrees of freedom would be too many if few wordings look
alike by chance. Intervals of components: Ting, Burdick, Graybill, Jeyaratnam and Lu 1990, Journal
of Statistical Computation and Simulation 35.
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
whose quantile, 12.7, makes most intervals useless and any smaller one a guess."""
_MOST_LOGARITHM = 50.0  # of the factor between a variance and an end of its interval
METHOD = "images x wordings, weighted t"


class WordedValues(NamedTuple):
    """The values of a metric of all trainings of a method with all wordings, on the same images."""

    # (S, W), the value of each training with each wording.
    values: Values
    # (S, W, C), how far each image moves each value: the products of these deviations, summed over
    # images, are the covariances of the values over other draws of the images.
    deviations: Values


class Component(NamedTuple):
    """A variance component, which is unbiased and may therefore be negative."""

    # The variance, in the square of the metric's unit.
    variance: float
    # The ends of the interval of the variance, which are at least 0.
    low: float
    high: float

    @property
    def sd(self) -> float:
        """The standard deviation. It is 0 if the variance is negative."""
        return math.sqrt(max(0.0, self.variance))


class Components(NamedTuple):
    """How much a metric varies by images, by wordings and by seeds."""

    # Over draws of as many images: the part of the variance that all wordings and seeds share.
    images: Component
    # Over wordings, for unlimited images.
    wording: Component
    # Over seeds, for unlimited images; None for a single training.
    seeds: Component | None


class VarianceTerm(NamedTuple):
    """A term of the variance of a mean, and its degrees of freedom."""

    variance: float
    dof: float


class WordedMean(NamedTuple):
    """The mean of a metric over wordings, or the mean difference of two models."""

    mean: float
    # The terms of the variance by wordings, by the seeds of each method with several trainings, and
    # by images.
    terms: tuple[VarianceTerm, ...]
    # The variance by images only, as if neither wordings nor seeds had an effect.
    images_only: VarianceTerm

    @property
    def standard_error(self) -> float:
        """The standard error of the mean, by all terms."""
        return math.sqrt(sum(term.variance for term in self.terms))

    def interval(self, level: float = LEVEL) -> Interval:
        """Return the confidence interval of the mean over images, wordings and seeds.

        It is the mean plus and minus the standard error times a quantile, and is never narrower
        than the interval by images only.
        """
        tail = (1 - level) / 2
        half = -stdtrit(self.images_only.dof, tail) * math.sqrt(self.images_only.variance)
        total = sum(term.variance for term in self.terms)
        if total > 0:
            weighted = sum(term.variance * -stdtrit(term.dof, tail) for term in self.terms)
            half = max(half, weighted / math.sqrt(total))
        return Interval(self.mean - half, self.mean + half, METHOD, level)


def worded_values(estimates: Sequence[Sequence[Estimate]]) -> WordedValues | None:
    """Return the values of a metric and how far each image moves them.

    Args:
        estimates: The metric of each training (S) with each wording (W), on the same images.

    Returns:
        The values, or None if Student's t does not hold for the metric, as for medians, mean ranks
        and calibration errors, or if it has no value without one of the images.

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
    """Return whether a metric's errors are about normal, so that it needs no method of its own.

    The mean rank has a long tail, and the calibration error is too high by chance.
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

    Both methods have the same wordings and images, in the same order. Trainings of A and of B are
    independent. The mean of B is subtracted for each wording and image, so that what makes a
    wording or an image hard for both methods cancels out.

    Raises:
        ValueError: If there are fewer than three wordings, or other wordings or images.
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

    # The variance between wordings, and by seeds of each method. Each also holds a rest, by which
    # the draw of the images moves one wording or seed but not the others.
    between, residual = _spread(differences, deviations)
    terms = [VarianceTerm(between / n_wordings, n_wordings - 1)]
    residual_variance = residual / n_wordings
    for method in methods:
        n_seeds = len(method.values)
        if n_seeds > 1:
            between, residual = _spread(method.values.mean(axis=1), method.deviations.mean(axis=1))
            terms.append(VarianceTerm(between / n_seeds, n_seeds - 1))
            residual_variance += residual / n_seeds

    # What images move in all wordings and seeds alike. It is at least the variance of one image
    # among all images: otherwise, models that are right on all images would have no error.
    n_images = deviations.shape[1]
    image_variance = float(np.square(deviations.mean(axis=0)).sum())
    terms.append(VarianceTerm(max(0.0, image_variance - residual_variance), n_images - 1))
    images_only = VarianceTerm(max(image_variance, (n_images + 2) ** -2), n_images - 1)
    return WordedMean(float(differences.mean()), tuple(terms), images_only)


def _spread(values: Values, deviations: Values) -> tuple[float, float]:
    """Return the variance between k values, and the part of it that is due to the draw of images.

    Args:
        values: (k,), the value of each wording or seed.
        deviations: (k, C), how far each image moves each value.

    Example:
        The values [1, 3] have the variance 2. With the deviations [[1, 0], [0, 1]], images move
        either value by a variance of 1 and not both together: (2, 1).
    """
    between = float(values.var(ddof=1))
    residual = float(np.square(deviations - deviations.mean(axis=0)).sum()) / (len(values) - 1)
    return between, residual


def components(worded: WordedValues, level: float = LEVEL) -> Components:
    """Return the unbiased variance components of a metric with their intervals.

    With a single training, wording stands for wording and its interaction with this training.

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
    """Return the variance component of the factor of the second axis, with its interval.

    The component is the variance b between the columns' means, less the interaction e of both
    factors, less the rest, by which images move one column but not the others.

    Args:
        values: (K, L), the values by two crossed factors. K may be 1.
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
        # The interaction holds the part of the rest that differs between the rows as well.
        residual -= float(np.square(_residuals(deviations)).sum()) / dof / n_rows
        squares.append((-1.0, interaction, dof))
    variance = between - interaction - residual

    # How far the variance may be too high, and too low.
    tail = (1 - level) / 2
    below, above = 0.0, 0.0
    for sign, square, dof in squares:
        shrink = square * (1 - dof / chdtri(dof, tail))
        grow = square * (dof / chdtri(dof, 1 - tail) - 1)
        below += (shrink if sign > 0 else grow) ** 2
        above += (grow if sign > 0 else shrink) ** 2
    low = max(0.0, variance - math.sqrt(below))
    return Component(variance, low, max(low, variance + math.sqrt(above)))


def _residuals(table: Values) -> Values:
    """Return a table (K, L, ...) less the means of its rows and columns."""
    return table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean(axis=(0, 1))


def _image_component(deviations: Values, level: float) -> Component:
    """Return the variance by images that all wordings and seeds share, with its interval.

    Images, wordings and seeds are left out in turn to find how far the variance may be off: shares
    near 0 or 100%, to which a wording may move a model, vary less by images. The interval is on a
    logarithmic scale, since a variance is skewed.

    Args:
        deviations: (S, W, C), how far each image moves each value.
        level: The level of the interval.
    """
    products = _image_products(deviations)
    n_images = len(products)
    variance = float(products.sum())
    terms = [VarianceTerm(n_images * float(products.var(ddof=1)), n_images - 1)]
    for axis, least in ((1, 3), (0, 3)):
        k = deviations.shape[axis]
        if k >= least:
            variances = []
            for index in range(k):
                others = np.delete(deviations, index, axis)
                variances.append(float(_image_products(others).sum()))
            terms.append(VarianceTerm((k - 1) ** 2 / k * float(np.var(variances, ddof=1)), k - 1))

    total = sum(term.variance for term in terms)
    tail = (1 - level) / 2
    weighted = sum(term.variance * -float(stdtrit(term.dof, tail)) for term in terms)
    reach = weighted / math.sqrt(total) if total > 0 else 0.0
    if variance <= 0:
        return Component(variance, 0.0, max(0.0, variance + reach))
    factor = math.exp(min(reach / variance, _MOST_LOGARITHM))
    return Component(variance, variance / factor, variance * factor)


def _image_products(deviations: Values) -> Values:
    """Return the mean product of deviations of each image that share no factor but the image, (C,).

    The two deviations of a product differ in the wording and in the seed; with a single training,
    in the wording. The sum over images is the variance by images.

    Example:
        One training with two wordings and the deviations [[1, 2], [3, 4]] of two images: 1 x 3 and
        2 x 4.
    """
    n_seeds, n_wordings, _ = deviations.shape
    # All products, less those that share the wording, and less those that share the seed.
    products = deviations.sum(axis=(0, 1)) ** 2 - np.square(deviations.sum(axis=0)).sum(axis=0)
    n_pairs = n_wordings * (n_wordings - 1)
    if n_seeds > 1:
        products -= np.square(deviations.sum(axis=1)).sum(axis=0)
        products += np.square(deviations).sum(axis=(0, 1))  # these were subtracted twice
        n_pairs *= n_seeds * (n_seeds - 1)
    return products / n_pairs
