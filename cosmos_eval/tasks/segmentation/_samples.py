"""What a segmentation result keeps: confusion counts of every image, and metrics from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.metrics.segmentation import (
    Areas,
    Groups,
    SparseConfusion,
    areas_of_images,
    bootstrap,
    class_scores,
    join,
    segmentation_metrics,
)
from cosmos_eval.types import Interval, SegmentationProtocol, UsageError

Samples = Mapping[str, NDArray[Any]]


def pack_samples(names: Sequence[str], confusions: Sequence[SparseConfusion]) -> Samples:
    """Arrays to store: `name` (N,) of the images and the fields of SparseConfusion.

    `confusions` holds the counts of one image each, in the order of the names.
    """
    return {"name": np.array(names), **join(confusions)._asdict()}


def metrics_from_samples(samples: Samples, protocol: SegmentationProtocol) -> dict[str, float]:
    """Metrics, fractions in [0, 1], from stored samples: `mIoU`, `mAcc`, `aAcc`, `mIoU_<group>`.

    A group of which no class occurs has no mean and is left out. Raises UsageError where no pixel
    has a label.
    """
    total = Areas(*(part.sum(0) for part in _areas(samples, protocol)))
    if total.labelled.sum() == 0:
        raise UsageError(f"{protocol.dataset}: no pixel of any image has a label to compare with")
    values = segmentation_metrics(total, class_groups(protocol))
    return {name: float(value) for name, value in values.items() if not np.isnan(value)}


def intervals_from_samples(
    samples: Samples, protocol: SegmentationProtocol, seed: int
) -> dict[str, Interval]:
    """Bootstrap intervals of the metrics, resampling images."""
    return bootstrap(_areas(samples, protocol), class_groups(protocol), seed=seed)


def per_class_from_samples(
    samples: Samples, protocol: SegmentationProtocol
) -> dict[str, dict[str, float | None]]:
    """`IoU` and `Acc` of every class; None where the class does not occur."""
    scores = class_scores(Areas(*(part.sum(0) for part in _areas(samples, protocol))))
    rows = zip(protocol.class_names, scores.iou, scores.accuracy, strict=True)
    return {name: {"IoU": _value(iou), "Acc": _value(acc)} for name, iou, acc in rows}


def class_groups(protocol: SegmentationProtocol) -> Groups:
    """Groups of class names as groups of class indices."""
    index = {name: i for i, name in enumerate(protocol.class_names)}
    return {
        name: [index[member] for member in members] for name, members in protocol.groups.items()
    }


def _areas(samples: Samples, protocol: SegmentationProtocol) -> Areas:
    sparse = SparseConfusion(*(samples[field] for field in SparseConfusion._fields))
    return areas_of_images(sparse, len(samples["name"]), len(protocol.class_names))


def _value(score: np.float64) -> float | None:
    return None if np.isnan(score) else float(score)
