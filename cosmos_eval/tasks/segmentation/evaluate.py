"""Segmentation of images for several protocols: encoded once, and counted for each protocol."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cosmos_eval.data.folders import content_hash
from cosmos_eval.data.label_maps import Label, LabelMaps, Sample
from cosmos_eval.embedding.cache import Arrays, ShardStore
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.models.maps import require_patches
from cosmos_eval.stats.segmentation import SparseConfusion, confusion, pack
from cosmos_eval.tasks import segmentation
from cosmos_eval.tasks.label_maps import (
    CONTENT,
    Joined,
    ShardedMeasurement,
    content_array,
    fingerprints,
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

_PICTURES = "pictures"  # (N, 32) SHA-256 of saved label maps, zeros for images without one


class Job(NamedTuple):
    """A protocol that is measured, and where its label maps and finished shards are stored."""

    protocol: SegmentationProtocol
    data: LabelMaps
    store: ShardStore
    # The folder for predicted label maps; None: they are not saved.
    pictures: Path | None
    # Whether label maps are also drawn over the images.
    overlays: bool = False


def measure_data(
    encoder: Encoder,
    protocols: Sequence[SegmentationProtocol],
    options: RunOptions,
    progress: OnProgress,
    data: Sequence[LabelMaps],
) -> Iterator[Measurement]:
    """Yield a measurement per protocol, of checked data; `options.batch_size` counts windows.

    Predictions are palette PNG files named like the images, in a folder per protocol below
    `options.save_predictions`. Finished shards are stored below `options.unfinished` until the
    iterator is resumed after the last measurement. Raises UsageError for models without patches and
    for damaged images.
    """
    synchronized = options.distributed.synchronized
    attention = options.attention or protocols[0].attention
    for protocol in protocols:
        _require_tuned_model(protocol, encoder.info)
    dense = synchronized(lambda: require_patches(encoder, attention))
    fitted_protocols = [inference.fit_to_model(protocol, dense) for protocol in protocols]

    def make_jobs() -> list[Job]:
        return [
            _make_job(dense, protocol, label_maps, options)
            for protocol, label_maps in zip(fitted_protocols, data, strict=True)
        ]

    def make_segmenters() -> list[Segmenter]:
        return [
            inference.make_segmenter(dense, protocol, options, progress)
            for protocol in fitted_protocols
        ]

    jobs = synchronized(make_jobs)
    counts_of_jobs, seconds = count_images(jobs, make_segmenters, options, progress)
    for job, counts in zip(jobs, counts_of_jobs, strict=True):
        yield _measurement(job, counts, options, seconds)
    for job in jobs:
        job.store.remove()


def _require_tuned_model(protocol: SegmentationProtocol, info: EncoderInfo) -> None:
    """Raise UsageError for settings that were tuned for other weights or code of the same name."""
    if protocol.tuned is None:
        return
    tuned_model = protocol.tuned["model"]
    if tuned_model.get("spec") == info.spec and tuned_model != tuning.model_record(info):
        raise UsageError(f"the settings were chosen for another state of {info.spec}: tune again")


def _make_job(
    encoder: Encoder, protocol: SegmentationProtocol, data: LabelMaps, options: RunOptions
) -> Job:
    """Return the job of a protocol, with its stores below the folders of the options."""
    folder = None
    if options.save_predictions:
        # With an auxiliary encoder, the name of the model's folder states the attention.
        attention = None if options.auxiliary else options.attention
        folder = pictures.predictions_folder(Path(options.save_predictions), protocol, attention)
    store = unfinished_store(encoder.info, protocol, options, data.samples)
    return Job(protocol, data, store, folder, options.overlays)


def _measurement(
    job: Job, counts: Joined, options: RunOptions, seconds: Mapping[str, float]
) -> Measurement:
    """Return the measurement of a job from its counts.

    Raises UsageError if no pixel of any image is labelled.
    """
    protocol = job.protocol
    if not counts["pixels"].any():
        raise UsageError(f"{protocol.dataset}: no pixel of any image has a label to compare with")
    names = [sample.name for sample in job.data.samples]
    content = content_hash(counts.pop(CONTENT))
    constants = segmentation.constants(protocol, options.attention or protocol.attention)
    return segmentation.TASK.measurement(
        {segmentation.NAME: np.array(names), **segmentation.class_arrays(protocol), **counts},
        options,
        content=content,
        hashes=fingerprints(protocol, names, constants),
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
    """Return the confusion counts of all images for every job, and seconds by phase.

    The counts come with the array CONTENT, and are the same in all processes. The segmenters, one
    per job, are made if any image is left to count. Raises UsageError for damaged images.
    """
    counts_of_jobs, seconds = _Counting(jobs, make_segmenters, options, progress).run()
    for counts in counts_of_jobs:
        del counts[_PICTURES]
    return counts_of_jobs, seconds


class _Counting(ShardedMeasurement[Sequence[Sample], list[LoadedImage]]):
    """The pixels of all images, counted by label and prediction for every job.

    An item is the sample of an image for every job: the same image, with different label maps.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        make_segmenters: Callable[[], Sequence[Segmenter]],
        options: RunOptions,
        progress: OnProgress,
    ) -> None:
        samples = list(zip(*(job.data.samples for job in jobs), strict=True))
        super().__init__([job.store for job in jobs], samples, options, progress)
        self._jobs = jobs
        self._make_segmenters = make_segmenters
        self._segmenters: Sequence[Segmenter] = ()

    def prepare(self) -> None:
        self._segmenters = self._make_segmenters()

    def load(self, sample: Sequence[Sample]) -> list[LoadedImage]:
        return inference.load_together(sample, [job.protocol for job in self._jobs])

    def is_valid(self, shard: range, arrays: Sequence[Arrays]) -> bool:
        """Return whether all label maps of a shard are on disk as they were saved."""
        for job, arrays_of_job in zip(self._jobs, arrays, strict=True):
            if job.pictures is None:
                continue
            for index, digest in zip(shard, arrays_of_job[_PICTURES], strict=True):
                name = job.data.samples[index].name
                if not pictures.is_saved(job.pictures, name, digest.tobytes()):
                    return False
        return True

    def measure_shard(self, shard: range, images: Iterator[list[LoadedImage]]) -> list[Arrays]:
        """Segment the images of a shard, and return their counts for every job."""
        counted_images_of_jobs: list[list[_CountedImage]] = [[] for _ in self._jobs]
        for predictions in inference.predict_together(self._segmenters, images):
            for counted_images, job, (image, classes) in zip(
                counted_images_of_jobs, self._jobs, predictions, strict=True
            ):
                counted_images.append(_count_image(image, classes, job))
            self.image_done()
        return [
            _arrays_of_shard(shard, counted_images) for counted_images in counted_images_of_jobs
        ]


