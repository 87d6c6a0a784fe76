"""Two selection results of the same items: the difference of every metric."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.paired import (
    Compare,
    PairedDifference,
    by_bootstrap,
    group_mean_statistic,
    mcnemar,
    mean_statistic,
)
from cosmos_eval.tasks.selection.samples import AVERAGED, CLUSTER, CORRECT, IMAGE, SUBSET, TEXT
from cosmos_eval.types import Samples

TRUTH = (SUBSET, AVERAGED, CLUSTER)

_SUBSETS = "mean_subset_accuracy"


def differences(a: Samples, b: Samples) -> Mapping[str, PairedDifference]:
    """Every metric of A minus that of B; a bootstrap where items share an image."""
    return together([a, b])(0, 1)


def together(several: Sequence[Samples], without: Collection[str] = ()) -> Compare:
    """The same of several results, two by two; no metric is worth leaving out."""
    parts = [_of_scores(several)]
    truth = several[0]
    kept = truth[AVERAGED][truth[SUBSET]]
    if len(np.unique(truth[SUBSET][kept])) > 1:
        labels, cluster = np.unique(truth[CLUSTER][kept], return_inverse=True)
        means = [
            group_mean_statistic(_SUBSETS, truth[SUBSET][kept], some[CORRECT][kept], cluster)
            for some in several
        ]
        parts.append(by_bootstrap(means, len(labels)))
    return lambda a, b: {name: found for part in parts for name, found in part(a, b).items()}


def _of_scores(several: Sequence[Samples]) -> Compare:
    scores = [_scores(some) for some in several]
    labels, cluster = np.unique(several[0][CLUSTER], return_inverse=True)
    if len(labels) < len(cluster):
        return by_bootstrap([mean_statistic(some, cluster) for some in scores], len(labels))
    return lambda a, b: {name: mcnemar(scores[a][name], scores[b][name]) for name in scores[a]}


def _scores(samples: Samples) -> dict[str, NDArray[np.bool_]]:
    scores = {"accuracy": samples[CORRECT]}
    if TEXT in samples:
        text, image = samples[TEXT], samples[IMAGE]
        scores |= {"text_score": text, "image_score": image, "group_score": text & image}
    return scores
