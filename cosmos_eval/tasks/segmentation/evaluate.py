"""Segment the images of protocols that see them alike: encoded once, counted for each protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cosmos_eval.data.label_maps import LabelMaps
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.embedding.cache import Arrays, Report, ShardStore
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.models.maps import with_patches
from cosmos_eval.stats.segmentation import SparseConfusion, confusion, join, pack, separate
from cosmos_eval.tasks import task_named
from cosmos_eval.tasks.label_maps import (
    Work,
    fingerprints,
    in_shards,
    store_shard,
    stored_shards,
    unfinished_store,
)
from cosmos_eval.tasks.segmentation import constants, pack_samples, shared_prompts
from cosmos_eval.tasks.segmentation.inference import (
    Prediction,
    Segmenter,
    fit_to_model,
    load_together,
    predict_together,
    with_prompts,
)
from cosmos_eval.tasks.segmentation.pictures import (
    is_saved,
    prediction_file,
    predictions_folder,
    save_label_map,
    save_overlay,
)
from cosmos_eval.types import (
    Measurement,
    OnProgress,
    Progress,
    RunOptions,
    SegmentationProtocol,
    UsageError,
)


class Job(NamedTuple):
    """A protocol, its data, the store of its finished shards and the folder of its label maps.

    With `overlays`, pictures of image, truth and prediction are drawn beside the label maps.
    """

    protocol: SegmentationProtocol
    data: LabelMaps
    store: ShardStore
    pictures: Path | None
    overlays: bool = False


class Counts(NamedTuple):
    """Confusion counts of the images of a shard, and the SHA-256 of their saved label maps.

    The hash of an image whose label map is not saved is empty.
    """

    confusions: list[SparseConfusion]
    pictures: list[str]


def measure_data(
    encoder: Encoder,
    protocols: Sequence[SegmentationProtocol],
    options: RunOptions,
    progress: OnProgress,
    opened: Sequence[LabelMaps],
) -> Iterator[Measurement]:
    """Yield a measurement per protocol, of checked data.

    `options.batch_size` counts windows. Predictions are saved to a folder per protocol below
    `options.save_predictions`, as palette PNG files named like the images. Finished shards are
    stored below `options.unfinished` until the caller requests more than the last measurement.
    Raises UsageError for a model without patch embeddings and for an image that cannot be decoded.
    """
    synchronized = options.distributed.synchronized
    attention = options.attention or protocols[0].attention
    dense = synchronized(lambda: with_patches(encoder, attention))
    fitted = [fit_to_model(protocol, dense) for protocol in protocols]
    pairs = list(zip(fitted, opened, strict=True))
    jobs = synchronized(lambda: [_job(dense, *pair, options) for pair in pairs])
    started = time.perf_counter()
    prompting = 0.0

    def segmenters() -> list[Segmenter]:
        nonlocal prompting
        begun = time.perf_counter()
        made = [with_prompts(dense, protocol, options, progress) for protocol in fitted]
        prompting = time.perf_counter() - begun
        return made

    counted = count_images(jobs, segmenters, options, progress)
    seconds = {"prompts": prompting, "images": time.perf_counter() - started - prompting}
    for job, confusions in zip(jobs, counted, strict=True):
        yield _measurement(job, confusions, options, seconds)
    for job in jobs:
        job.store.remove()


def _job(
    encoder: Encoder, protocol: SegmentationProtocol, data: LabelMaps, options: RunOptions
) -> Job:
    store = unfinished_store(encoder.info, protocol, options, data.samples)
    folder = options.save_predictions
    pictures = None if folder is None else predictions_folder(Path(folder), protocol)
    return Job(protocol, data, store, pictures, options.overlays)


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
    described = constants(protocol, options.attention or protocol.attention)
    return Measurement(
        **vars(task_named("seg").figures(samples, options.seed)),
        samples=samples,
        hashes=fingerprints(protocol, names, described),
        seconds=seconds,
        notes=shared_prompts(protocol),
    )


def count_images(
    jobs: Sequence[Job],
    make_segmenters: Callable[[], Sequence[Segmenter]],
    options: RunOptions,
    progress: OnProgress,
) -> list[list[SparseConfusion]]:
    """Return the confusion counts of every image, in order, for every job; in all processes.

    The segmenters, one per job, are made where any image is left to count. Raises UsageError for
    an image that cannot be used and where files cannot be written.
    """

    def prepare() -> Work[list[Counts]]:
        segmenters = make_segmenters()
        return lambda own, progress: list(_count(jobs, segmenters, own, options, progress))

    find = partial(_find, jobs)
    found = in_shards(len(jobs[0].data.samples), find, prepare, options, progress)
    return [
        [one for counts in found for one in counts[index].confusions] for index in range(len(jobs))
    ]


def _find(
    jobs: Sequence[Job], shards: Sequence[range], report: Report
) -> list[list[Counts] | None]:
    stored = [stored_shards(job.store, shards, report) for job in jobs]
    found: list[list[Counts] | None] = []
    for shard, *arrays in zip(shards, *stored, strict=True):
        counts = [_counts(job, shard, own) for job, own in zip(jobs, arrays, strict=True)]
        whole = [one for one in counts if one is not None]
        found.append(whole if len(whole) == len(jobs) else None)
    return found


def _counts(job: Job, shard: range, arrays: Arrays | None) -> Counts | None:
    """Unpack a stored shard; None where a label map is not on disk as it was saved."""
    if arrays is None:
        return None
    pictures = [digest.decode() for digest in arrays["pictures"].view("S64").ravel().tolist()]
    if job.pictures is not None:
        names = [job.data.samples[index].name for index in shard]
        paths = [prediction_file(job.pictures, name) for name in names]
        if not all(map(is_saved, paths, pictures)):
            return None
    every = SparseConfusion(*(arrays[field] for field in SparseConfusion._fields))
    return Counts(separate(every, len(shard)), pictures)


def _count(
    jobs: Sequence[Job],
    segmenters: Sequence[Segmenter],
    shards: Sequence[range],
    options: RunOptions,
    progress: OnProgress,
) -> Iterator[list[Counts]]:
    """Yield the counts of each shard, per job; a shard is stored as soon as it is finished."""
    indices = [index for shard in shards for index in shard]
    # A few images per thread, since windows of several make up a batch; those of the next shard
    # are read while the last windows of one are encoded.
    images = prefetch(
        [[job.data.samples[index] for job in jobs] for index in indices],
        partial(load_together, protocols=[segmenter.protocol for segmenter in segmenters]),
        workers=options.workers,
        window=4 * options.workers,
    )
    done = 0
    for shard in shards:
        counts = [Counts([], []) for _ in jobs]
        for predictions in predict_together(segmenters, islice(images, len(shard))):
            for job, prediction, own in zip(jobs, predictions, counts, strict=True):
                n_classes, ignored = len(job.protocol.class_names), job.protocol.ignore_index
                found = confusion(prediction.image.label, prediction.classes, n_classes, ignored)
                own.confusions.append(pack([found]))
                own.pictures.append(_save(prediction, job))
            done += 1
            progress(Progress("images", done, len(indices)))
        for job, own in zip(jobs, counts, strict=True):
            pictures = np.array(own.pictures, "S64").view(np.uint8).reshape(-1, 64)
            arrays = {"pictures": pictures, **join(own.confusions)._asdict()}
            store_shard(job.store, shard, arrays)
        yield counts


def _save(prediction: Prediction, job: Job) -> str:
    """Save a label map where requested; return the SHA-256 of its file, or an empty text."""
    if job.pictures is None:
        return ""
    name, palette = prediction.image.sample.name, job.data.palette
    if job.overlays:
        path = job.pictures / "overlays" / f"{name}.jpg"
        save_overlay(path, prediction, job.protocol.class_names, palette)
    return save_label_map(prediction_file(job.pictures, name), prediction.classes, palette)
