"""One pass over the images of protocols that see them alike: encoded once, counted for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.embedding.cache import Arrays, Report, ShardStore
from cosmos_eval.stats.segmentation import SparseConfusion, confusion, join, pack, separate
from cosmos_eval.tasks.label_maps import LabelMaps
from cosmos_eval.tasks.label_maps.measure import Work, in_shards, store_shard, stored_shards
from cosmos_eval.tasks.segmentation.images import load_together
from cosmos_eval.tasks.segmentation.inference import Prediction, Segmenter, predict_together
from cosmos_eval.tasks.segmentation.pictures import is_saved, save_label_map, save_overlay
from cosmos_eval.tasks.segmentation.saved import prediction_file
from cosmos_eval.types import OnProgress, Progress, RunOptions, SegmentationProtocol


class Counts(NamedTuple):
    """Confusion counts of the images of a shard, and the SHA-256 of their saved label maps.

    The latter is empty for an image whose label map was not saved.
    """

    confusions: list[SparseConfusion]
    pictures: list[str]


class Job(NamedTuple):
    """A protocol, its data, the store of its finished shards and the folder of its label maps.

    `overlays`: whether pictures of image, truth and prediction are drawn beside the label maps.
    """

    protocol: SegmentationProtocol
    data: LabelMaps
    store: ShardStore
    pictures: Path | None
    overlays: bool = False


def count_images(
    jobs: Sequence[Job],
    make_segmenters: Callable[[], Sequence[Segmenter]],
    options: RunOptions,
    progress: OnProgress,
) -> list[list[SparseConfusion]]:
    """Confusion counts of every image, in order, for every job; in all processes.

    The segmenters, one a job, are made where there is anything left to count. Raises UsageError
    for an image that cannot be used and where files cannot be written.
    """
    found = in_shards(
        len(jobs[0].data.samples),
        partial(_find, jobs),
        lambda: _counting(jobs, make_segmenters(), options),
        options,
        progress,
    )
    return [
        [one for counts in found for one in counts[number].confusions]
        for number in range(len(jobs))
    ]


def _counting(
    jobs: Sequence[Job], segmenters: Sequence[Segmenter], options: RunOptions
) -> Work[list[Counts]]:
    return lambda own, progress: list(_count(jobs, segmenters, own, options, progress))


def _find(
    jobs: Sequence[Job], shards: Sequence[range], report: Report
) -> list[list[Counts] | None]:
    """Return the stored counts of each shard, None where those of a job are missing."""
    stored = [stored_shards(job.store, shards, report) for job in jobs]
    found: list[list[Counts] | None] = []
    for number, shard in enumerate(shards):
        counts = [_counts(job, shard, own[number]) for job, own in zip(jobs, stored, strict=True)]
        whole = [one for one in counts if one is not None]
        found.append(whole if len(whole) == len(jobs) else None)
    return found


def _counts(job: Job, shard: range, arrays: Arrays | None) -> Counts | None:
    if arrays is None:
        return None
    pictures = [digest.decode() for digest in arrays["pictures"].view("S64").ravel().tolist()]
    every = SparseConfusion(*(arrays[field] for field in SparseConfusion._fields))
    counts = Counts(separate(every, len(shard)), pictures)
    return counts if _has(job, shard, counts) else None


def _arrays(counts: Counts) -> Arrays:
    pictures = np.array(counts.pictures, "S64").view(np.uint8).reshape(-1, 64)
    return {"pictures": pictures, **join(counts.confusions)._asdict()}


def _has(job: Job, shard: range, counts: Counts) -> bool:
    """Whether the label maps of a shard, where they are wanted, are there as they were saved."""
    if job.pictures is None:
        return True
    paths = [prediction_file(job.pictures, job.data.samples[number].name) for number in shard]
    return all(map(is_saved, paths, counts.pictures))


def _count(
    jobs: Sequence[Job],
    segmenters: Sequence[Segmenter],
    shards: Sequence[range],
    options: RunOptions,
    progress: OnProgress,
) -> Iterator[list[Counts]]:
    """Counts of the shards, a job each; every shard is kept as soon as it is finished."""
    numbers = [number for shard in shards for number in shard]
    # A few images a thread, since windows of several make up a batch; those of the next shard are
    # read while the last windows of one are encoded.
    images = prefetch(
        [[job.data.samples[number] for job in jobs] for number in numbers],
        partial(load_together, protocols=[segmenter.protocol for segmenter in segmenters]),
        workers=options.workers,
        window=4 * options.workers,
    )
    done = 0
    for shard in shards:
        counts = [Counts([], []) for _ in jobs]
        for predictions in predict_together(segmenters, islice(images, len(shard))):
            for job, prediction, own in zip(jobs, predictions, counts, strict=True):
                own.confusions.append(_confusion(prediction, job.protocol))
                own.pictures.append(_save(prediction, job))
            done += 1
            progress(Progress("images", done, len(numbers)))
        for job, own in zip(jobs, counts, strict=True):
            store_shard(job.store, shard, _arrays(own))
        yield counts


def _confusion(prediction: Prediction, protocol: SegmentationProtocol) -> SparseConfusion:
    return pack(
        [
            confusion(
                prediction.image.label,
                prediction.classes,
                len(protocol.class_names),
                protocol.ignore_index,
            )
        ]
    )


def _save(prediction: Prediction, job: Job) -> str:
    """Save a label map where that is wanted; its file's SHA-256, or nothing."""
    if job.pictures is None:
        return ""
    sample = prediction.image.sample
    path = prediction_file(job.pictures, sample.name)
    if job.overlays:
        names, colours = job.protocol.class_names, job.data.palette
        save_overlay(job.pictures / "overlays" / f"{sample.name}.jpg", prediction, names, colours)
    return save_label_map(path, prediction.classes, job.data.palette)
