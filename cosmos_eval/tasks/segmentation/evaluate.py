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
    """Segment the images of a data set, and yield the measurement of each protocol.

    All protocols have the same images, and a model sees them in the same way. `data` holds the
    images and label maps of each protocol, which were checked before. `options.batch_size` is the
    number of windows that are encoded together.

    If `options.save_predictions` is set, the predicted label maps are saved below this folder, in
    a folder per protocol: as PNG files with a palette, named like the images. Images are measured
    in shards. The counts of finished shards are stored below `options.unfinished`, so that an
    interrupted run can be resumed. They are removed after the last measurement was yielded. Raises
    UsageError for models without patches and for damaged images.
    """
    synchronized = options.distributed.synchronized
    attention = options.attention or protocols[0].attention
    for protocol in protocols:
        _require_tuned_model(protocol, encoder.info)
    dense = synchronized(lambda: require_patches(encoder, attention))
    fitted_protocols = [inference.fit_to_model(protocol, dense) for protocol in protocols]

    def make_jobs() -> list[Job]:
        """Return the job of each protocol."""
        return [
            _make_job(dense, protocol, label_maps, options)
            for protocol, label_maps in zip(fitted_protocols, data, strict=True)
        ]

    def make_segmenters() -> list[Segmenter]:
        """Encode the prompts of each protocol, and return its segmenter."""
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
    """Raise UsageError if a protocol was tuned for a model of the same name with other weights.

    Other code of the model counts as well. Tuned settings of a model with another name are allowed:
    their protocol has a name of its own.
    """
    if protocol.tuned is None:
        return
    tuned_model = protocol.tuned["model"]
    has_same_name = tuned_model.get("spec") == info.spec
    if has_same_name and tuned_model != tuning.model_record(info):
        raise UsageError(f"the settings were chosen for another state of {info.spec}: tune again")


def _make_job(
    encoder: Encoder, protocol: SegmentationProtocol, data: LabelMaps, options: RunOptions
) -> Job:
    """Return the job of a protocol: its images, its store of finished shards, and its folder.

    The folder is for predicted label maps, and lies below `options.save_predictions`. Without this
    option, it is None.
    """
    picture_folder = None
    if options.save_predictions:
        # With an auxiliary encoder, the name of the model's folder states the attention.
        attention = None if options.auxiliary else options.attention
        model_folder = Path(options.save_predictions)
        picture_folder = pictures.predictions_folder(model_folder, protocol, attention)
    store = unfinished_store(encoder.info, protocol, options, data.samples)
    return Job(protocol, data, store, picture_folder, options.overlays)


