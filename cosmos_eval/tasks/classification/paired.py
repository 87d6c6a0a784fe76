"""Two classification results of the same images: the difference of every metric."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from cosmos_eval.stats.paired import RECALL, Compare, PairedDifference, mcnemar, paired_recall
from cosmos_eval.tasks.classification.samples import LABELS, TOP5
from cosmos_eval.types import Samples

TRUTH = (LABELS,)


def differences(a: Samples, b: Samples) -> Mapping[str, PairedDifference]:
    """Every metric of A minus that of B."""
    return together([a, b])(0, 1)


def together(several: Sequence[Samples], without: Collection[str] = ()) -> Compare:
    """The same of several results, two by two."""
    labels = several[0][LABELS]
    hits = [some[TOP5] == labels[:, None] for some in several]
    first, any_of_5 = [hit[:, 0] for hit in hits], [hit.any(axis=1) for hit in hits]

    def compare(a: int, b: int) -> dict[str, PairedDifference]:
        found = {"acc1": mcnemar(first[a], first[b]), "acc5": mcnemar(any_of_5[a], any_of_5[b])}
        if RECALL not in without:
            found[RECALL] = paired_recall(labels, first[a], first[b])
        return found

    return compare
