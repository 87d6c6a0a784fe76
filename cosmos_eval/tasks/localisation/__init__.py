"""Localisation: how much of a map of what a class is called falls on that class.

Importing this room imports no torch: stored samples are recomputed without it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

from cosmos_eval.tasks import Evaluator
from cosmos_eval.tasks.label_maps import check, part, survey
from cosmos_eval.tasks.localisation.paired import TRUTH, differences
from cosmos_eval.tasks.localisation.samples import recompute
from cosmos_eval.types import LocalisationProtocol, Measurement, OnProgress, RunOptions

if TYPE_CHECKING:
    from cosmos_eval.models.encoder import Encoder

__all__ = ["EVALUATOR", "check", "image_pass", "measure", "recompute"]


def measure(
    encoder: Encoder,
    protocols: Sequence[LocalisationProtocol],
    options: RunOptions,
    progress: OnProgress,
) -> Iterator[Measurement]:
    """A measurement a protocol, in their order; `check` is assumed to have passed.

    Finished shards are kept below `options.unfinished` until the caller goes on. Raises UsageError
    for a model without patches or without the kind of map that is asked for and, with the file's
    name, for an image that cannot be decoded.
    """
    from cosmos_eval.tasks.localisation.evaluate import measure_data

    for protocol in protocols:
        yield from measure_data(encoder, protocol, options, progress)


def image_pass(protocol: LocalisationProtocol, options: RunOptions) -> Hashable:
    """Both families of a data set make their own maps, and are timed by themselves."""
    return protocol.dataset, protocol.family


EVALUATOR = Evaluator(
    check=check,
    measure=measure,
    recompute=recompute,
    differences=differences,
    truth=TRUTH,
    image_pass=image_pass,
    part=part,
    survey=survey,
)
