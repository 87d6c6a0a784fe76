"""Segment images of protocols that see them alike, and put a measurement a protocol together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cosmos_eval.models.encoder import DenseEncoder, Encoder
from cosmos_eval.stats.segmentation import SparseConfusion
from cosmos_eval.tasks import task_named
from cosmos_eval.tasks.label_maps import open_data
from cosmos_eval.tasks.label_maps.measure import fingerprints, unfinished_store, with_patches
from cosmos_eval.tasks.prompts import prompt_embeddings
from cosmos_eval.tasks.segmentation.identity import constants, shared_prompts
from cosmos_eval.tasks.segmentation.inference import Segmenter
from cosmos_eval.tasks.segmentation.model import fit_to_model
from cosmos_eval.tasks.segmentation.one_pass import Job, count_images
from cosmos_eval.tasks.segmentation.samples import pack_samples
from cosmos_eval.tasks.segmentation.saved import predictions_folder
from cosmos_eval.types import (
    Attention,
    Measurement,
    OnProgress,
    RunOptions,
    SegmentationProtocol,
    UsageError,
)


def measure_data(
    encoder: Encoder,
    protocols: Sequence[SegmentationProtocol],
    options: RunOptions,
    progress: OnProgress,
) -> Iterator[Measurement]:
    """A measurement a protocol, of data that are checked."""
    distributed, attention = options.distributed, _attention(protocols[0], options)
    dense = distributed.synchronized(lambda: with_patches(encoder, attention))
    fitted = [fit_to_model(protocol, dense) for protocol in protocols]
    jobs = distributed.synchronized(lambda: [_job(dense, protocol, options) for protocol in fitted])
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
        job.store.remove()


def _job(encoder: Encoder, protocol: SegmentationProtocol, options: RunOptions) -> Job:
    data = open_data(protocol, options)
    store = unfinished_store(encoder.info, protocol, options, data.samples)
    pictures = None
    if options.save_predictions is not None:
        pictures = predictions_folder(Path(options.save_predictions), protocol)
    return Job(protocol, data, store, pictures, options.overlays)


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
    if not any(one.pixels.any() for one in confusions):
        raise UsageError(f"{protocol.dataset}: no pixel of any image has a label to compare with")
    names = [sample.name for sample in data.samples]
    samples = pack_samples(names, confusions, protocol)
    return Measurement(
        **vars(task_named("seg").figures(samples, options.seed)),
        samples=samples,
        hashes=fingerprints(protocol, names, constants(protocol, _attention(protocol, options))),
        seconds=seconds,
        notes=shared_prompts(protocol),
    )
