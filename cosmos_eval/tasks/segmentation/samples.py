"""The stored confusion counts of a segmentation result, and the figures that follow from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cosmos_eval.stats.segmentation import (
    Areas,
    Groups,
    SparseConfusion,
    areas_of_images,
    bootstrap,
    class_scores,
    join,
    segmentation_metrics,
)
from cosmos_eval.types import Figures, Mistakes, Samples, SegmentationProtocol

# Beside the fields of SparseConfusion.
NAME = "name"  # (N,) of the images
CLASSES = "classes"  # (C,) names
GROUPS = "groups"  # (G,) names of groups of classes whose mean IoU is reported
MEMBERS = "members"  # (G, C) whether a class belongs to a group


def pack_samples(
    names: Sequence[str], confusions: Sequence[SparseConfusion], protocol: SegmentationProtocol
) -> Samples:
    """Arrays to store; `confusions` holds the counts of one image each, in the order of names."""
    classes, groups = protocol.class_names, protocol.groups
    members = [[name in some for name in classes] for some in groups.values()]
    return {
        NAME: np.array(names),
        CLASSES: np.array(classes),
        GROUPS: np.array(list(groups), dtype=np.str_),
        MEMBERS: np.array(members, dtype=np.bool_).reshape(len(groups), len(classes)),
        **join(confusions)._asdict(),
    }


def recompute(samples: Samples, seed: int) -> Figures:
    """All figures of a result. Raises KeyError where an array is missing.

    A group of which no class occurs has no mean and is left out. An `IoU` or `Acc` of a class is
    None where it does not occur.
    """
    sparse = SparseConfusion(*(samples[field] for field in SparseConfusion._fields))
    classes, n_images = samples[CLASSES].tolist(), len(samples[NAME])
    areas = areas_of_images(sparse, n_images, len(classes))
    total = Areas(*(part.sum(0) for part in areas))
    groups = class_groups(samples)
    metrics = segmentation_metrics(total, groups)
    scores = zip(classes, *class_scores(total), strict=True)
    return Figures(
        metrics={name: float(value) for name, value in metrics.items() if not np.isnan(value)},
        intervals=bootstrap(areas, groups, seed=seed),
        n_samples=n_images,
        per_class={name: {"IoU": _value(iou), "Acc": _value(acc)} for name, iou, acc in scores},
    )


def mistakes(samples: Samples) -> Mistakes:
    """What pixels of every class were taken for."""
    classes = samples[CLASSES].tolist()
    pixels = np.zeros(len(classes) ** 2, np.int64)
    np.add.at(pixels, samples["pair"], samples["pixels"])
    square = pixels.reshape(len(classes), -1)
    totals = square.sum(axis=1)
    np.fill_diagonal(square, 0)
    true, taken_for = np.nonzero(square)
    return Mistakes("pixels", classes, true, taken_for, square[true, taken_for], totals)


def class_groups(samples: Samples) -> Groups:
    """Numbers of the classes of every group, by its name."""
    members = [np.flatnonzero(row).tolist() for row in samples[MEMBERS]]
    return dict(zip(samples[GROUPS].tolist(), members, strict=True))


def _value(score: np.float64) -> float | None:
    return None if np.isnan(score) else float(score)
