"""Mean average precision and its interval.

Of equal scores all or none are retrieved, so that precision is known at thresholds: the scores of
the images that have the class. Shapes: N images, C classes, R resamples, T thresholds of a class,
from the highest, which are levels 0 to T - 1; level T is below all.
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
    """Return the mean over classes of the average precision of scores (N, C), by whether images
    have a class, labels (N, C); classes without images do not count. Of equal scores all or none
    are retrieved: `sklearn.metrics.average_precision_score`, which CLIP Benchmark's
    average_precision_per_class equals where no two scores do."""
    samples = np.stack([scores, labels], axis=1)

    def prepare(samples: Features) -> Callable[[Values], Values]:
        precisions = average_precisions(samples)
        return lambda weights: mean_of_known(precisions(weights))

    return FunctionOfWeights(samples, prepare, precision_interval)


def average_precisions(samples: Features) -> Callable[[Values], Values]:
    """Return the function of weights (R, N) to average precisions (C, R), NaN of classes without
    images. `samples` (N, 2, C) are scores and labels."""
    from scipy.sparse import vstack

    of_classes = [_thresholds(scores, is_of > 0) for scores, is_of in samples.T]
    retrieved = vstack([all_new for all_new, _ in of_classes], format="csr")
    right = vstack([right_new for _, right_new in of_classes], format="csr")
    ends = np.cumsum([0, *(all_new.shape[0] for all_new, _ in of_classes)])

    def function(weights: Values) -> Values:
        drawn = np.ascontiguousarray(weights.T)
        all_new, right_new = retrieved @ drawn, right @ drawn
        precisions = []
        for a, b in pairwise(ends):
            hits, total = right_new[a:b].cumsum(axis=0), right_new[a:b].sum(axis=0)
            precision = np.nan_to_num(ratio(hits, all_new[a:b].cumsum(axis=0)))
            precisions.append(ratio((precision * right_new[a:b]).sum(axis=0), total))
        return np.stack(precisions)

    return function


def _thresholds(scores: Features, labels: NDArray[np.bool_]) -> tuple[Any, Any]:
    """Return which of all samples, and of those of the class, each threshold retrieves that the one
    above does not, sparse (T, N). Thresholds are those at which recall rises, from the highest."""
    from scipy.sparse import csr_array

    thresholds = np.unique(-scores[labels])
    first = np.searchsorted(thresholds, -scores)
    kept = np.flatnonzero(first < len(thresholds))
    shape = len(thresholds), len(scores)
    groups = kept, kept[labels[kept]]
    all_new, right = (csr_array((np.ones(len(k)), (first[k], k)), shape=shape) for k in groups)
    return all_new, right


def precision_interval(samples: Features, level: float) -> Interval:
    """Return the interval of mean average precision. `samples` (N, 2, C) are scores and labels. An
    average precision counts like a share of the images of the class."""
    total, classes = np.zeros(len(samples)), np.zeros(len(samples), np.int64)
    right, images = [], []
    for scores, is_of in samples.T:
        labels = is_of > 0
        if labels.any():
            precisions, without_image = _average_precision(scores, labels)
            right.append(precisions)
            images.append(float(labels.sum()))
            is_left = ~np.isnan(without_image)
            total += np.where(is_left, without_image, 0)
            classes += is_left
    of_class = np.array(right), np.array(images)
    value = float((of_class[0] / of_class[1]).mean())
    return jackknife_or_likelihood(LeftOut(value, ratio(total, classes), *of_class), level)


def _average_precision(scores: Values, labels: NDArray[np.bool_]) -> tuple[float, Values]:
    """Return the sum of the precisions at the images (N,) of a class, and their mean without each
    image, (N,), NaN without the only one. Without an image, its threshold and those below retrieve
    one less; all above it stay."""
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
