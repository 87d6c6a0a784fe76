"""Zero-shot classification on image folders, webdatasets and torchvision's sets.

Importing this room imports no torch: data are checked and stored samples recomputed without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosmos_eval.data.class_folders import find_folder
from cosmos_eval.data.class_names import ClassData, class_names
from cosmos_eval.data.classification import fetch, open_data, part, sample_list_hash, survey
from cosmos_eval.tasks import Evaluator, one_by_one
from cosmos_eval.tasks.classification.paired import TRUTH, differences, together
from cosmos_eval.tasks.classification.samples import mistakes, recompute
from cosmos_eval.types import (
    ClassificationProtocol,
    Measurement,
    OnProgress,
    RunOptions,
    no_progress,
)

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

__all__ = [
    "EVALUATOR",
    "ClassData",
    "check",
    "class_names",
    "fetch",
    "find_folder",
    "measure",
    "open_data",
    "recompute",
    "sample_list_hash",
]


def check(protocol: ClassificationProtocol, options: RunOptions) -> None:
    """Raise UsageError where data are missing, of another layout, of other classes or number."""
    open_data(protocol, options)


def measure(
    encoder: Encoder,
    protocol: ClassificationProtocol,
    options: RunOptions,
    progress: OnProgress = no_progress,
) -> Measurement:
    """Accuracy and recall; `options.limit` keeps the first images of all classes in turn."""
    from cosmos_eval.tasks.classification.evaluate import measure_data

    return measure_data(encoder, open_data(protocol, options), protocol, options, progress)


EVALUATOR = Evaluator(
    check=check,
    measure=one_by_one(measure),
    recompute=recompute,
    differences=differences,
    truth=TRUTH,
    together=together,
    mistakes=mistakes,
    part=part,
    survey=survey,
)
