"""The stored per-sample data of a classification result, and the metrics they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from cosmos_eval.metrics.classification import classification_metrics, confusion_pairs

LABELS = "labels"  # (N,) class numbers in the order of the result's classes
TOP5 = "top5"  # (N, up to 5) predicted class numbers, best first


def metrics_from_samples(samples: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """The metrics of a stored result, computed anew. Raises KeyError where an array is missing."""
    return classification_metrics(samples[LABELS], samples[TOP5])


def confusion_from_samples(
    samples: Mapping[str, NDArray[Any]], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """The most frequent mistakes of a stored result, by the names of its classes."""
    pairs = confusion_pairs(samples[LABELS], samples[TOP5][:, 0])
    return [
        {"true": classes[pair.true], "predicted": classes[pair.predicted], "images": pair.images}
        for pair in pairs
    ]
