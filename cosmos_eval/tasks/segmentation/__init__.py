"""Zero-shot semantic segmentation: classes named by text, patches compared with the names."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from cosmos_eval.embed import ahead
from cosmos_eval.encoder import DenseEncoder, Encoder
from cosmos_eval.metrics.segmentation import SparseConfusion
from cosmos_eval.tasks.prompts import prompt_embeddings
from cosmos_eval.tasks.segmentation._constants import check_constants
from cosmos_eval.tasks.segmentation._data import check_sample, open_data
from cosmos_eval.tasks.segmentation._inference import Segmenter
from cosmos_eval.tasks.segmentation._partial import kept_of
from cosmos_eval.tasks.segmentation._pass import Job, count_images
from cosmos_eval.tasks.segmentation._samples import (
    fingerprints,
    intervals_from_samples,
    metrics_from_samples,
    pack_samples,
    per_class_from_samples,
)
from cosmos_eval.types import (
    Measurement,
    OnProgress,
    RunOptions,
    SegmentationProtocol,
    UsageError,
)

__all__ = ["check", "image_pass", "measure", "measure_together", "metrics_from_samples"]

# What of a protocol decides how a model sees an image.
_SEEN = ("short_side", "long_side", "window", "stride", "mean", "std")


def check(protocol: SegmentationProtocol, options: RunOptions) -> None:
    """Raise UsageError where data are missing or inconsistent, before any model is loaded.

    Reads every label map, because an undeclared class would otherwise show after hours.
    """
    check_constants(protocol)
    data = open_data(protocol, options)
    one = partial(check_sample, protocol=protocol)
    for _ in ahead(data.samples, one, workers=options.workers, window=4 * options.workers):
        pass


def image_pass(protocol: SegmentationProtocol, options: RunOptions) -> Hashable:
    """What a model sees of a protocol: those of equal keys are measured in one pass over images."""
    seen = [getattr(protocol, name) for name in _SEEN]
    return (*seen, *(sample.image for sample in open_data(protocol, options).samples))


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
    `options.batch_size` counts windows. Predictions go to a folder a data set below
    `options.save_predictions`, as palette PNGs named after the images. Finished shards are kept
    below `options.partial` until the caller goes on after the last measurement. Raises UsageError
    for a model without patch embeddings and, with the file's name, for an image that cannot be
    decoded.
    """
    if not isinstance(encoder, DenseEncoder):
        raise UsageError(f"{encoder.info.spec} has no patch embeddings to segment images with")
    dense = encoder  # known to be one inside the functions below as well
    jobs = options.share.together(lambda: [_job(dense, one, options) for one in protocols])
    started = time.perf_counter()
    prompting = []

    def segmenters() -> list[Segmenter]:
        begun = time.perf_counter()
        made = [_segmenter(dense, protocol, options, progress) for protocol in protocols]
        prompting.append(time.perf_counter() - begun)
        return made

    counted = count_images(jobs, segmenters, options, progress)
    seconds = {"prompts": sum(prompting)}
    seconds["images"] = time.perf_counter() - started - seconds["prompts"]
    for job, confusions in zip(jobs, counted, strict=True):
        yield _measurement(job, confusions, options, seconds)
    for job in jobs:
        job.kept.discard()


def _job(encoder: Encoder, protocol: SegmentationProtocol, options: RunOptions) -> Job:
    data = open_data(protocol, options)
    kept = kept_of(encoder.info, protocol, options, data.samples)
    folder = options.save_predictions
    return Job(protocol, data, kept, None if folder is None else Path(folder) / protocol.dataset)


def _segmenter(
    encoder: DenseEncoder, protocol: SegmentationProtocol, options: RunOptions, progress: OnProgress
) -> Segmenter:
    names = [name for synonyms in protocol.queries for name in synonyms]
    queries = prompt_embeddings(
        encoder, names, protocol.templates, progress=progress, share=options.share
    )
    return Segmenter(encoder, queries, protocol, options.attention, options.batch_size)


def _measurement(
    job: Job,
    confusions: Sequence[SparseConfusion],
    options: RunOptions,
    seconds: Mapping[str, float],
) -> Measurement:
    protocol, data = job.protocol, job.data
    samples = pack_samples([sample.name for sample in data.samples], confusions)
    return Measurement(
        metrics=metrics_from_samples(samples, protocol),
        intervals=intervals_from_samples(samples, protocol, options.seed),
        n_samples=len(data.samples),
        samples=samples,
        hashes=fingerprints(samples, protocol, options.attention),
        per_class=per_class_from_samples(samples, protocol),
        seconds=seconds,
    )
