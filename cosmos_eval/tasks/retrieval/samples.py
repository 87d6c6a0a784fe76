"""The stored per-sample data of a retrieval result, and the figures that follow from them."""

from __future__ import annotations

import numpy as np

from cosmos_eval.stats.intervals import cluster_bootstrap, cluster_median_bootstrap
from cosmos_eval.stats.retrieval import RECALL_AT, RetrievalRanks, recalled, retrieval_metrics
from cosmos_eval.types import Figures, Interval, Samples

IMAGE_RANK = "image_to_text_rank"  # (N,) rank of every image's best caption, from 1
TEXT_RANK = "text_to_image_rank"  # (M,) rank of every caption's image, from 1
IMAGE_OF_TEXT = "image_of_text"  # (M,) number of every caption's image


def recompute(samples: Samples, seed: int) -> Figures:
    """All figures of a result. Raises KeyError where an array is missing."""
    ranks = RetrievalRanks(samples[IMAGE_RANK], samples[TEXT_RANK])
    images = np.arange(len(ranks.image_to_text))
    return Figures(
        metrics=retrieval_metrics(ranks),
        intervals=_intervals(ranks, RetrievalRanks(images, samples[IMAGE_OF_TEXT]), seed),
        n_samples=len(images),
    )


def _intervals(
    ranks: RetrievalRanks, image_of_query: RetrievalRanks, seed: int
) -> dict[str, Interval]:
    """Of every metric, by resampling images with all their captions."""
    intervals: dict[str, Interval] = {}
    for direction, values, images in zip(ranks._fields, ranks, image_of_query, strict=True):
        table = np.column_stack([recalled(values), values])
        names = [*(f"{direction}_R@{k}" for k in RECALL_AT), f"{direction}_mean_rank"]
        intervals.update(zip(names, cluster_bootstrap(table, images, seed=seed), strict=True))
        median = cluster_median_bootstrap(values, images, seed=seed)
        intervals[f"{direction}_median_rank"] = median
    return intervals
