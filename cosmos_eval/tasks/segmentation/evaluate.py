"""Segmentation of images for several protocols: encoded once, and counted for each protocol."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.folders import content_hash
from cosmos_eval.data.label_maps import Label, LabelMaps, Sample
from cosmos_eval.embedding.cache import Arrays, ShardStore
from cosmos_eval.models.encoder import DenseEncoder, Encoder
from cosmos_eval.models.maps import require_patches
from cosmos_eval.stats.estimates import Ints
from cosmos_eval.stats.sampling import SEED, cut_into_looks, random_order
from cosmos_eval.stats.segmentation import SparseConfusion, confusion, pack
from cosmos_eval.tasks import segmentation
from cosmos_eval.tasks.label_maps import (
    CONTENT,
    Joined,
    ShardedMeasurement,
    content_array,
    fingerprints,
    hash_contents,
    unfinished_store,
)
from cosmos_eval.tasks.ordered import OrderedMeasurement
from cosmos_eval.tasks.segmentation import inference, pictures, tuning
from cosmos_eval.tasks.segmentation.inference import LoadedImage, Segmenter
from cosmos_eval.types import (
    Attention,
    EncoderInfo,
    Measurement,
    OnProgress,
    RunOptions,
    Samples,
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

    Images are measured in shards. The pixel counts of finished shards are stored below the folder
    `options.unfinished`, so that an interrupted run can be resumed. They are removed after the last
    measurement was yielded.

    Args:
        encoder: The model.
        protocols: Data sets, and how they are measured. They have the same images, which a model
            sees in the same way.
        options: The options of the run. The batch size is the number of windows that are encoded
            together. If `save_predictions` is set, the predicted label maps are saved below this
            folder, in a folder per protocol: as PNG files with a palette, named like the images.
        progress: Called with the number of images that are measured.
        data: The images and label maps of each protocol, which were checked before.

    Raises UsageError for models without patches and for damaged images.
    """
    ordered_measurements = []
    for protocol, label_maps in zip(protocols, data, strict=True):
        ordered_measurements.append(
            OrderedLabelMaps(encoder, protocol, label_maps, options, progress)
        )
    # A run of one process that stopped when its answer was known has left shards in random order.
    has_one_process = options.distributed.world_size == 1
    if has_one_process and any(ordered.has_shards() for ordered in ordered_measurements):
        for ordered in ordered_measurements:
            yield ordered.resume()
            ordered.forget()
        return

    attention = options.attention or protocols[0].attention
    for protocol in protocols:
        _require_tuned_model(protocol, encoder.info)
    # An error in one process is raised in all of them.
    dense_encoder = options.distributed.synchronized(require_patches, encoder, attention)
    fitted_protocols = [inference.fit_to_model(protocol, dense_encoder) for protocol in protocols]
    jobs = options.distributed.synchronized(
        _make_jobs, dense_encoder, fitted_protocols, data, options
    )

    def make_segmenters() -> list[Segmenter]:
        """Encode the prompts of each protocol, and return its segmenter."""
        segmenters = []
        for protocol in fitted_protocols:
            segmenters.append(inference.make_segmenter(dense_encoder, protocol, options, progress))
        return segmenters

    counts_of_jobs, seconds = count_images(jobs, make_segmenters, options, progress)
    for job, counts in zip(jobs, counts_of_jobs, strict=True):
        yield _measurement(job, counts, options, seconds)
    for job in jobs:
        job.store.remove()


