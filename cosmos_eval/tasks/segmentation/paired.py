"""Two segmentation results of the same label maps: the difference of every metric."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from cosmos_eval.stats.paired import Compare, PairedDifference, area_statistics, by_bootstrap
from cosmos_eval.stats.segmentation import Areas, SparseConfusion, areas_of_images
from cosmos_eval.tasks.segmentation.samples import CLASSES, GROUPS, MEMBERS, NAME, class_groups
from cosmos_eval.types import Samples

TRUTH = (NAME, CLASSES, GROUPS, MEMBERS)


def differences(a: Samples, b: Samples) -> Mapping[str, PairedDifference]:
    """Every metric of A minus that of B. Raises ValueError where their label maps differ."""
    return together([a, b])(0, 1)


def together(several: Sequence[Samples], without: Collection[str] = ()) -> Compare:
    """The same of several results, two by two; no metric is worth leaving out."""
    areas = [_areas(some) for some in several]
    if any(not np.array_equal(areas[0].labelled, some.labelled) for some in areas):
        raise ValueError("the label maps of the samples differ")
    groups = class_groups(several[0])
    return by_bootstrap(area_statistics(areas, groups), len(several[0][NAME]))


def _areas(samples: Samples) -> Areas:
    sparse = SparseConfusion(*(samples[field] for field in SparseConfusion._fields))
    return areas_of_images(sparse, len(samples[NAME]), len(samples[CLASSES]))
