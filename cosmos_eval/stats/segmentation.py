"""Intersection over union and pixel accuracies from confusion counts.

The definitions are MMSegmentation's (IoUMetric): a class counts if it occurs in labels or
predictions (IoU), or in labels (accuracy). Ignored pixels do not count.
Shapes: K classes, N images; a leading `...` is kept.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import Values, ratio

Counts = NDArray[np.int64]


class SparseConfusion(NamedTuple):
    """The confusion counts of all images that are not zero: three arrays of the same length."""

    # The index of the image.
    image: NDArray[np.int32]
    # label * K + prediction.
    pair: NDArray[np.int32]
    # The number of pixels.
    pixels: Counts


class Areas(NamedTuple):
    """The numbers of pixels of each class, (..., K)."""

    # Pixels that are both labelled and predicted as the class.
    intersection: NDArray[Any]
    # Pixels that are labelled as the class.
    labelled: NDArray[Any]
    # Pixels that are predicted as the class.
    predicted: NDArray[Any]


class ClassScores(NamedTuple):
    """The IoU and the accuracy of each class (..., K), NaN if the class does not occur."""

    iou: Values
    accuracy: Values


def confusion(
    labels: NDArray[np.integer],
    predicted: NDArray[np.integer],
    n_classes: int,
    ignore_index: int,
) -> Counts:
    """Return the number of pixels with each label (rows) and prediction (columns), (K, K).

    `labels` and `predicted` have the same shape. Pixels whose label is `ignore_index` do not count.
    All other labels must be below `n_classes`. For example, the labels [0, 0, 1, 255] and the
    predictions [0, 1, 1, 0] of two classes give [[1, 1], [0, 1]] if 255 is ignored.
    """
    is_labelled = labels != ignore_index
    # A pair of a label and a prediction has the number label * K + prediction.
    pair_of_pixel = labels[is_labelled].astype(np.int64) * n_classes + predicted[is_labelled]
    n_pixels_of_pair = np.bincount(pair_of_pixel, minlength=n_classes**2)
    return n_pixels_of_pair.reshape(n_classes, n_classes)


def pack(confusions: Iterable[Counts]) -> SparseConfusion:
    """Return the confusion counts of images, (K, K) each, as sparse arrays without zeros.

    For example, [[1, 2], [0, 3]] of a single image has the pairs [0, 1, 3] with the pixels
    [1, 2, 3], and 0 as the image of all.
    """
    flat_counts = np.stack([counts.ravel() for counts in confusions])  # (N, K * K)
    image, pair = (indices.astype(np.int32) for indices in np.nonzero(flat_counts))
    return SparseConfusion(image, pair, flat_counts[image, pair])


def areas_of_images(sparse: SparseConfusion, n_images: int, n_classes: int) -> Areas:
    """Return the areas of each class in each image, (N, K), from the confusion counts of images.

    An image with the counts [[1, 2], [0, 3]] has the intersections [1, 3], the labelled pixels
    [3, 3] (sums of rows) and the predicted pixels [1, 5] (sums of columns).
    """
    label, prediction = np.divmod(sparse.pair, n_classes)
    image, pixels = sparse.image.astype(np.int64), sparse.pixels
    correct_pixels = np.where(label == prediction, pixels, 0)
    shape = (n_images, n_classes)
    return Areas(
        intersection=_sum_by_image_and_class(image, label, correct_pixels, shape),
        labelled=_sum_by_image_and_class(image, label, pixels, shape),
        predicted=_sum_by_image_and_class(image, prediction, pixels, shape),
    )


def _sum_by_image_and_class(
    image: NDArray[np.int64], classes: NDArray[np.int32], pixels: Counts, shape: tuple[int, int]
) -> Counts:
    """Add up the pixels of all entries with the same image and class.

    `image`, `classes` and `pixels` have one value per entry. Returns the sums in the shape (N, K).
    """
    n_images, n_classes = shape
    flat_index = image * n_classes + classes
    flat_sums = np.bincount(flat_index, weights=pixels, minlength=n_images * n_classes)
    return flat_sums.astype(np.int64).reshape(shape)


def class_scores(areas: Areas) -> ClassScores:
    """Return the IoU and the accuracy of each class, (..., K).

    The IoU is intersection / (labelled + predicted - intersection), and the accuracy is
    intersection / labelled.
    """
    union = areas.labelled + areas.predicted - areas.intersection
    return ClassScores(
        iou=ratio(areas.intersection, union),
        accuracy=ratio(areas.intersection, areas.labelled),
    )


def mean_iou(areas: Areas, members: NDArray[np.integer] | slice = slice(None)) -> Values:
    """Return the mean IoU (...,) of the classes that occur, or NaN if none occurs.

    A class occurs if it has labelled or predicted pixels. `members` are the indices of the classes
    to average over, by default all.
    """
    return _mean_of_occurring(class_scores(areas).iou[..., members])


def mean_accuracy(areas: Areas) -> Values:
    """Return the mean accuracy (...,) of the classes with labelled pixels, or NaN without any."""
    return _mean_of_occurring(class_scores(areas).accuracy)


def pixel_accuracy(areas: Areas) -> Values:
    """Return the fraction (...,) of all labelled pixels that are right, or NaN without any."""
    return ratio(areas.intersection.sum(-1), areas.labelled.sum(-1))


def _mean_of_occurring(values: Values) -> Values:
    """Return the mean over the last axis of the values of classes that occur.

    Values of other classes are NaN: [0.2, NaN, 0.4] has the mean 0.3.
    """
    occurs = ~np.isnan(values)
    return ratio(np.where(occurs, values, 0.0).sum(-1), occurs.sum(-1))