class OrderedLabelMaps(OrderedMeasurement):
    """Measures images with label maps in a random order, in shards of 32 as a usual run does.

    Finished shards are stored, so that a later run goes on in the same order, with the same shards.
    """

    def __init__(
        self,
        encoder: Encoder,
        protocol: SegmentationProtocol,
        data: LabelMaps,
        options: RunOptions,
        progress: OnProgress,
    ) -> None:
        """Prepare to measure. Nothing is read or encoded before it is needed.

        Args:
            encoder: The model.
            protocol: The data set, and how it is measured.
            data: The images and label maps, which were checked before.
            options: The options of the run.
            progress: Called with the number of images that are measured.
        """
        self._encoder = encoder
        self._protocol = protocol
        self._data = data
        self._options = options
        self._progress = progress
        self._started = perf_counter()
        # The arrays of all images so far, and the SHA-256s (n, 32) of their files, by shard.
        self._samples: list[Samples] = []
        self._contents: list[NDArray[np.uint8]] = []
        # The indices (n,) of these images.
        self._indices: list[Ints] = []

    def hashes(self) -> Mapping[str, str]:
        """Return the hashes that the result of a whole run records, by name."""
        contents = hash_contents(self._data.samples, self._options)
        return {"content": content_hash(contents), **self._hashes_of_names}

    @property
    def _hashes_of_names(self) -> dict[str, str]:
        """The hashes of the names of images and classes, the prompts and the constants."""
        protocol = self._job.protocol
        names = [sample.name for sample in self._data.samples]
        constants = segmentation.constants(protocol, self._attention)
        return fingerprints(protocol, names, constants)

    @property
    def _attention(self) -> Attention:
        """The form of attention of the last block."""
        return self._options.attention or self._protocol.attention

    @cached_property
    def _dense_encoder(self) -> DenseEncoder:
        """The model, as it encodes patches. Raises UsageError if it cannot."""
        _require_tuned_model(self._protocol, self._encoder.info)
        return require_patches(self._encoder, self._attention)

    @cached_property
    def _job(self) -> Job:
        """The job of the images in the order of the data set."""
        protocol = inference.fit_to_model(self._protocol, self._dense_encoder)
        (job,) = _make_jobs(self._dense_encoder, [protocol], [self._data], self._options)
        return job

    def _ordered_job(self, order: Ints) -> Job:
        """Return the job of the images in another order, which has a store of its own."""
        samples = tuple(self._data.samples[index] for index in order)
        data = self._data._replace(samples=samples)
        (job,) = _make_jobs(self._dense_encoder, [self._job.protocol], [data], self._options)
        return job

    @cached_property
    def _random_job(self) -> Job:
        """The job of the images in the random order of `--until decided`."""
        return self._ordered_job(random_order(len(self._data.samples), SEED))

    def has_shards(self) -> bool:
        """Return whether an earlier run has stored shards in random order."""
        if self._options.unfinished is None:
            return False
        return self._random_job.store.has_shards()

    def measure(self, shards: Sequence[Ints]) -> Iterator[Samples]:
        """Yield the arrays of one shard of images after the other.

        Args:
            shards: The indices of the images of each shard: 32, or fewer in the last one.
        """
        job = self._ordered_job(np.concatenate(shards))

        def make_segmenters() -> list[Segmenter]:
            """Encode the prompts, and return the segmenter."""
            segmenter = inference.make_segmenter(
                self._dense_encoder, job.protocol, self._options, self._progress
            )
            return [segmenter]

        counting = _Counting([job], make_segmenters, self._options, self._progress)
        measured_shards = counting.measure_in_turn()
        for indices, (places, (arrays,)) in zip(shards, measured_shards, strict=True):
            samples = {
                segmentation.NAME: np.array([job.data.samples[place].name for place in places]),
                **segmentation.class_arrays(job.protocol),
                "image": arrays["image"] - np.int32(places.start),
                "pair": arrays["pair"],
                "pixels": arrays["pixels"],
            }
            self._indices.append(indices)
            self._samples.append(samples)
            self._contents.append(arrays[CONTENT])
            yield samples

    def finish(self) -> Measurement:
        """Return the measurement of all images, in the order of the data set."""
        places = np.argsort(np.concatenate(self._indices))
        samples = segmentation.TASK.take(segmentation.TASK.join(self._samples), places)
        counts = {name: samples[name] for name in SparseConfusion._fields}
        counts[CONTENT] = np.concatenate(self._contents)[places]
        seconds = {"images": perf_counter() - self._started}
        return _measurement(self._job, counts, self._options, seconds)

    def resume(self) -> Measurement:
        """Measure the images that an earlier run has not measured, and return the measurement."""
        order = random_order(len(self._data.samples), SEED)
        for _ in self.measure(cut_into_looks(order)):
            pass  # `finish` joins the shards
        return self.finish()

    def forget(self) -> None:
        """Remove the stored shards, since the result is stored."""
        self._random_job.store.remove()


def _require_tuned_model(protocol: SegmentationProtocol, info: EncoderInfo) -> None:
    """Raise UsageError if a protocol was tuned for another state of the model.

    The state of a model are its weights and its code. A protocol that was tuned for a model with
    another name is allowed.

    Args:
        protocol: The protocol. If it was tuned, it records the model that it was tuned for.
        info: The description of the model that is measured.
    """
    if protocol.tuned is None:
        return
    tuned_model = protocol.tuned["model"]
    has_same_name = tuned_model.get("spec") == info.spec
    has_same_state = tuned_model == tuning.model_record(info)
    if has_same_name and not has_same_state:
        raise UsageError(f"the settings were chosen for another state of {info.spec}: tune again")


def _make_jobs(
    encoder: Encoder,
    protocols: Sequence[SegmentationProtocol],
    data: Sequence[LabelMaps],
    options: RunOptions,
) -> list[Job]:
    """Return the job of each protocol: its images, and where its results are stored.

    Args:
        encoder: The model.
        protocols: The protocols that are measured.
        data: The images and label maps of each protocol.
        options: The options of the run. Predicted label maps are saved in a folder of the protocol
            below `save_predictions`, unless that is None.
    """
    jobs = []
    for protocol, label_maps in zip(protocols, data, strict=True):
        picture_folder = None
        if options.save_predictions:
            # With an auxiliary encoder, the name of the model's folder states the attention.
            attention = None if options.auxiliary else options.attention
            model_folder = Path(options.save_predictions)
            picture_folder = pictures.predictions_folder(model_folder, protocol, attention)
        store = unfinished_store(encoder.info, protocol, options, label_maps.samples)
        jobs.append(Job(protocol, label_maps, store, picture_folder, options.overlays))
    return jobs


