"""Image-text retrieval on images with captions in any of the forms of docs/data.md.

Importing this room imports no torch: data are checked and stored samples recomputed without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosmos_eval.data.retrieval import (
    RetrievalData,
    open_data,
    part,
    sample_list_hash,
    survey,
)
from cosmos_eval.tasks import Evaluator, one_by_one
from cosmos_eval.tasks.retrieval.paired import TRUTH, differences, together
from cosmos_eval.tasks.retrieval.samples import recompute
from cosmos_eval.types import (
    Measurement,
    OnProgress,
    RetrievalProtocol,
    RunOptions,
    no_progress,
)

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

__all__ = [
    "EVALUATOR",
    "RetrievalData",
    "check",
    "measure",
    "open_data",
    "recompute",
    "sample_list_hash",
]


def check(protocol: RetrievalProtocol, options: RunOptions) -> None:
    """Raise UsageError where files are missing or images and captions do not belong together."""
    open_data(protocol, options)


def measure(
    encoder: Encoder,
    protocol: RetrievalProtocol,
    options: RunOptions,
    progress: OnProgress = no_progress,
) -> Measurement:
    """Recall and ranks both ways; `options.limit` keeps the first images."""
    from cosmos_eval.tasks.retrieval.evaluate import measure_data

    return measure_data(encoder, open_data(protocol, options), options, progress)


EVALUATOR = Evaluator(
    check=check,
    measure=one_by_one(measure),
    recompute=recompute,
    differences=differences,
    truth=TRUTH,
    together=together,
    part=part,
    survey=survey,
)
