"""Zero-shot semantic segmentation: classes named by text, patches compared with the names."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from cosmos_eval.encoder import DenseEncoder, Encoder
from cosmos_eval.metrics.segmentation import SparseConfusion
from cosmos_eval.tasks.prompts import prompt_embeddings
from cosmos_eval.tasks.segmentation._constants import check_constants
from cosmos_eval.tasks.segmentation._data import check_sample, open_data
from cosmos_eval.tasks.segmentation._inference import Segmenter
from cosmos_eval.tasks.segmentation._model import fit_to_model, with_patches
from cosmos_eval.tasks.segmentation._partial import kept_of
from cosmos_eval.tasks.segmentation._pass import Job, count_images
from cosmos_eval.tasks.segmentation._samples import (
    fingerprints,
    intervals_from_samples,
    metrics_from_samples,
    pack_samples,
    per_class_from_samples,
    shared_prompts,
)
from cosmos_eval.tasks.segmentation._single import draw_image
from cosmos_eval.tasks.segmentation._survey import survey
from cosmos_eval.threads import ahead
from cosmos_eval.types import (
    Attention,
    Measurement,
    OnProgress,
    RunOptions,
    SegmentationProtocol,
)

__all__ = [
    "check",
    "draw_image",
    "image_pass",
    "measure",
    "measure_together",
    "metrics_from_samples",
    "survey",
]

# What of a protocol decides how a model sees an image, beside the form of attention.
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
    return (
        *seen,
        _attention(protocol, options),
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
    below `options.partial` until the caller goes on after the last measurement. Raises UsageError
    for a model without patch embeddings and, with the file's name, for an image that cannot be
    decoded.
    """
    share, attention = options.share, _attention(protocols[0], options)
    dense = share.together(lambda: with_patches(encoder, attention))
    fitted = [fit_to_model(protocol, dense) for protocol in protocols]
    jobs = share.together(lambda: [_job(dense, protocol, options) for protocol in fitted])
    started = time.perf_counter()
    prompting = []

    def segmenters() -> list[Segmenter]:
        begun = time.perf_counter()
        made = [_segmenter(dense, protocol, options, progress) for protocol in fitted]
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
    pictures = None
    if options.save_predictions is not None:
        pictures = Path(options.save_predictions) / f"{protocol.dataset}__{protocol.family}"
    return Job(protocol, data, kept, pictures, options.overlays)


def _segmenter(
    encoder: DenseEncoder, protocol: SegmentationProtocol, options: RunOptions, progress: OnProgress
) -> Segmenter:
    names = [name for synonyms in protocol.queries for name in synonyms]
    queries = prompt_embeddings(encoder, names, protocol.templates, options, progress)
    attention = _attention(protocol, options)
    return Segmenter(encoder, queries, protocol, attention, options.batch_size)


def _attention(protocol: SegmentationProtocol, options: RunOptions) -> Attention:
    return options.attention or protocol.attention


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
        hashes=fingerprints(samples, protocol, _attention(protocol, options)),
        per_class=per_class_from_samples(samples, protocol),
        seconds=seconds,
        notes=shared_prompts(protocol),
    )
