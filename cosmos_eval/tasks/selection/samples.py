"""The stored per-sample data of a selection result, and the figures that follow from them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.intervals import cluster_bootstrap, mean_of_groups_bootstrap, wilson
from cosmos_eval.stats.selection import PairHits, selection_metrics, subset_accuracies
from cosmos_eval.types import Figures, Interval, Samples

CORRECT = "correct"  # (N,) whether an item counts for the accuracy
TEXT = "text_correct"  # (N,) of pairs: whether each image finds its caption
IMAGE = "image_correct"  # (N,) of pairs: whether each caption finds its image
SUBSET = "subset"  # (N,) numbers of subsets
SUBSETS = "subsets"  # (S,) their sorted names; one without a name where there are no subsets
AVERAGED = "averaged"  # (S,) whether a subset is part of the mean over subsets
CLUSTER = "cluster"  # (N,) items of one number share an image


def recompute(samples: Samples, seed: int) -> Figures:
    """All figures of a result. Raises KeyError where an array is missing."""
    pairs = PairHits(samples[TEXT], samples[IMAGE]) if TEXT in samples else None
    metrics = selection_metrics(samples[CORRECT], pairs, samples[SUBSET], samples[AVERAGED])
    return Figures(
        metrics=metrics,
        intervals=_intervals(metrics, samples, seed),
        n_samples=len(samples[CORRECT]),
        per_class=_per_subset(samples),
    )


def _intervals(metrics: Mapping[str, float], samples: Samples, seed: int) -> dict[str, Interval]:
    """Of all metrics; Wilson's where no items share an image, else by resampling images."""
    correct, clusters = samples[CORRECT], samples[CLUSTER]
    scores: dict[str, NDArray[np.bool_]] = {"accuracy": correct}
    if TEXT in samples:
        text, image = samples[TEXT], samples[IMAGE]
        scores |= {"text_score": text, "image_score": image, "group_score": text & image}
    n = len(clusters)
    if len(np.unique(clusters)) == n:
        intervals = {name: wilson(int(right.sum()), n) for name, right in scores.items()}
    else:
        table = np.stack(list(scores.values()), axis=1)
        found = cluster_bootstrap(table, clusters, seed=seed)
        intervals = dict(zip(scores, found, strict=True))
    if "mean_subset_accuracy" in metrics:
        subset = samples[SUBSET]
        kept = samples[AVERAGED][subset]
        intervals["mean_subset_accuracy"] = mean_of_groups_bootstrap(
            subset[kept], correct[kept], clusters[kept], seed=seed
        )
    return intervals


def _per_subset(samples: Samples) -> dict[str, dict[str, float | None]]:
    """Accuracy, items, and of pairs both scores, by the subset's name, where there are subsets."""
    subsets, of_item = samples[SUBSETS].tolist(), samples[SUBSET]
    if subsets == [""]:
        return {}
    names = {CORRECT: "accuracy", TEXT: "text_score", IMAGE: "image_score"}
    columns = {
        name: subset_accuracies(samples[array], of_item, len(subsets))
        for array, name in names.items()
        if array in samples
    }
    counts = np.bincount(of_item, minlength=len(subsets))
    return {
        subset: {
            **{name: float(c[i]) if counts[i] else None for name, c in columns.items()},
            "items": int(counts[i]),
        }
        for i, subset in enumerate(subsets)
    }
