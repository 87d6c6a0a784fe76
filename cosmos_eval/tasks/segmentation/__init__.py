"""Zero-shot semantic segmentation: classes named by text, patches compared with the names.

Importing this package imports no torch: figures follow from stored samples without it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

from cosmos_eval.data.label_map_checks import CHECKED, check, is_there, survey
from cosmos_eval.data.label_maps import LabelMaps, open_data
from cosmos_eval.tasks.segmentation import samples
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
    from cosmos_eval.models.encoder import Encoder

# What of a protocol decides how a model sees an image, beside the form of attention.
_SEEN = ("short_side", "long_side", "window", "stride", "mean", "std")


def image_pass(protocol: SegmentationProtocol, options: RunOptions, data: LabelMaps) -> Hashable:
    """Return what a model sees: protocols of equal keys are evaluated in one pass over images."""
    seen = [getattr(protocol, name) for name in _SEEN]
    images = [sample.image for sample in data.samples]
    return (*seen, options.attention or protocol.attention, *images)


def measure(
    encoder: Encoder,
    protocols: Sequence[SegmentationProtocol],
    options: RunOptions,
    progress: OnProgress,
    data: Sequence[LabelMaps] | None = None,
) -> Iterator[Measurement]:
    """Segment every image once and compare with each protocol's label maps, in their order."""
    from cosmos_eval.tasks.segmentation.evaluate import measure_data

    opened = data or [open_data(protocol, options) for protocol in protocols]
    return measure_data(encoder, protocols, options, progress, opened)


def require_segmentation(protocol: Protocol) -> SegmentationProtocol:
    """Return a protocol of this task. Raises UsageError for one of another."""
    if not isinstance(protocol, SegmentationProtocol):
        raise UsageError(f"{protocol.dataset} is no segmentation data set: name one, such as voc20")
    return protocol


TASK = Task(
    protocol=SegmentationProtocol,
    metrics=samples.METRICS,
    truth=(samples.NAME, samples.CLASSES, samples.GROUPS, samples.MEMBERS, samples.LABELLED),
    open_data=open_data,
    check=check,
    checked=CHECKED,
    seconds=2.0,
    measure_together=measure,
    image_pass=image_pass,
    derive=samples.derive,
    per_class=samples.per_class,
    mistakes=samples.mistakes,
    upgrade=samples.upgrade,
    survey=survey,
    is_there=is_there,
    n_samples=lambda protocol: protocol.n_images,
    attention=lambda protocol: protocol.attention,
)
