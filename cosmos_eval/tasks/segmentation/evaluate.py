"""Segment the images of protocols that see them alike: encoded once, counted for each protocol."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cosmos_eval.data.folders import content_hash
from cosmos_eval.data.label_maps import Label, LabelMaps
from cosmos_eval.embedding.cache import Arrays, ShardStore
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.models.maps import with_patches
from cosmos_eval.stats.segmentation import SparseConfusion, confusion, pack
from cosmos_eval.tasks import segmentation
from cosmos_eval.tasks.label_maps import (
    CONTENT,
    Joined,
    content_array,
    fingerprints,
    in_shards,
    unfinished_store,
)
from cosmos_eval.tasks.segmentation import inference, pictures, tuning
from cosmos_eval.tasks.segmentation.inference import LoadedImage, Segmenter
from cosmos_eval.types import (
    EncoderInfo,
    Measurement,
    OnProgress,
    RunOptions,
    SegmentationProtocol,
    UsageError,
)

_PICTURES = "pictures"  # (N, 32) SHA-256 of saved label maps, zeros where none is saved


class Job(NamedTuple):
    """A protocol, its data and shards, and where label maps go, with `overlays` drawn as well."""

    protocol: SegmentationProtocol
    data: LabelMaps
    store: ShardStore
    pictures: Path | None
    overlays: bool = False


def measure_data(
    encoder: Encoder,
    protocols: Sequence[SegmentationProtocol],
    options: RunOptions,
    progress: OnProgress,
    opened: Sequence[LabelMaps],
) -> Iterator[Measurement]:
    """Yield a measurement per protocol, of checked data; `options.batch_size` counts windows.

    Predictions are palette PNG files named like the images, in a folder per protocol below
    `options.save_predictions`. Finished shards are stored below `options.unfinished` until the
    caller goes on. Raises UsageError for models without patches and images that are damaged.
    """
    synchronized = options.distributed.synchronized
    attention = options.attention or protocols[0].attention
    for protocol in protocols:
        _require_own_settings(protocol, encoder.info)
    dense = synchronized(lambda: with_patches(encoder, attention))
    fitted = [inference.fit_to_model(protocol, dense) for protocol in protocols]
    pairs = list(zip(fitted, opened, strict=True))
    jobs = synchronized(lambda: [_job(dense, *pair, options) for pair in pairs])

    def segmenters() -> list[Segmenter]:
        return [inference.make_segmenter(dense, protocol, options, progress) for protocol in fitted]

    counted, seconds = count_images(jobs, segmenters, options, progress)
    for job, counts in zip(jobs, counted, strict=True):
        yield _measurement(job, counts, options, seconds)
    for job in jobs:
        job.store.remove()


def _require_own_settings(protocol: SegmentationProtocol, info: EncoderInfo) -> None:
    """Refuse settings that were chosen for other weights or code of the same name."""
    own = {} if protocol.tuned is None else protocol.tuned["model"]
    if own.get("spec") == info.spec and own != tuning.model_record(info):
        raise UsageError(f"the settings were chosen for another state of {info.spec}: tune again")


def _job(
    encoder: Encoder, protocol: SegmentationProtocol, data: LabelMaps, options: RunOptions
) -> Job:
    store = unfinished_store(encoder.info, protocol, options, data.samples)
    folder = options.save_predictions
    attention = None if options.auxiliary else options.attention  # the model's folder names both
    below = pictures.predictions_folder(Path(folder), protocol, attention) if folder else None
    return Job(protocol, data, store, below, options.overlays)


def _measurement(
    job: Job, counts: Joined, options: RunOptions, seconds: Mapping[str, float]
) -> Measurement:
    protocol = job.protocol
    if not counts["pixels"].any():
        raise UsageError(f"{protocol.dataset}: no pixel of any image has a label to compare with")
    names = [sample.name for sample in job.data.samples]
    content = content_hash(counts.pop(CONTENT))
    samples = {segmentation.NAME: np.array(names), **segmentation.class_arrays(protocol), **counts}
    described = segmentation.constants(protocol, options.attention or protocol.attention)
    return segmentation.TASK.measurement(
        samples,
        options,
        content=content,
        hashes=fingerprints(protocol, names, described),
        settings={} if protocol.tuned is None else {"tuned": dict(protocol.tuned)},
        seconds=seconds,
        notes=segmentation.shared_prompts(protocol),
    )


def count_images(
    jobs: Sequence[Job],
    make_segmenters: Callable[[], Sequence[Segmenter]],
    options: RunOptions,
    progress: OnProgress,
) -> tuple[list[Joined], dict[str, float]]:
    """Return the confusion counts of all images for every job, with their CONTENT, and seconds; in
    all processes.

    The segmenters, one per job, are made where any image is left to count. Raises UsageError.
    """
    counted, seconds = in_shards(
        [job.store for job in jobs],
        list(zip(*(job.data.samples for job in jobs), strict=True)),
        partial(inference.load_together, protocols=[job.protocol for job in jobs]),
        lambda: partial(_count, jobs, make_segmenters()),
        options,
        progress,
        partial(_are_saved, jobs),
    )
    for counts in counted:
        del counts[_PICTURES]
    return counted, seconds


def _are_saved(jobs: Sequence[Job], shard: range, arrays: Sequence[Arrays]) -> bool:
    """Whether all label maps of a shard are on disk as they were saved."""
    return all(
        pictures.is_saved(job.pictures, job.data.samples[index].name, digest.tobytes())
        for job, own in zip(jobs, arrays, strict=True)
        if job.pictures is not None
        for index, digest in zip(shard, own[_PICTURES], strict=True)
    )


def _count(
    jobs: Sequence[Job],
    segmenters: Sequence[Segmenter],
    shard: range,
    images: Iterator[list[LoadedImage]],
    step: Callable[[], None],
) -> list[Arrays]:
    """Count the pixels of a shard's images by label and prediction, for every job."""
    counted: list[list[tuple[SparseConfusion, bytes, bytes]]] = [[] for _ in jobs]
    for predictions in inference.predict_together(segmenters, images):
        for of_job, job, (image, classes) in zip(counted, jobs, predictions, strict=True):
            n_classes, ignored = len(job.protocol.class_names), job.protocol.ignore_index
            counts = confusion(image.label, classes, n_classes, ignored)
            of_job.append((pack([counts]), _save(image, classes, job), image.sha256))
        step()
    return [_arrays(shard, *zip(*of_job, strict=True)) for of_job in counted]


def _arrays(
    shard: range,
    counts: Sequence[SparseConfusion],
    saved: Sequence[bytes],
    content: Sequence[bytes],
) -> Arrays:
    numbered = [
        sparse._replace(image=sparse.image + np.int32(index))
        for index, sparse in zip(shard, counts, strict=True)
    ]
    joined = SparseConfusion(*map(np.concatenate, zip(*numbered, strict=True)))
    hashes = {_PICTURES: content_array(saved), CONTENT: content_array(content)}
    return {**hashes, **joined._asdict()}


def _save(image: LoadedImage, classes: Label, job: Job) -> bytes:
    """Save a label map where requested; return the SHA-256 of its file, or zeros."""
    if job.pictures is None:
        return bytes(32)
    name, palette = image.sample.name, job.data.palette
    if job.overlays:
        path = job.pictures / "overlays" / f"{name}.jpg"
        pictures.save_overlay(path, image, classes, job.protocol.class_names, palette)
    return pictures.save_label_map(pictures.prediction_file(job.pictures, name), classes, palette)
