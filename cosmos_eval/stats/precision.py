"""Mean average precision and its interval.

Images of equal scores are retrieved together, so that precision is defined at thresholds: the
scores of the images that have the class. Shapes: N images, C classes, R resamples, T thresholds of
a class. Thresholds are sorted from the highest and are called levels 0 to T - 1; level T is below
all of them.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.class_means import LeftOut, jackknife_or_likelihood
from cosmos_eval.stats.estimates import (
    Features,
    FunctionOfWeights,
    Values,
    mean_of_known,
    ratio,
)
from cosmos_eval.types import Interval


def mean_average_precision(scores: Features, labels: NDArray[np.bool_]) -> FunctionOfWeights:
    """Return the mean over classes of the average precision of scores (N, C).

    `labels` (N, C) says which images have which class. Classes without images do not count. Images
    of equal scores are retrieved together, as in `sklearn.metrics.average_precision_score`. CLIP
    Benchmark's average_precision_per_class is equal to it if no two scores are equal.
    """
    samples = np.stack([scores, labels], axis=1)
    return FunctionOfWeights(samples, _mean_average_precision, precision_interval)


def _mean_average_precision(samples: Features) -> Callable[[Values], Values]:
    """Return the function of weights (R, N) to mean average precisions (R,)."""
    precisions = average_precisions(samples)

    def mean_of_weights(weights: Values) -> Values:
        return mean_of_known(precisions(weights))

    return mean_of_weights


def average_precisions(samples: Features) -> Callable[[Values], Values]:
    """Return the function of weights (R, N) to average precisions (C, R), NaN without images.

    `samples` (N, 2, C) holds scores and labels. For one class and images that are drawn once each:
    the mean, over the images of the class, of the share of the class among all images with at least
    the same score.
    """
    from scipy.sparse import vstack

    retrieved_of_classes, right_of_classes, n_thresholds = [], [], []
    for scores, labels in samples.T:
        retrieved_of_class, right_of_class = _retrieved(scores, labels > 0)
        retrieved_of_classes.append(retrieved_of_class)
        right_of_classes.append(right_of_class)
        n_thresholds.append(retrieved_of_class.shape[0])
    # The thresholds of all classes, one after the other, are the rows of two matrices.
    retrieved = vstack(retrieved_of_classes, format="csr")
    right = vstack(right_of_classes, format="csr")
    ends = np.cumsum([0, *n_thresholds])

    def precisions_of_weights(weights: Values) -> Values:
        drawn = np.ascontiguousarray(weights.T)
        # How many images each threshold is the first to retrieve: all, and those of the class.
        retrieved_drawn, right_drawn = retrieved @ drawn, right @ drawn
        precisions = []
        for start, stop in pairwise(ends):
            right_of_class = right_drawn[start:stop]
            hits, total = right_of_class.cumsum(axis=0), right_of_class.sum(axis=0)
            precision = np.nan_to_num(ratio(hits, retrieved_drawn[start:stop].cumsum(axis=0)))
            precisions.append(ratio((precision * right_of_class).sum(axis=0), total))
        return np.stack(precisions)

    return precisions_of_weights


def _retrieved(scores: Features, labels: NDArray[np.bool_]) -> tuple[Any, Any]:
    """Return which images each threshold of a class is the first to retrieve, sparse (T, N).

    The first array holds all images, the second array only the images of the class.
    """
    from scipy.sparse import csr_array

    thresholds = np.unique(-scores[labels])
    level = np.searchsorted(thresholds, -scores)
    shape = len(thresholds), len(scores)
    images = np.flatnonzero(level < len(thresholds))
    images_of_class = images[labels[images]]
    retrieved = csr_array((np.ones(len(images)), (level[images], images)), shape=shape)
    right = csr_array(
        (np.ones(len(images_of_class)), (level[images_of_class], images_of_class)), shape=shape
    )
    return retrieved, right


def precision_interval(samples: Features, level: float) -> Interval:
    """Return the interval of mean average precision; `samples` (N, 2, C) holds scores and labels.

    An average precision counts like a share of the images of its class.
    """
    # Over the classes that are left without each image, (N,).
    sum_without_image = np.zeros(len(samples))
    classes_without_image = np.zeros(len(samples), np.int64)
    sums_of_precisions, images_of_classes = [], []
    for scores, class_labels in samples.T:
        labels = class_labels > 0
        if labels.any():
            sum_of_precisions, without_image = _average_precision(scores, labels)
            sums_of_precisions.append(sum_of_precisions)
            images_of_classes.append(float(labels.sum()))
            is_known = ~np.isnan(without_image)
            sum_without_image += np.where(is_known, without_image, 0)
            classes_without_image += is_known
    right, images = np.array(sums_of_precisions), np.array(images_of_classes)
    value = float((right / images).mean())
    without_sample = ratio(sum_without_image, classes_without_image)
    return jackknife_or_likelihood(LeftOut(value, without_sample, right, images), level)


def _average_precision(scores: Values, labels: NDArray[np.bool_]) -> tuple[float, Values]:
    """Return the sum of the precisions at the images of a class, and their mean without each image.

    `scores` (N,) and `labels` (N,) belong to one class. The mean without each image is (N,), and
    NaN without the only image of the class. Without an image, its threshold and all lower ones
    retrieve one image less, and all higher ones stay the same.
    """
    thresholds = np.unique(-scores[labels])
    level = np.searchsorted(thresholds, -scores)
    new_right = np.bincount(level[labels])
    right, n_images = new_right.cumsum(), int(labels.sum())
    retrieved = np.bincount(level, minlength=len(thresholds))[: len(thresholds)].cumsum()
    fewer = np.maximum(1, retrieved - 1)
    above = np.append(0, (new_right * right / retrieved).cumsum())
    below_wrong = np.append((new_right * right / fewer)[::-1].cumsum()[::-1], 0)
    without_image = ((above + below_wrong) / n_images)[level]
    below_right = (new_right * (right - 1) / fewer)[::-1].cumsum()[::-1]
    others = above[:-1] + below_right - (right - 1) / fewer
    without_image[labels] = ratio(others, np.full(len(others), n_images - 1))[level[labels]]
    return float(above[-1]), without_image
