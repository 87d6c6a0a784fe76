"""Intersection over union and pixel accuracies from confusion counts.

The definitions are those of MMSegmentation's IoUMetric: a class counts where it occurs in labels
or predictions (IoU) or in labels (accuracy); ignored pixels count nowhere.
Shapes: K classes, N images; a leading `...` is kept.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.estimates import Values, ratio

Counts = NDArray[np.int64]


class SparseConfusion(NamedTuple):
    """Non-zero confusion counts of all images: three arrays of the same length. `pair` is label * K
    + prediction."""

    image: NDArray[np.int32]
    pair: NDArray[np.int32]
    pixels: Counts


class Areas(NamedTuple):
    """Pixels per class (..., K): labelled and predicted so, labelled so, predicted so."""

    intersection: NDArray[Any]
    labelled: NDArray[Any]
    predicted: NDArray[Any]


class ClassScores(NamedTuple):
    """IoU and accuracy per class (..., K), NaN where the class does not occur."""

    iou: Values
    accuracy: Values


def confusion(
    labels: NDArray[np.integer],
    predicted: NDArray[np.integer],
    n_classes: int,
    ignore_index: int,
) -> Counts:
    """Count pixels by label (rows) and prediction (columns), (K, K). Every label that is not
    ignored must be below `n_classes`."""
    valid = labels != ignore_index
    pairs = labels[valid].astype(np.int64) * n_classes + predicted[valid]
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def pack(confusions: Iterable[Counts]) -> SparseConfusion:
    """Pack the confusion counts of images, (K, K) each, in the order of the images."""
    flat = np.stack([matrix.ravel() for matrix in confusions])
    image, pair = (indices.astype(np.int32) for indices in np.nonzero(flat))
    return SparseConfusion(image, pair, flat[image, pair])


def areas_of_images(sparse: SparseConfusion, n_images: int, n_classes: int) -> Areas:
    """Return the areas of every image, (N, K)."""
    label, prediction = np.divmod(sparse.pair, n_classes)

    def summed(pixels: Counts, classes: NDArray[np.int32]) -> Counts:
        cells = sparse.image.astype(np.int64) * n_classes + classes
        flat = np.bincount(cells, weights=pixels, minlength=n_images * n_classes)
        return flat.astype(np.int64).reshape(n_images, n_classes)

    pixels = sparse.pixels
    right = np.where(label == prediction, pixels, 0)
    return Areas(summed(right, label), summed(pixels, label), summed(pixels, prediction))


def class_scores(areas: Areas) -> ClassScores:
    """Return IoU and accuracy of every class."""
    union = areas.labelled + areas.predicted - areas.intersection
    return ClassScores(ratio(areas.intersection, union), ratio(areas.intersection, areas.labelled))


def mean_iou(areas: Areas, members: NDArray[np.integer] | slice = slice(None)) -> Values:
    """Mean IoU (...,) of the classes, or of some members, that occur; NaN where none does."""
    return _mean_over_present(class_scores(areas).iou[..., members])


def mean_accuracy(areas: Areas) -> Values:
    """Mean accuracy (...,) of the classes that are labelled; NaN where none is."""
    return _mean_over_present(class_scores(areas).accuracy)


def pixel_accuracy(areas: Areas) -> Values:
    """Accuracy (...,) of all labelled pixels; NaN where there is none."""
    return ratio(areas.intersection.sum(-1), areas.labelled.sum(-1))


def _mean_over_present(values: Values) -> Values:
    """Return the mean over the last axis without NaN."""
    present = ~np.isnan(values)
    return ratio(np.where(present, values, 0.0).sum(-1), present.sum(-1))
