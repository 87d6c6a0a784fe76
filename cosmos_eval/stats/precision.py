"""Mean average precision and its interval.

The thresholds of a class are the distinct scores of the images that have the class, sorted from the
highest. A threshold retrieves all images whose score is at least as high, so that images of equal
scores are retrieved together. The level of an image is the index of the first threshold that
retrieves the image, from 0 to T - 1. It is T if no threshold retrieves it. For example:

    scores     0.9  0.8  0.8  0.5  0.3
    has class  yes  yes  no   yes  no      thresholds: 0.9, 0.8, 0.5
    level      0    1    1    2    3

Shapes: N images, C classes, R resamples, T thresholds of a class.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.class_means import MeanWithoutEach, jackknife_or_likelihood
from cosmos_eval.stats.estimates import (
    Features,
    FunctionOfWeights,
    Values,
    mean_of_known,
    ratio,
)
from cosmos_eval.types import Interval


def mean_average_precision(scores: Features, labels: NDArray[np.bool_]) -> FunctionOfWeights:
    """Return the mean over classes of their average precisions.

    The average precision of a class is the mean over its images of a precision: the share of images
    of the class among all images that score at least as high, see `average_precisions`. Classes
    without images do not count. Images of equal scores are retrieved together, as in
    `sklearn.metrics.average_precision_score`. CLIP Benchmark's average_precision_per_class has the
    same value if no two scores are equal.

    Args:
        scores: (N, C), the score of each image with each class.
        labels: (N, C), whether each image has each class.

    Returns:
        An estimate: the arrays that the value, its interval and paired tests are computed from.
    """
    samples = np.stack([scores, labels], axis=1)
    return FunctionOfWeights(samples, _mean_average_precision, precision_interval)


def _mean_average_precision(samples: Features) -> Callable[[Values], Values]:
    """Return the function that maps weights (R, N) to mean average precisions (R,).

    `samples` (N, 2, C) holds scores and labels. The weights say how often each image is drawn.
    """
    precisions = average_precisions(samples)

    def mean_precision(weights: Values) -> Values:
        """Return the mean (R,) over the classes that have drawn images."""
        return mean_of_known(precisions(weights))

    return mean_precision


def average_precisions(samples: Features) -> Callable[[Values], Values]:
    """Return a function that computes the average precision of each class in several resamples.

    If each image is drawn once, the average precision of a class is the mean of a precision over
    the images of the class. The precision at an image is the share of images of the class among all
    images that score at least as high.

    Args:
        samples: (N, 2, C), the scores and the labels (0 or 1) of N images in C classes.

    Returns:
        A function that maps weights (R, N), how often each image is drawn in each of R resamples,
        to average precisions (C, R). They are NaN for a class without drawn images.

    Example:
        The scores [0.9, 0.8, 0.8, 0.5] with the labels [1, 1, 0, 1] have the precisions 1/1, 2/3
        and 3/4 at the images of the class. The average precision is their mean, 0.81.
    """
    return _AveragePrecisions(samples)


class _AveragePrecisions:
    """A function that maps weights (R, N) to the average precisions of C classes, (C, R)."""

    def __init__(self, samples: Features) -> None:
        """Find the level of each image in the ranking of each class.

        Images are at the same level if the same threshold of the score is the first one to retrieve
        them. The levels become two sparse matrices, whose product with weights counts the drawn
        images of each level. `samples` (N, 2, C) holds the scores and the labels (0 or 1) of N
        images in C classes.
        """
        from scipy.sparse import vstack

        images_of_classes = []
        positives_of_classes = []
        n_thresholds = []
        for scores, labels in samples.T:
            is_at_level, is_positive_at_level = _level_matrices(scores, labels > 0)
            images_of_classes.append(is_at_level)
            positives_of_classes.append(is_positive_at_level)
            n_thresholds.append(is_at_level.shape[0])
        # The levels of all classes, one class after the other, are the rows of two matrices.
        self.is_at_level = vstack(images_of_classes, format="csr")
        self.is_positive_at_level = vstack(positives_of_classes, format="csr")
        # Class c has the rows from bounds_of_classes[c] to bounds_of_classes[c + 1].
        self.bounds_of_classes = np.cumsum([0, *n_thresholds])

    def __call__(self, weights: Values) -> Values:
        """Return the average precision of each of C classes in each of R resamples, (C, R).

        It is the mean of the precision over the drawn images of a class.

        Args:
            weights: (R, N) says how often each of N images is drawn in each resample.
        """
        weights_of_images = np.ascontiguousarray(weights.T)  # (N, R)
        # The numbers of drawn images at each level, (levels of all classes, R): all images, and
        # images of the class. A level has the images that one threshold of the score retrieves, but
        # no higher threshold.
        drawn_images = self.is_at_level @ weights_of_images
        drawn_positives = self.is_positive_at_level @ weights_of_images
        average_precisions = []
        for start, stop in pairwise(self.bounds_of_classes):  # the levels of one class
            positives_at_level = drawn_positives[start:stop]
            # A threshold retrieves the images of its level and of all levels before.
            retrieved = drawn_images[start:stop].cumsum(axis=0)
            true_positives = positives_at_level.cumsum(axis=0)
            precision = np.nan_to_num(ratio(true_positives, retrieved))
            sum_of_precisions = (precision * positives_at_level).sum(axis=0)
            n_positives = positives_at_level.sum(axis=0)
            average_precisions.append(ratio(sum_of_precisions, n_positives))
        return np.stack(average_precisions)


def _level_matrices(scores: Features, labels: NDArray[np.bool_]) -> tuple[Any, Any]:
    """Return two sparse matrices (T, N) whose element [t, n] is 1 if image n is at level t.

    The T thresholds of a class are the distinct scores of the images that have the class. An image
    is at the level of the first threshold, from the highest, that is not above its score.

    Args:
        scores: (N,), the score of each image with the class.
        labels: (N,), whether each image has the class.

    Returns:
        The matrix of all images, and the matrix of the images that have the class.

    Example:
        The scores [0.9, 0.8, 0.8] and labels [yes, yes, no] have the thresholds 0.9 and 0.8, and
        the matrices

            1 0 0        1 0 0
            0 1 1        0 1 0
    """
    from scipy.sparse import csr_array

    thresholds = np.unique(-scores[labels])  # negative, so that the highest score comes first
    level = np.searchsorted(thresholds, -scores)
    n_levels = len(thresholds)
    images = np.flatnonzero(level < n_levels)  # images below all thresholds are at no level
    images_of_class = images[labels[images]]
    shape = (n_levels, len(scores))
    matrices = []
    for columns in (images, images_of_class):
        rows = level[columns]
        ones = np.ones(len(columns))
        matrices.append(csr_array((ones, (rows, columns)), shape=shape))
    is_at_level, is_positive_at_level = matrices
    return is_at_level, is_positive_at_level


def precision_interval(samples: Features, level: float) -> Interval:
    """Return the interval of mean average precision, by the jackknife or the likelihood.

    For the likelihood, the average precision of a class counts as a share of hits among the images
    of the class. At each end, the wider one of both intervals counts.

    Args:
        samples: (N, 2, C), the scores and the labels (0 or 1) of N images in C classes.
        level: The probability that the interval contains the population's value.
    """
    # The average precisions without each image, (N,): their sum over the classes that still have
    # images, and the number of these classes.
    sum_without_image = np.zeros(len(samples))
    n_classes_without_image = np.zeros(len(samples), np.int64)
    sums_of_precisions = []
    n_images_of_classes = []
    for scores, class_labels in samples.T:
        has_class = class_labels > 0  # (N,)
        if not has_class.any():
            continue  # a class without images does not count
        sum_of_precisions, average_without_image = _precision_without_each(scores, has_class)
        sums_of_precisions.append(sum_of_precisions)
        n_images_of_classes.append(float(has_class.sum()))
        has_value = ~np.isnan(average_without_image)
        sum_without_image += np.where(has_value, average_without_image, 0)
        n_classes_without_image += has_value

    # The average precision of a class is right / samples_of_classes.
    right = np.array(sums_of_precisions)
    samples_of_classes = np.array(n_images_of_classes)
    mean = MeanWithoutEach(
        value=float((right / samples_of_classes).mean()),
        without_sample=ratio(sum_without_image, n_classes_without_image),
        right=right,
        samples=samples_of_classes,
    )
    return jackknife_or_likelihood(mean, level)


def _precision_without_each(scores: Values, labels: NDArray[np.bool_]) -> tuple[float, Values]:
    """Return the sum of a class's precisions, and its average precision without each image, (N,).

    The sum is over all images of the class. The average precision without the only image of the
    class is NaN.

    An image is at the level of the first threshold, from the highest, that retrieves it. The
    thresholds are the T distinct scores of the images of the class. Let level s have new[s] images
    of the class, and let the levels 0 to s together retrieve retrieved[s] images, positives[s] of
    them of the class. Then the sum of precisions is
        sum over all s of new[s] * positives[s] / retrieved[s].

    Without an image at level t, the terms of all s < t stay the same. From level t on, one image
    less is retrieved. If the image has the class, there is also one positive less. For example:

        scores  0.9  0.8  0.8  0.5
        labels  yes  yes  no   yes     the sum is 1/1 + 2/3 + 3/4
        levels  0    1    1    2       without the third image, it is 1/1 + 2/2 + 3/3

    Args:
        scores: (N,), the score of each image with the class.
        labels: (N,), whether each image has the class.
    """
    thresholds = np.unique(-scores[labels])  # negative, so that the highest score comes first
    n_levels, n_images_of_class = len(thresholds), int(labels.sum())
    level = np.searchsorted(thresholds, -scores)  # (N,), T for images below all thresholds
    new = np.bincount(level[labels])
    positives = new.cumsum()
    retrieved = np.bincount(level, minlength=n_levels)[:n_levels].cumsum()
    # If the only retrieved image is left out, the numerator is 0, and 1 avoids a division by 0.
    retrieved_without = np.maximum(1, retrieved - 1)
    # (T + 1,): the sum of the terms before level t, for t = 0, ..., T.
    sum_before = np.append(0, (new * positives / retrieved).cumsum())

    # Leave out an image of another class: one image less is retrieved from its level on.
    terms_without_negative = new * positives / retrieved_without
    sum_from = np.append(terms_without_negative[::-1].cumsum()[::-1], 0)  # no terms from level T on
    average_by_level = (sum_before + sum_from) / n_images_of_class  # (T + 1,)
    average_without_image = average_by_level[level]  # (N,)

    # Leave out an image of the class: its own precision is not in the sum either.
    terms_without_positive = new * (positives - 1) / retrieved_without
    sum_from = terms_without_positive[::-1].cumsum()[::-1]
    own_precision = (positives - 1) / retrieved_without
    sum_by_level = sum_before[:-1] + sum_from - own_precision  # (T,)
    average_by_level = ratio(sum_by_level, np.full(n_levels, n_images_of_class - 1))
    average_without_image[labels] = average_by_level[level[labels]]

    sum_of_precisions = float(sum_before[-1])
    return sum_of_precisions, average_without_image