def _measurement(
    job: Job, counts: Joined, options: RunOptions, seconds: Mapping[str, float]
) -> Measurement:
    """Compute the metrics of a job from its confusion counts, and return the measurement.

    `counts` holds the fields of `SparseConfusion` and the array CONTENT, by name. `seconds` holds
    the time that each phase took. Raises UsageError if no pixel of any image is labelled.
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
    """Segment all images, and return the confusion counts for every job, and seconds by phase.

    The counts of a job are the fields of `SparseConfusion` by name, and the array CONTENT with
    hashes of the files. All processes return the same. `make_segmenters` returns the segmenter of
    each job. It is not called if the counts of all images were stored by an earlier run. Raises
    UsageError for damaged images.
    """
    counts_of_jobs, seconds = _Counting(jobs, make_segmenters, options, progress).run()
    for counts in counts_of_jobs:
        del counts[_PICTURES]
    return counts_of_jobs, seconds


class _Counting(ShardedMeasurement[Sequence[Sample], list[LoadedImage]]):
    """Counts the pixels of all images by label and predicted class, for every job.

    The base class hands out the images shard by shard. An item is a list with a sample for every
    job: always the same image, each with the label map of the job.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        make_segmenters: Callable[[], Sequence[Segmenter]],
        options: RunOptions,
        progress: OnProgress,
    ) -> None:
        """All jobs have the same images. `make_segmenters` returns a segmenter for each job."""
        samples = list(zip(*(job.data.samples for job in jobs), strict=True))
        super().__init__([job.store for job in jobs], samples, options, progress)
        self._jobs = jobs
        self._make_segmenters = make_segmenters
        self._segmenters: Sequence[Segmenter] = ()

    def prepare(self) -> None:
        """Make the segmenters, for which prompts are encoded."""
        self._segmenters = self._make_segmenters()

    def load(self, samples: Sequence[Sample]) -> list[LoadedImage]:
        """Read an image, and the label map of every job."""
        return inference.load_together(samples, [job.protocol for job in self._jobs])

    def is_valid(self, shard: range, arrays: Sequence[Arrays]) -> bool:
        """Return whether all label maps of a shard are on disk as they were saved.

        `arrays` holds the stored arrays of the shard for every job. If a file is missing or was
        changed, the shard is measured again.
        """
        for job, arrays_of_job in zip(self._jobs, arrays, strict=True):
            if job.pictures is None:
                continue
            for index, sha256 in zip(shard, arrays_of_job[_PICTURES], strict=True):
                name = job.data.samples[index].name
                if not pictures.is_saved(job.pictures, name, sha256.tobytes()):
                    return False
        return True

    def measure_shard(self, shard: range, images: Iterator[list[LoadedImage]]) -> list[Arrays]:
        """Segment the images of a shard, and return their counts for every job.

        Label maps are saved on the way if they are requested.
        """
        counted_images_of_jobs: list[list[_CountedImage]] = [[] for _ in self._jobs]
        for predictions in inference.predict_together(self._segmenters, images):
            for index, (image, classes) in enumerate(predictions):
                counted_image = _count_and_save(image, classes, self._jobs[index])
                counted_images_of_jobs[index].append(counted_image)
            self.image_done()
        return [
            _join_counted_images(shard, counted_images) for counted_images in counted_images_of_jobs
        ]


class _CountedImage(NamedTuple):
    """The pixels of one image, counted by label and prediction, and hashes of its files."""

    counts: SparseConfusion
    # The SHA-256 of the saved label map, or 32 zero bytes if it is not saved.
    picture_sha256: bytes
    # The SHA-256 of the image with its label map.
    content_sha256: bytes


def _count_and_save(image: LoadedImage, classes: Label, job: Job) -> _CountedImage:
    """Count the pixels of an image by label and prediction, and save the files that a job requests.

    `classes` (H, W) are the predictions. The files are the predicted label map, and a picture of it
    beside the image.
    """
    protocol = job.protocol
    counts = confusion(image.label, classes, len(protocol.class_names), protocol.ignore_index)
    picture_sha256 = bytes(32)
    if job.pictures is not None:
        name, palette = image.sample.name, job.data.palette
        if job.overlays:
            overlay_path = job.pictures / "overlays" / f"{name}.jpg"
            pictures.save_overlay(overlay_path, image, classes, protocol.class_names, palette)
        path = pictures.prediction_file(job.pictures, name)
        picture_sha256 = pictures.save_label_map(path, classes, palette)
    return _CountedImage(pack([counts]), picture_sha256, image.sha256)


def _join_counted_images(shard: range, counted_images: Sequence[_CountedImage]) -> Arrays:
    """Join the counts and hashes of the images of a shard to the arrays that are stored.

    `shard` holds the indices of the images in the data set. The counts of each image have the image
    index 0, which is replaced by its index in the data set.
    """
    image_indices = []
    for index, counted_image in zip(shard, counted_images, strict=True):
        image_indices.append(counted_image.counts.image + np.int32(index))
    joined_counts = SparseConfusion(
        image=np.concatenate(image_indices),
        pair=np.concatenate([counted.counts.pair for counted in counted_images]),
        pixels=np.concatenate([counted.counts.pixels for counted in counted_images]),
    )
    return {
        _PICTURES: content_array([counted.picture_sha256 for counted in counted_images]),
        CONTENT: content_array([counted.content_sha256 for counted in counted_images]),
        **joined_counts._asdict(),
    }
