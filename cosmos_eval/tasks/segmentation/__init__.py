"""Zero-shot semantic segmentation: classes named by text, patches compared with the names.

Importing this package imports no torch: figures follow from stored samples without it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cosmos_eval.tasks.label_maps import (
    CHECKED,
    Label,
    Sample,
    check,
    is_there,
    open_data,
    part,
    survey,
)
from cosmos_eval.tasks.segmentation import samples
from cosmos_eval.tasks.segmentation.saved import colours, prediction_file, predictions_folder
from cosmos_eval.tasks.task import Task
from cosmos_eval.types import (
    Measurement,
    OnProgress,
    Protocol,
    RunOptions,
    SegmentationProtocol,
    UsageError,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from cosmos_eval.models.encoder import Encoder
    from cosmos_eval.tasks.segmentation.overlay import Picture

__all__ = [
    "TASK",
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
    "require_segmentation",
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


def require_segmentation(protocol: Protocol) -> SegmentationProtocol:
    """Return a protocol of this task. Raises UsageError for one of another."""
    if not isinstance(protocol, SegmentationProtocol):
        raise UsageError(f"{protocol.dataset} is no segmentation data set: name one, such as voc20")
    return protocol


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


TASK = Task(
    protocol=SegmentationProtocol,
    metrics=samples.METRICS,
    truth=(samples.NAME, samples.CLASSES, samples.GROUPS, samples.MEMBERS, samples.LABELLED),
    check=check,
    checked=CHECKED,
    seconds=2.0,
    measure_together=measure_together,
    image_pass=image_pass,
    derive=samples.derive,
    per_class=samples.per_class,
    mistakes=samples.mistakes,
    upgrade=samples.upgrade,
    survey=survey,
    is_there=is_there,
    n_samples=lambda protocol: protocol.n_images,
    part=part,
    attention=lambda protocol: protocol.attention,
)
