"""Two retrieval results of the same images and captions: the difference of every metric."""

from __future__ import annotations

import numpy as np

from cosmos_eval.metrics.paired import (
    PairedDifference,
    Statistic,
    joined,
    paired_bootstrap,
    rank_statistic,
)
from cosmos_eval.tasks.retrieval._samples import IMAGE_OF_TEXT, IMAGE_RANK, TEXT_RANK
from cosmos_eval.types import Samples

TRUTH = (IMAGE_OF_TEXT,)


def differences(a: Samples, b: Samples) -> dict[str, PairedDifference]:
    """Every metric of A minus that of B, by drawing images with all their captions."""
    return paired_bootstrap(_statistic(a), _statistic(b), np.ones(len(a[IMAGE_RANK]), int))


def _statistic(samples: Samples) -> Statistic:
    own = np.arange(len(samples[IMAGE_RANK]))
    return joined(
        rank_statistic("image_to_text", samples[IMAGE_RANK], own),
        rank_statistic("text_to_image", samples[TEXT_RANK], samples[IMAGE_OF_TEXT]),
    )
