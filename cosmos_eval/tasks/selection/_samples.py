"""The stored per-sample data of a selection result, and the metrics they give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from cosmos_eval.metrics.selection import PairHits, selection_metrics

CORRECT = "correct"  # (N,) whether an item counts for the accuracy
TEXT = "text_correct"  # (N,) of pairs: whether each image finds its caption
IMAGE = "image_correct"  # (N,) of pairs: whether each caption finds its image
SUBSET = "subset"  # (N,) numbers of subsets, in the order of their sorted names
AVERAGED = "averaged"  # (S,) whether a subset is part of the mean over subsets
CLUSTER = "cluster"  # (N,) items of one number share an image


def metrics_from_samples(samples: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """The metrics of a stored result, computed anew. Raises KeyError where an array is missing."""
    pairs = PairHits(samples[TEXT], samples[IMAGE]) if TEXT in samples else None
    return selection_metrics(samples[CORRECT], pairs, samples[SUBSET], samples[AVERAGED])
