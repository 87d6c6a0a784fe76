"""The stored per-sample data of a classification result, and the figures that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.stats.classification import class_recalls, classification_metrics, confusion_pairs
from cosmos_eval.stats.intervals import mean_class_recall_bootstrap, wilson
from cosmos_eval.types import Figures, Interval, Mistakes, Samples

LABELS = "labels"  # (N,) class numbers
TOP5 = "top5"  # (N, up to 5) predicted class numbers, best first
CLASSES = "classes"  # (C,) the data's own names, since several classes may share a prompt name


def recompute(samples: Samples, seed: int) -> Figures:
    """All figures of a result. Raises KeyError where an array is missing."""
    labels, top, classes = samples[LABELS], samples[TOP5], samples[CLASSES].tolist()
    hits = top == labels[:, None]
    return Figures(
        metrics=classification_metrics(labels, top),
        intervals=_intervals(labels, hits, seed),
        n_samples=len(labels),
        per_class=_per_class(labels, hits[:, 0], classes),
        confusion_pairs=_confusion_pairs(labels, top[:, 0], classes),
    )


def mistakes(samples: Samples) -> Mistakes:
    """What images of every class were taken for."""
    labels, predicted = samples[LABELS].astype(np.int64), samples[TOP5][:, 0]
    classes = samples[CLASSES].tolist()
    pairs, images = np.unique(labels * len(classes) + predicted, return_counts=True)
    true, taken_for = np.divmod(pairs, len(classes))
    wrong = true != taken_for
    totals = np.bincount(labels, minlength=len(classes))
    return Mistakes("images", classes, true[wrong], taken_for[wrong], images[wrong], totals)


def _intervals(
    labels: NDArray[np.integer], hits: NDArray[np.bool_], seed: int
) -> dict[str, Interval]:
    first = hits[:, 0]
    return {
        "acc1": wilson(int(first.sum()), len(labels)),
        "acc5": wilson(int(hits.any(axis=1).sum()), len(labels)),
        "mean_per_class_recall": mean_class_recall_bootstrap(labels, first, seed=seed),
    }


def _per_class(
    labels: NDArray[np.integer], first: NDArray[np.bool_], classes: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    recalls = class_recalls(labels, first)
    counts = np.bincount(labels, minlength=len(classes))
    return {
        name: {"recall": recalls.get(number), "images": int(counts[number])}
        for number, name in enumerate(classes)
    }


def _confusion_pairs(
    labels: NDArray[np.integer], predicted: NDArray[np.integer], classes: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        {"true": classes[pair.true], "predicted": classes[pair.predicted], "images": pair.images}
        for pair in confusion_pairs(labels, predicted)
    ]