def _measurement(
    job: Job, counts: Joined, options: RunOptions, seconds: Mapping[str, float]
) -> Measurement:
    """Compute the metrics of a job from its confusion counts, and return the measurement.

    Args:
        job: The protocol and its images.
        counts: The fields of `SparseConfusion`, by name, and the array `content` of hashes.
        options: The options of the run.
        seconds: The seconds that each phase took, by its name.

    Raises UsageError if no pixel of any image is labelled.
    """
    protocol = job.protocol
    if not counts["pixels"].any():
        raise UsageError(f"{protocol.dataset}: no pixel of any image has a label to compare with")
    names = [sample.name for sample in job.data.samples]
    content = content_hash(counts.pop(CONTENT))
    constants = segmentation.constants(protocol, options.attention or protocol.attention)
    samples = {
        segmentation.NAME: np.array(names),
        **segmentation.class_arrays(protocol),
        **counts,
    }
    return segmentation.TASK.measurement(
        samples,
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
    """Segment all images, and count their pixels by label and predicted class, for every job.

    Args:
        jobs: The protocols that are measured, with the same images.
        make_segmenters: A function that returns the segmenter of each job. It is not called if an
            earlier run has stored the counts of all images.
        options: The options of the run.
        progress: Called with the number of images that are measured.

    Returns:
        For each job, the fields of `SparseConfusion`, by name, and the array `content` with a hash
        of the files of each image, which are the same in all processes; and the seconds of each
        phase by its name.

    Raises UsageError for damaged images.
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
        """Prepare to count. The prompts are encoded later, by `prepare`.

        Args:
            jobs: The protocols that are measured, with the same images.
            make_segmenters: A function that returns the segmenter of each job.
            options: The options of the run.
            progress: Called with the number of images that are measured.
        """
        # An item for each image: its samples for all jobs.
        samples_of_images = list(zip(*(job.data.samples for job in jobs), strict=True))
        super().__init__([job.store for job in jobs], samples_of_images, options, progress)
        self._jobs = jobs
        self._make_segmenters = make_segmenters
        self._segmenters: Sequence[Segmenter] = ()

    def prepare(self) -> None:
        """Make the segmenters, for which prompts are encoded."""
        self._segmenters = self._make_segmenters()

    def load(self, samples: Sequence[Sample]) -> list[LoadedImage]:
        """Read an image, and the label map that each job has of it."""
        protocols = [job.protocol for job in self._jobs]
        return inference.load_together(samples, protocols, self._options.memory)

    def samples_of(self, item: Sequence[Sample]) -> Sequence[Sample]:
        """Return the samples of an image, one for each job."""
        return item

    def is_valid(self, shard: range, arrays: Sequence[Arrays]) -> bool:
        """Return whether all predicted label maps of a shard are on disk as they were saved.

        If a file is missing or was changed, the shard is measured again.

        Args:
            shard: The indices of the images.
            arrays: The stored arrays of the shard for every job, with the hashes of the files.
        """
        for job, arrays_of_job in zip(self._jobs, arrays, strict=True):
            if job.pictures is None:  # label maps are not saved
                continue
            for index, sha256 in zip(shard, arrays_of_job[_PICTURES], strict=True):
                name = job.data.samples[index].name
                if not pictures.is_saved(job.pictures, name, sha256.tobytes()):
                    return False
        return True

    def measure_shard(self, shard: range, images: Iterator[list[LoadedImage]]) -> list[Arrays]:
        """Segment the images of a shard, and count their pixels for every job.

        Predicted label maps are saved on the way if the user has asked for them.

        Args:
            shard: The indices of the images in the data set.
            images: Each image, with the label map of every job.

        Returns:
            For every job, the arrays of the shard by name.
        """
        counted_images_of_jobs: list[list[_CountedImage]] = [[] for _ in self._jobs]
        for predictions in inference.predict_together(self._segmenters, images):
            for index, (image, classes) in enumerate(predictions):
                counted_image = _count_and_save(image, classes, self._jobs[index])
                counted_images_of_jobs[index].append(counted_image)
            self.image_done()
        arrays_of_jobs = []
        for counted_images in counted_images_of_jobs:
            arrays_of_jobs.append(_join_counted_images(shard, counted_images))
        return arrays_of_jobs


class _CountedImage(NamedTuple):
    """The pixels of one image, counted by label and prediction, and hashes of its files."""

    counts: SparseConfusion
    # The SHA-256 of the saved label map, or 32 zero bytes if it is not saved.
    picture_sha256: bytes
    # The SHA-256 of the image with its label map.
    content_sha256: bytes


def _count_and_save(image: LoadedImage, classes: Label, job: Job) -> _CountedImage:
    """Count the pixels of an image by label and prediction, and save the files that a job requests.

    The files are the predicted label map, and a picture of it beside the image.

    Args:
        image: The image with the label map of the job.
        classes: The predicted class (H, W) of each pixel.
        job: The protocol, and the folder for the files.
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

    Args:
        shard: The indices of the images in the data set.
        counted_images: The images of the shard.

    Returns:
        The fields of `SparseConfusion`, and the hashes of each image's files, by name.
    """
    # Every image was counted on its own, so that its counts have the image index 0. Replace it by
    # the index in the data set.
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
