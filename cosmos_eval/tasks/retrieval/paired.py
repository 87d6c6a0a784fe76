"""Two retrieval results of the same images and captions: the difference of every metric."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from cosmos_eval.stats.paired import (
    Compare,
    PairedDifference,
    Statistic,
    by_bootstrap,
    joined,
    median_rank_statistic,
    recall_statistic,
)
from cosmos_eval.tasks.retrieval.samples import IMAGE_OF_TEXT, IMAGE_RANK, TEXT_RANK
from cosmos_eval.types import Samples

TRUTH = (IMAGE_OF_TEXT,)


def differences(a: Samples, b: Samples) -> Mapping[str, PairedDifference]:
    """Every metric of A minus that of B, by drawing images with all their captions."""
    return together([a, b])(0, 1)


def together(several: Sequence[Samples], without: Collection[str] = ()) -> Compare:
    """The same of several results, two by two."""
    statistics = [_statistic(some, without) for some in several]
    return by_bootstrap(statistics, len(several[0][IMAGE_RANK]))


def _statistic(samples: Samples, without: Collection[str]) -> Statistic:
    own = np.arange(len(samples[IMAGE_RANK]))
    parts = []
    for direction, ranks, image in (
        ("image_to_text", samples[IMAGE_RANK], own),
        ("text_to_image", samples[TEXT_RANK], samples[IMAGE_OF_TEXT]),
    ):
        parts.append(recall_statistic(direction, ranks, image))
        if f"{direction}_median_rank" not in without:
            parts.append(median_rank_statistic(direction, ranks, image))
    return joined(*parts)
