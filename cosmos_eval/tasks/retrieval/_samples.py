"""The stored per-sample data of a retrieval result, and the metrics they give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from cosmos_eval.metrics.retrieval import RetrievalRanks, retrieval_metrics

IMAGE_RANK = "image_to_text_rank"  # (N,) rank of every image's best caption, from 1
TEXT_RANK = "text_to_image_rank"  # (M,) rank of every caption's image, from 1
IMAGE_OF_TEXT = "image_of_text"  # (M,) number of every caption's image


def metrics_from_samples(samples: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """The metrics of a stored result, computed anew. Raises KeyError where an array is missing."""
    return retrieval_metrics(RetrievalRanks(samples[IMAGE_RANK], samples[TEXT_RANK]))
