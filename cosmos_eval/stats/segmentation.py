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

    Args:
        labels: The true class of each pixel, below `n_classes`, or `ignore_index`.
        predicted: The predicted class of each pixel, in the same shape.
        n_classes: The number K of classes.
        ignore_index: The label of pixels that do not count.

    Example:
        >>> confusion(np.array([0, 0, 1, 255]), np.array([0, 1, 1, 0]), 2, 255)
        array([[1, 1], [0, 1]])
    """
    is_labelled = labels != ignore_index
    # Number the pairs of a label and a prediction by label * K + prediction. For example, label 1
    # and prediction 0 of two classes are pair 2.
    pair_of_pixel = labels[is_labelled].astype(np.int64) * n_classes + predicted[is_labelled]
    n_pixels_of_pair = np.bincount(pair_of_pixel, minlength=n_classes**2)
    return n_pixels_of_pair.reshape(n_classes, n_classes)


def pack(confusions: Iterable[Counts]) -> SparseConfusion:
    """Return the confusion counts of images as sparse arrays, which leave out zeros.

    `confusions` are the results of `confusion` (K, K) for each image.

    Example:
        >>> pack([np.array([[1, 2], [0, 3]])])  # the counts of a single image
        SparseConfusion(image=[0, 0, 0], pair=[0, 1, 3], pixels=[1, 2, 3])
    """
    flat_counts = np.stack([counts.ravel() for counts in confusions])  # (N, K * K)
    images, pairs = np.nonzero(flat_counts)
    return SparseConfusion(
        image=images.astype(np.int32),
        pair=pairs.astype(np.int32),
        pixels=flat_counts[images, pairs],
    )


def areas_of_images(sparse: SparseConfusion, n_images: int, n_classes: int) -> Areas:
    """Return the numbers of pixels of each class in each image, (N, K).

    Args:
        sparse: The confusion counts of all images.
        n_images: The number N of images. Some of them may have no labelled pixels.
        n_classes: The number K of classes.

    Example:
        An image with the counts [[1, 2], [0, 3]] has the intersections [1, 3], the labelled pixels
        [3, 3] (sums of rows) and the predicted pixels [1, 5] (sums of columns).
    """
    # A pair has the number label * K + prediction.
    label, prediction = np.divmod(sparse.pair, n_classes)
    image = sparse.image.astype(np.int64)
    pixels = sparse.pixels
    correct_pixels = np.where(label == prediction, pixels, 0)
    shape = (n_images, n_classes)
    return Areas(
        intersection=_sum_by_image_and_class(image, label, correct_pixels, shape),
        labelled=_sum_by_image_and_class(image, label, pixels, shape),
        predicted=_sum_by_image_and_class(image, prediction, pixels, shape),
    )


def _sum_by_image_and_class(
    image: NDArray[np.int64],
    class_index: NDArray[np.int32],
    pixels: Counts,
    shape: tuple[int, int],
) -> Counts:
    """Add up the pixels of all entries with the same image and class, (N, K).

    Args:
        image: The index of each entry's image.
        class_index: The index of each entry's class, in the same shape.
        pixels: The number of pixels of each entry.
        shape: (N, K), the numbers of images and of classes.

    Example:
        The images [0, 0, 1], the classes [1, 1, 0] and the pixels [5, 2, 3] give
        [[0, 7], [3, 0]] for the shape (2, 2).
    """
    n_images, n_classes = shape
    flat_index = image * n_classes + class_index  # the place in a flattened table (N, K)
    flat_sums = np.bincount(flat_index, weights=pixels, minlength=n_images * n_classes)
    return flat_sums.astype(np.int64).reshape(shape)


def class_scores(areas: Areas) -> ClassScores:
    """Return the IoU and the accuracy of each class, (..., K).

    The IoU is intersection / (labelled + predicted - intersection), and the accuracy is
    intersection / labelled. For example, a class with 3 labelled and 5 predicted pixels, 3 of them
    both, has the IoU 3 / 5 and the accuracy 1. Values are NaN for classes that do not occur.
    """
    union = areas.labelled + areas.predicted - areas.intersection
    return ClassScores(
        iou=ratio(areas.intersection, union),
        accuracy=ratio(areas.intersection, areas.labelled),
    )


def mean_iou(areas: Areas, members: NDArray[np.integer] | slice = slice(None)) -> Values:
    """Return the mean IoU (...,) of the classes that occur, or NaN if none occurs.

    A class occurs if it has labelled or predicted pixels. For example, the IoUs [0.2, NaN, 0.4] of
    three classes, the second of which does not occur, have the mean 0.3.

    Args:
        areas: The numbers of pixels of each class, (..., K).
        members: The indices of the classes to average over, by default all.
    """
    iou = class_scores(areas).iou[..., members]
    return _mean_of_occurring(iou)


def mean_accuracy(areas: Areas) -> Values:
    """Return the mean accuracy (...,) of the classes with labelled pixels, or NaN without any."""
    return _mean_of_occurring(class_scores(areas).accuracy)


def pixel_accuracy(areas: Areas) -> Values:
    """Return the fraction (...,) of all labelled pixels whose predicted class is right.

    It is NaN without labelled pixels.
    """
    return ratio(areas.intersection.sum(-1), areas.labelled.sum(-1))


def _mean_of_occurring(values: Values) -> Values:
    """Return the mean over the last axis of the values of classes that occur.

    Values of other classes are NaN: [0.2, NaN, 0.4] has the mean 0.3.
    """
    occurs = ~np.isnan(values)
    return ratio(np.where(occurs, values, 0.0).sum(-1), occurs.sum(-1))
