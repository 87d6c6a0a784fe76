"""One pass over the images of protocols that see them alike: encoded once, counted for each.

A shard is a fixed number of consecutive images, whose windows no batch mixes with those of others:
neither the number of processes nor a resumed run changes what is encoded together, so that counts
stay the same to the pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from cosmos_eval.embed import ahead
from cosmos_eval.metrics.segmentation import SparseConfusion, confusion, pack
from cosmos_eval.tasks.segmentation._data import SegmentationData, prediction_file
from cosmos_eval.tasks.segmentation._images import load_together
from cosmos_eval.tasks.segmentation._inference import Prediction, Segmenter, predict_together
from cosmos_eval.tasks.segmentation._partial import Counts, DamagedError, Kept
from cosmos_eval.tasks.segmentation._pictures import is_saved, save_label_map, save_overlay
from cosmos_eval.types import OnProgress, Progress, RunOptions, SegmentationProtocol

# Images of a shard: what a killed run loses at most, and what processes are dealt at once.
SHARD = 32


class Job(NamedTuple):
    """A protocol of a pass, its data, where its finished shards and its label maps are kept.

    `overlays`: whether pictures of image, truth and prediction are drawn beside the label maps.
    """

    protocol: SegmentationProtocol
    data: SegmentationData
    kept: Kept
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
    shards = _shards(len(jobs[0].data.samples))
    found = _finished(jobs, shards, options, progress)
    left = [shard for shard in shards if shard not in found]
    if left:
        segmenters = make_segmenters()
        done = sum(map(len, found))

        def count(own: Sequence[range]) -> list[list[Counts]]:
            return list(_count(jobs, segmenters, own, options, _ahead_by(done, progress)))

        found.update(zip(left, options.share.spread(count, left), strict=True))
    return [
        [one for shard in shards for one in found[shard][number].confusions]
        for number in range(len(jobs))
    ]


def _shards(n_images: int) -> list[range]:
    return [range(n_images)[start : start + SHARD] for start in range(0, n_images, SHARD)]


def _finished(
    jobs: Sequence[Job], shards: Sequence[range], options: RunOptions, progress: OnProgress
) -> dict[range, list[Counts]]:
    """The counts, a job each, of the shards that a former run finished for all jobs."""
    looked = options.share.spread(lambda own: [_look(jobs, shard) for shard in own], shards)
    found = {
        shard: counts
        for shard, counts in zip(shards, looked, strict=True)
        if not isinstance(counts, str) and counts is not None
    }
    done, total = sum(map(len, found)), len(jobs[0].data.samples)
    for path in looked:
        if isinstance(path, str):
            note = f"warning: {path} is damaged, its images are measured again"
            progress(Progress("images", done, total, note))
    if done:
        note = f"resumed: {done:,} of {total:,} images were measured already"
        progress(Progress("images", done, total, note))
    return found


def _look(jobs: Sequence[Job], shard: range) -> list[Counts] | str | None:
    """What is kept of a shard for all jobs, the path of a damaged file, or nothing."""
    try:
        counts = [job.kept.read(shard) for job in jobs]
    except DamagedError as damaged:
        return str(damaged)
    whole = [one for job, one in zip(jobs, counts, strict=True) if one and _has(job, shard, one)]
    return whole if len(whole) == len(jobs) else None


def _has(job: Job, shard: range, counts: Counts) -> bool:
    """Whether the label maps of a shard, where they are wanted, are there as they were saved."""
    if job.pictures is None:
        return True
    paths = [prediction_file(job.pictures, job.data.samples[number].name) for number in shard]
    return all(map(is_saved, paths, counts.pictures))


def _ahead_by(done: int, progress: OnProgress) -> OnProgress:
    """Progress over what is left, told as progress over everything."""
    return lambda step: progress(step._replace(done=step.done + done, total=step.total + done))


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
    images = ahead(
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
            job.kept.write(shard, own)
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
