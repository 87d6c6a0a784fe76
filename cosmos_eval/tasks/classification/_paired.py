"""Two classification results of the same images: the difference of every metric."""

from __future__ import annotations

from cosmos_eval.metrics.paired import PairedDifference, mcnemar, paired_recall
from cosmos_eval.tasks.classification._samples import LABELS, TOP5
from cosmos_eval.types import Samples

TRUTH = (LABELS,)


def differences(a: Samples, b: Samples) -> dict[str, PairedDifference]:
    """Every metric of A minus that of B."""
    labels = a[LABELS]
    hits_a, hits_b = (some[TOP5] == labels[:, None] for some in (a, b))
    return {
        "acc1": mcnemar(hits_a[:, 0], hits_b[:, 0]),
        "acc5": mcnemar(hits_a.any(axis=1), hits_b.any(axis=1)),
        "mean_per_class_recall": paired_recall(labels, hits_a[:, 0], hits_b[:, 0]),
    }
