"""Caption selection: which of some captions, alike but for a detail, belongs to an image.

Importing this room imports no torch: data are checked and stored samples recomputed without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosmos_eval.data.selection import open_data, part, survey
from cosmos_eval.tasks import Evaluator, one_by_one
from cosmos_eval.tasks.selection.paired import TRUTH, differences, together
from cosmos_eval.tasks.selection.samples import recompute
from cosmos_eval.types import (
    Measurement,
    OnProgress,
    RunOptions,
    SelectionProtocol,
    no_progress,
)

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

__all__ = ["EVALUATOR", "check", "measure", "recompute"]


def check(protocol: SelectionProtocol, options: RunOptions) -> None:
    """Raise UsageError where files are missing, malformed, or not the data set's own items."""
    open_data(protocol, options)


def measure(
    encoder: Encoder,
    protocol: SelectionProtocol,
    options: RunOptions,
    progress: OnProgress = no_progress,
) -> Measurement:
    """Accuracy, overall and a subset; `options.limit` keeps the first items of subsets in turn."""
    from cosmos_eval.tasks.selection.evaluate import measure_data

    return measure_data(encoder, open_data(protocol, options), protocol, options, progress)


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
