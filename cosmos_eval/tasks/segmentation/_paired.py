"""Two segmentation results of the same label maps: the difference of every metric."""

from __future__ import annotations

import numpy as np

from cosmos_eval.metrics.paired import PairedDifference, area_statistic, paired_bootstrap
from cosmos_eval.metrics.segmentation import Areas, SparseConfusion, areas_of_images
from cosmos_eval.tasks.segmentation._samples import CLASSES, GROUPS, MEMBERS, NAME, class_groups
from cosmos_eval.types import Samples

TRUTH = (NAME, CLASSES, GROUPS, MEMBERS)


def differences(a: Samples, b: Samples) -> dict[str, PairedDifference]:
    """Every metric of A minus that of B. Raises ValueError where their label maps differ."""
    of_a, of_b = _areas(a), _areas(b)
    if not np.array_equal(of_a.labelled, of_b.labelled):
        raise ValueError("the label maps of the samples differ")
    groups, clusters = class_groups(a), np.ones(len(a[NAME]), int)
    return paired_bootstrap(area_statistic(of_a, groups), area_statistic(of_b, groups), clusters)


def _areas(samples: Samples) -> Areas:
    sparse = SparseConfusion(*(samples[field] for field in SparseConfusion._fields))
    return areas_of_images(sparse, len(samples[NAME]), len(samples[CLASSES]))
