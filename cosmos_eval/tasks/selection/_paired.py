"""Two selection results of the same items: the difference of every metric."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.metrics.paired import (
    PairedDifference,
    group_mean_statistic,
    mcnemar,
    mean_statistic,
    paired_bootstrap,
)
from cosmos_eval.tasks.selection._samples import AVERAGED, CLUSTER, CORRECT, IMAGE, SUBSET, TEXT
from cosmos_eval.types import Samples

TRUTH = (SUBSET, AVERAGED, CLUSTER)

_SUBSETS = "mean_subset_accuracy"


def differences(a: Samples, b: Samples) -> dict[str, PairedDifference]:
    """Every metric of A minus that of B; a bootstrap where items share an image."""
    scores_a, scores_b = _scores(a), _scores(b)
    labels, cluster = np.unique(a[CLUSTER], return_inverse=True)
    if len(labels) == len(cluster):
        found = {name: mcnemar(scores_a[name], scores_b[name]) for name in scores_a}
    else:
        of_a, of_b = mean_statistic(scores_a, cluster), mean_statistic(scores_b, cluster)
        found = paired_bootstrap(of_a, of_b, np.ones(len(labels), int))
    kept = a[AVERAGED][a[SUBSET]]
    if len(np.unique(a[SUBSET][kept])) > 1:
        labels, cluster = np.unique(a[CLUSTER][kept], return_inverse=True)
        of_a, of_b = (
            group_mean_statistic(_SUBSETS, a[SUBSET][kept], some[CORRECT][kept], cluster)
            for some in (a, b)
        )
        found |= paired_bootstrap(of_a, of_b, np.ones(len(labels), int))
    return found


def _scores(samples: Samples) -> dict[str, NDArray[np.bool_]]:
    scores = {"accuracy": samples[CORRECT]}
    if TEXT in samples:
        text, image = samples[TEXT], samples[IMAGE]
        scores |= {"text_score": text, "image_score": image, "group_score": text & image}
    return scores
