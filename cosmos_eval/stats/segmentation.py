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
    All other labels must be below `n_classes`.
    """
    is_labelled = labels != ignore_index
    pairs = labels[is_labelled].astype(np.int64) * n_classes + predicted[is_labelled]
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def pack(confusions: Iterable[Counts]) -> SparseConfusion:
    """Return the confusion counts of images, (K, K) each, as sparse arrays."""
    flat = np.stack([matrix.ravel() for matrix in confusions])
    image, pair = (indices.astype(np.int32) for indices in np.nonzero(flat))
    return SparseConfusion(image, pair, flat[image, pair])


def areas_of_images(sparse: SparseConfusion, n_images: int, n_classes: int) -> Areas:
    """Return the areas of each class in each image, (N, K), from confusion counts."""
    label, prediction = np.divmod(sparse.pair, n_classes)
    image, pixels = sparse.image.astype(np.int64), sparse.pixels
    right_pixels = np.where(label == prediction, pixels, 0)
    shape = (n_images, n_classes)
    return Areas(
        intersection=_sum_by_cell(image, label, right_pixels, shape),
        labelled=_sum_by_cell(image, label, pixels, shape),
        predicted=_sum_by_cell(image, prediction, pixels, shape),
    )


def _sum_by_cell(
    image: NDArray[np.int64], classes: NDArray[np.int32], pixels: Counts, shape: tuple[int, int]
) -> Counts:
    """Return the sum of pixels for each image and class, (N, K)."""
    n_images, n_classes = shape
    cells = image * n_classes + classes
    flat = np.bincount(cells, weights=pixels, minlength=n_images * n_classes)
    return flat.astype(np.int64).reshape(shape)


def class_scores(areas: Areas) -> ClassScores:
    """Return the IoU and the accuracy of each class."""
    union = areas.labelled + areas.predicted - areas.intersection
    return ClassScores(ratio(areas.intersection, union), ratio(areas.intersection, areas.labelled))


def mean_iou(areas: Areas, members: NDArray[np.integer] | slice = slice(None)) -> Values:
    """Return the mean IoU (...,) of the classes that occur, NaN if none occurs.

    `members` selects some of the classes, by default all.
    """
    return _mean_over_present(class_scores(areas).iou[..., members])


def mean_accuracy(areas: Areas) -> Values:
    """Return the mean accuracy (...,) of the classes that are labelled, NaN if none is."""
    return _mean_over_present(class_scores(areas).accuracy)


def pixel_accuracy(areas: Areas) -> Values:
    """Return the accuracy (...,) of all labelled pixels, NaN if there are none."""
    return ratio(areas.intersection.sum(-1), areas.labelled.sum(-1))


def _mean_over_present(values: Values) -> Values:
    """Return the mean over the last axis of the values that are not NaN."""
    present = ~np.isnan(values)
    return ratio(np.where(present, values, 0.0).sum(-1), present.sum(-1))
