"""Localisation: how much of a map of what a class is called falls on that class.

Importing this package imports no torch: figures follow from stored samples without it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

from cosmos_eval.data.label_map_checks import CHECKED, check, is_there, survey
from cosmos_eval.data.label_maps import LabelMaps, open_data
from cosmos_eval.tasks.localisation import samples
from cosmos_eval.tasks.task import Task
from cosmos_eval.types import LocalisationProtocol, Measurement, OnProgress, RunOptions

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder


def measure(
    encoder: Encoder,
    protocols: Sequence[LocalisationProtocol],
    options: RunOptions,
    progress: OnProgress,
    data: Sequence[LabelMaps] | None = None,
) -> Iterator[Measurement]:
    """Yield a measurement per protocol, of checked data.

    Finished shards are stored below `options.unfinished` until the caller goes on. Raises
    UsageError for a model without patches or without the requested kind of map and, with the
    file's name, for an image that cannot be decoded.
    """
    from cosmos_eval.tasks.localisation.evaluate import measure_data

    opened = data or [open_data(protocol, options) for protocol in protocols]
    for protocol, own in zip(protocols, opened, strict=True):
        yield from measure_data(encoder, protocol, options, progress, own)


def image_pass(protocol: LocalisationProtocol, options: RunOptions, data: object) -> Hashable:
    """Both families of a data set make their own maps, and are timed by themselves."""
    return protocol.dataset, protocol.family


TASK = Task(
    protocol=LocalisationProtocol,
    metrics=samples.METRICS,
    truth=(
        *(samples.NAME, samples.PIXELS, samples.LABELLED, samples.CLASSES, samples.BOUNDS),
        *(samples.IMAGE, samples.CLASS, samples.THING),
    ),
    open_data=open_data,
    check=check,
    checked=CHECKED,
    measure_together=measure,
    image_pass=image_pass,
    derive=samples.derive,
    per_class=samples.per_class,
    survey=survey,
    is_there=is_there,
    n_samples=lambda protocol: protocol.n_images,
    attention=lambda protocol: protocol.attention,
)
