"""Two localisation results of the same things: the difference of every metric."""

from __future__ import annotations

import numpy as np

from cosmos_eval.stats.localisation import localisation_statistic
from cosmos_eval.stats.paired import PairedDifference, paired_bootstrap
from cosmos_eval.tasks.localisation.samples import (
    BOUNDS,
    CLASS,
    CLASSES,
    IMAGE,
    LABELLED,
    NAME,
    PIXELS,
    THING,
    sums_of,
)
from cosmos_eval.types import Samples

TRUTH = (NAME, PIXELS, LABELLED, CLASSES, BOUNDS, IMAGE, CLASS, THING)


def differences(a: Samples, b: Samples) -> dict[str, PairedDifference]:
    """Every metric of A minus that of B, by drawing the same images for both."""
    of_a, of_b = (localisation_statistic(sums_of(samples)) for samples in (a, b))
    return paired_bootstrap(of_a, of_b, np.ones(len(a[NAME]), int))