class _CountedImage(NamedTuple):
    """The counts of one image, and the SHA-256s of its saved label map and of its files."""

    counts: SparseConfusion
    picture_sha256: bytes
    content_sha256: bytes


def _count_image(image: LoadedImage, classes: Label, job: Job) -> _CountedImage:
    """Count the pixels of an image by label and prediction, and save its label map if requested."""
    counts = confusion(
        image.label, classes, len(job.protocol.class_names), job.protocol.ignore_index
    )
    return _CountedImage(pack([counts]), _save_pictures(image, classes, job), image.sha256)


def _arrays_of_shard(shard: range, counted_images: Sequence[_CountedImage]) -> Arrays:
    """Return the arrays of a shard, in which images have their index in the data set."""
    confusions = []
    for index, counted in zip(shard, counted_images, strict=True):
        # The counts of a single image have the image index 0.
        image_indices = counted.counts.image + np.int32(index)
        confusions.append(counted.counts._replace(image=image_indices))
    joined = SparseConfusion(*(np.concatenate(arrays) for arrays in zip(*confusions, strict=True)))
    return {
        _PICTURES: content_array([counted.picture_sha256 for counted in counted_images]),
        CONTENT: content_array([counted.content_sha256 for counted in counted_images]),
        **joined._asdict(),
    }


def _save_pictures(image: LoadedImage, classes: Label, job: Job) -> bytes:
    """Save the label map of an image, and the picture of it over the image, as the job requests.

    Returns the SHA-256 of the label map's file, or 32 zero bytes if none is saved.
    """
    if job.pictures is None:
        return bytes(32)
    name, palette = image.sample.name, job.data.palette
    if job.overlays:
        path = job.pictures / "overlays" / f"{name}.jpg"
        pictures.save_overlay(path, image, classes, job.protocol.class_names, palette)
    return pictures.save_label_map(pictures.prediction_file(job.pictures, name), classes, palette)
