"""Zero-shot semantic segmentation: classes named by text, patches compared with the names.

Importing this room imports no torch: stored samples are recomputed without it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_eval.tasks import Evaluator
from cosmos_eval.tasks.label_maps import Label, Sample, check, open_data, part, survey
from cosmos_eval.tasks.segmentation.paired import TRUTH, differences, together
from cosmos_eval.tasks.segmentation.samples import mistakes, recompute
from cosmos_eval.tasks.segmentation.saved import colours, prediction_file, predictions_folder
from cosmos_eval.types import (
    Measurement,
    OnProgress,
    RunOptions,
    SegmentationProtocol,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from cosmos_eval.models.encoder import Encoder
    from cosmos_eval.tasks.segmentation.overlay import Picture

__all__ = [
    "EVALUATOR",
    "check",
    "colours",
    "draw_image",
    "image_pass",
    "measure",
    "measure_together",
    "prediction_file",
    "predictions",
    "predictions_folder",
    "read_image",
    "recompute",
]

# What of a protocol decides how a model sees an image, beside the form of attention.
_SEEN = ("short_side", "long_side", "window", "stride", "mean", "std")


def image_pass(protocol: SegmentationProtocol, options: RunOptions) -> Hashable:
    """What a model sees of a protocol: those of equal keys are measured in one pass over images."""
    seen = [getattr(protocol, name) for name in _SEEN]
    return (
        *seen,
        options.attention or protocol.attention,
        *(sample.image for sample in open_data(protocol, options).samples),
    )


def measure(
    encoder: Encoder,
    protocol: SegmentationProtocol,
    options: RunOptions,
    progress: OnProgress,
) -> Measurement:
    """`measure_together` of one protocol."""
    (measurement,) = measure_together(encoder, [protocol], options, progress)
    return measurement


def measure_together(
    encoder: Encoder,
    protocols: Sequence[SegmentationProtocol],
    options: RunOptions,
    progress: OnProgress,
) -> Iterator[Measurement]:
    """Segment every image once and compare with each protocol's label maps, in their order.

    The protocols have the same `image_pass`; `check` is assumed to have passed.
    `options.batch_size` counts windows. Predictions go to a folder a protocol below
    `options.save_predictions`, as palette PNGs named after the images. Finished shards are kept
    below `options.unfinished` until the caller goes on after the last measurement. Raises
    UsageError for a model without patch embeddings and, with the file's name, for an image that
    cannot be decoded.
    """
    from cosmos_eval.tasks.segmentation.evaluate import measure_data

    return measure_data(encoder, protocols, options, progress)


def draw_image(
    encoder: Encoder, protocol: SegmentationProtocol, path: Path, options: RunOptions
) -> Picture:
    """The image, its label map under a protocol, and what the colours mean.

    Raises UsageError for a model without patch embeddings, constants that contradict each other and
    an image that cannot be decoded.
    """
    from cosmos_eval.tasks.segmentation.single import draw

    return draw(encoder, protocol, path, options)


def read_image(sample: Sample) -> Image:
    """An image of a data set as it is measured: RGB, turned as its EXIF says.

    Raises UsageError, naming the file, where it cannot be decoded.
    """
    from cosmos_eval.tasks.segmentation.single import read_picture

    return read_picture(sample)


def predictions(
    encoder: Encoder,
    protocol: SegmentationProtocol,
    samples: Sequence[Sample],
    options: RunOptions,
) -> Iterator[Label]:
    """Predicted classes (H, W) of a few images of a data set, each at its original size.

    Raises UsageError as `measure_together` does.
    """
    from cosmos_eval.tasks.segmentation.single import predict_samples

    return predict_samples(encoder, protocol, samples, options)


EVALUATOR = Evaluator(
    check=check,
    measure=measure_together,
    recompute=recompute,
    differences=differences,
    truth=TRUTH,
    together=together,
    mistakes=mistakes,
    image_pass=image_pass,
    part=part,
    survey=survey,
)
