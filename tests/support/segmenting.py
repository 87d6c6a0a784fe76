"""One segmentation measurement, as most tests need it."""

from __future__ import annotations

from cosmos_eval.models.encoder import Encoder
from cosmos_eval.tasks import segmentation
from cosmos_eval.types import Measurement, OnProgress, RunOptions, SegmentationProtocol, no_progress


def measure(
    encoder: Encoder,
    protocol: SegmentationProtocol,
    options: RunOptions,
    progress: OnProgress = no_progress,
) -> Measurement:
    (measurement,) = segmentation.measure(encoder, [protocol], options, progress)
    return measurement
