"""Measurements of data sets with label maps: shards of images, batches of patches, and hashes.

Images of a shard are never encoded with images of another one: neither the number of processes nor
a resumed run changes a batch or a bit of the results. Finished shards are stored until the result
is stored.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from time import perf_counter
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data import folders
from cosmos_eval.data.label_maps import Sample
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.readers import FileError, read_bytes
from cosmos_eval.embedding.cache import Arrays, ShardStore, fingerprint
from cosmos_eval.models.encoder import DenseEncoder
from cosmos_eval.tasks.prompts import resolve_templates
from cosmos_eval.types import (
    EncoderInfo,
    LabelMapProtocol,
    OnProgress,
    Progress,
    Protocol,
    RunOptions,
    UsageError,
)

IMAGES_PER_SHARD = 32
CONTENT = "content"
"""Name of the array (N, 32) of a shard: the SHA-256 of every image with its label map."""

# Patches that a CPU encodes at once: eight windows of 224 pixels in patches of 16. More patches
# take more memory, and longer, since they leave the caches of the CPU.
_CPU_PATCHES = 8 * 14 * 14

Item = TypeVar("Item")
Image = TypeVar("Image")
Joined = dict[str, NDArray[Any]]
"""Arrays of all images by name."""


class ShardedMeasurement(ABC, Generic[Item, Image]):
    """Measures all images of a data set in shards of 32, so that a killed run can be resumed.

    A subclass says how an image is loaded, and how a shard of loaded images is measured. The arrays
    of a shard are stored as soon as they are computed, and read again by a resumed run.
    """

    def __init__(
        self,
        stores: Sequence[ShardStore],
        samples: Sequence[Item],
        options: RunOptions,
        progress: OnProgress,
    ) -> None:
        """Prepare to measure. Nothing is read before `run` is called.

        Args:
            stores: The stores of finished shards, one for each protocol that is measured.
            samples: One item per image of the data set. The subclass decides its type.
            options: The options of the run: its processes, and the threads that load images.
            progress: Called with the number of images that are measured.
        """
        self._stores = stores
        self._samples = samples
        self._options = options
        self._progress = progress
        # Numbers of images, for the progress.
        self._n_done = 0
        self._n_total = 0

    @abstractmethod
    def prepare(self) -> None:
        """Encode the prompts.

        It is called once in every process, before the first shard, if any shard must be measured.
        """

    @abstractmethod
    def load(self, sample: Item) -> Image:
        """Read the files of a sample. Raises UsageError for a file that cannot be used."""

    @abstractmethod
    def measure_shard(self, shard: range, images: Iterator[Image]) -> Sequence[Arrays]:
        """Measure the images of a shard.

        A subclass calls `image_done` after each image.

        Args:
            shard: The indices of the images in the data set.
            images: The loaded images.

        Returns:
            For each store, the arrays of the shard by name.
        """

    @abstractmethod
    def samples_of(self, item: Item) -> Sequence[Sample]:
        """Return for each store the sample of an image: its files, as the protocol reads them."""

    def is_valid(self, shard: range, arrays: Sequence[Arrays]) -> bool:
        """Return whether stored arrays of a shard can be used again. By default, they can.

        `shard` holds the indices of the images, and `arrays` the shard's arrays for each store.
        """
        return True

    def image_done(self) -> None:
        """Report progress: one more image was measured."""
        self._n_done += 1
        self._progress(Progress("images", self._n_done, self._n_total))

    def run(self) -> tuple[list[Joined], dict[str, float]]:
        """Measure all images, or read what an earlier run has stored.

        Shards that an earlier run stored are used again if they are valid. The other shards are
        divided among the processes, and each process measures and stores its own.

        Returns:
            For each store, the arrays of all images by name, which are the same in all processes;
            and the seconds that each phase took.

        Raises UsageError for files that cannot be used.
        """
        started = perf_counter()
        n_images = len(self._samples)
        shards = self._cut_into_shards()

        # Read the stored shards. The entry of a shard that must be measured is None.
        distributed = self._options.distributed
        arrays_of_shards = distributed.map_sharded(self._read_stored, shards)
        missing_shards = []
        for shard, arrays in zip(shards, arrays_of_shards, strict=True):
            if arrays is None:
                missing_shards.append(shard)
        self._n_done = n_images - sum(len(shard) for shard in missing_shards)
        if self._n_done:
            self._report_resumed()

        # Measure the missing shards, and put their arrays in the places of the Nones.
        if missing_shards:
            self.prepare()
        prepared = perf_counter()
        measured_shards = iter(distributed.map_sharded(self._measure, missing_shards))
        all_shards: list[Sequence[Arrays]] = []
        for arrays in arrays_of_shards:
            all_shards.append(next(measured_shards) if arrays is None else arrays)

        # Concatenate the arrays of all shards, for each store.
        joined_by_store: list[Joined] = []
        for shards_of_store in zip(*all_shards, strict=True):
            joined = {}
            for name in shards_of_store[0]:
                joined[name] = np.concatenate([arrays[name] for arrays in shards_of_store])
            joined_by_store.append(joined)
        seconds = {"prompts": prepared - started, "images": perf_counter() - prepared}
        return joined_by_store, seconds

    def measure_in_turn(self) -> Iterator[tuple[range, Sequence[Arrays]]]:
        """Measure one shard after the other, or read what an earlier run has stored.

        Shards are stored as soon as they are measured. Only one process may call this.

        Yields:
            The indices of the images of each shard, and its arrays for each store.

        Raises UsageError for files that cannot be used.
        """
        shards = self._cut_into_shards()
        stored_arrays = self._read_stored(shards)
        missing_samples = []
        for shard, arrays in zip(shards, stored_arrays, strict=True):
            if arrays is None:
                missing_samples += [self._samples[index] for index in shard]
        self._n_total = len(self._samples)
        self._n_done = self._n_total - len(missing_samples)
        if self._n_done:
            self._report_resumed()
        if missing_samples:
            self.prepare()
        images = prefetch(missing_samples, self.load, workers=self._options.workers)
        for shard, arrays in zip(shards, stored_arrays, strict=True):
            if arrays is None:
                arrays = self._measure_and_store(shard, images)
            yield shard, arrays

    def _cut_into_shards(self) -> list[range]:
        """Return the indices of the images of each shard."""
        n_images = len(self._samples)
        shards = []
        for start in range(0, n_images, IMAGES_PER_SHARD):
            shards.append(range(start, min(start + IMAGES_PER_SHARD, n_images)))
        return shards

    def _report_resumed(self) -> None:
        """Show how many images an earlier run has measured."""
        n_images = len(self._samples)
        self._report(f"resumed: {self._n_done:,} of {n_images:,} images were measured already")

    def _report(self, note: str) -> None:
        """Show a note beside the progress."""
        self._progress(Progress("images", self._n_done, len(self._samples), note))

    def _read_stored(self, shards: Sequence[range]) -> list[Sequence[Arrays] | None]:
        """Read the arrays of shards that an earlier run stored.

        Args:
            shards: The shards: the indices of each shard's images.

        Returns:
            For each shard, a list of its arrays for each store. It is None if the shard must be
            measured: a store does not have its arrays, or they are not valid any more.
        """
        keys = [_key_of_shard(shard) for shard in shards]
        arrays_by_key: dict[bytes, list[Arrays]] = {key: [] for key in keys}
        for store in self._stores:
            # Each shard is stored under one key. The last of several copies counts.
            stored_by_key = {}
            for stored_keys, arrays in store.find(keys, self._report):
                stored_by_key[stored_keys[0]] = arrays
            for key, arrays in stored_by_key.items():
                arrays_by_key[key].append(arrays)

        arrays_of_shards: list[Sequence[Arrays] | None] = []
        for shard, key in zip(shards, keys, strict=True):
            arrays_of_stores = arrays_by_key[key]
            is_in_all_stores = len(arrays_of_stores) == len(self._stores)
            if (
                is_in_all_stores
                and self._has_these_files(shard, arrays_of_stores)
                and self.is_valid(shard, arrays_of_stores)
            ):
                arrays_of_shards.append(arrays_of_stores)
            else:
                arrays_of_shards.append(None)
        return arrays_of_shards

    def _has_these_files(self, shard: range, arrays_of_stores: Sequence[Arrays]) -> bool:
        """Return whether the arrays of a shard were measured on the files that are there now.

        Sizes and times, which decide the folder of a store, are the same for some changed files.

        Args:
            shard: The indices of the images.
            arrays_of_stores: The stored arrays of the shard for each store, with the hashes of the
                files.
        """
        samples_of_images = [self.samples_of(self._samples[index]) for index in shard]
        for samples, arrays in zip(
            zip(*samples_of_images, strict=True), arrays_of_stores, strict=True
        ):
            contents = content_array(hash_contents(samples, self._options))
            if not np.array_equal(arrays[CONTENT], contents):
                return False
        return True

    def _measure(self, shards: Sequence[range]) -> list[Sequence[Arrays]]:
        """Measure the shards of this process one by one, and store each when it is done.

        Returns:
            For each shard, a list of its arrays for each store.
        """
        samples = [self._samples[index] for shard in shards for index in shard]
        self._n_total = self._n_done + len(samples)
        # Threads read the images of the next shard while the model encodes the current one.
        images = prefetch(samples, self.load, workers=self._options.workers)
        measured_shards = []
        for shard in shards:
            measured_shards.append(self._measure_and_store(shard, images))
        return measured_shards

    def _measure_and_store(self, shard: range, images: Iterator[Image]) -> Sequence[Arrays]:
        """Measure the next images of an iterator, which are a shard, and store its arrays.

        Args:
            shard: The indices of the images.
            images: The loaded images of this shard and later ones.

        Returns:
            The arrays for each store.
        """
        arrays = self.measure_shard(shard, islice(images, len(shard)))
        for store, arrays_of_store in zip(self._stores, arrays, strict=True):
            store.add([_key_of_shard(shard)], arrays_of_store)
        return arrays


def hash_contents(samples: Sequence[Sample], options: RunOptions) -> list[bytes]:
    """Return the SHA-256 of each image with its label map, without decoding them.

    Raises UsageError for a file that cannot be read.
    """

    def hash_sample(sample: Sample) -> bytes:
        try:
            return content_sha256(read_bytes(sample.image), sample)
        except FileError as error:
            raise UsageError(f"cannot read image {sample.image}: {error}") from error

    return list(prefetch(samples, hash_sample, workers=options.workers))


def data_hashes(
    samples: Sequence[Sample], options: RunOptions, train: Sequence[Sample] = ()
) -> dict[str, str]:
    """Return the hashes of images with label maps that a result records, by name.

    Args:
        samples: The images that are measured.
        options: The options of the run: the threads that read files.
        train: The training images of a probe; empty without one.

    Raises UsageError for a file that cannot be read.
    """
    hashes = {
        "samples": folders.fingerprint([sample.name for sample in samples]),
        "content": folders.content_hash(hash_contents([*train, *samples], options)),
    }
    if train:
        hashes["training"] = folders.fingerprint([sample.name for sample in train])
    return hashes


def _key_of_shard(shard: range) -> bytes:
    """Return the key under which the arrays of a shard are stored: a hash of its first index."""
    return hashlib.sha256(f"images from {shard.start}".encode()).digest()


def unfinished_store(
    info: EncoderInfo,
    protocol: Protocol,
    options: RunOptions,
    samples: Sequence[Sample],
    fitted_sha256: str = "",
) -> ShardStore:
    """Return the store for the finished shards of a measurement that is not finished.

    A later run finds the same store only if everything that decides the arrays is the same.

    Args:
        info: The description of the model.
        protocol: The protocol that is measured.
        options: The options of the run. The store lies in the folder `options.unfinished`. If that
            is None, the store keeps nothing.
        samples: The images of the data set with their label maps.
        fitted_sha256: The SHA-256 of everything that was fitted before; empty: nothing was.
    """
    if options.unfinished is None:
        return ShardStore(None, {})

    # Files whose content has changed have another size, or another time of the last change.
    files = []
    for sample in samples:
        image, mask = sample.image.stat(), sample.mask.stat()
        files.append(
            (sample.name, image.st_size, image.st_mtime_ns, mask.st_size, mask.st_mtime_ns)
        )
    # The texts of a wording are in the protocol's other fields.
    constants = {name: value for name, value in vars(protocol).items() if name != "wording"}
    identity = {
        "code": fingerprint("cosmos_core", "cosmos_eval"),
        "model": list(info._replace(spec="", name=None, device=info.device.partition(":")[0])),
        "protocol": constants,
        # Other options do not decide results. Batch size and threads change how sums are rounded,
        # which moves a pixel at a border now and then, as another processor would.
        "options": {"attention": options.attention, "overlays": options.overlays},
        "samples": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
    }
    if fitted_sha256:
        identity["fitted"] = fitted_sha256
    return ShardStore(options.unfinished, identity)


def content_sha256(image: bytes, sample: Sample) -> bytes:
    """Return a SHA-256 that identifies an image together with its label map.

    It is sha256(sha256(image) + sha256(label map)).

    Args:
        image: The content of the image file.
        sample: The paths of the image and of its label map, which is read here.

    Raises UsageError if the label map cannot be read.
    """
    try:
        label_map = read_bytes(sample.mask)
    except FileError as error:
        raise UsageError(f"cannot read label map {sample.mask}: {error}") from error
    digests = hashlib.sha256(image).digest() + hashlib.sha256(label_map).digest()
    return hashlib.sha256(digests).digest()


def content_array(sha256s: Sequence[bytes]) -> NDArray[np.uint8]:
    """Return N SHA-256s of 32 bytes each as an array (N, 32) uint8."""
    return np.frombuffer(b"".join(sha256s), np.uint8).reshape(len(sha256s), 32)


def images_at_once(encoder: DenseEncoder, image_hw: tuple[int, int], batch_size: int) -> int:
    """Return how many images, or windows of images, a model encodes together; at least 1.

    On a GPU, it is the batch size. On a CPU, it is lower for large images, so that a batch has no
    more patches than eight windows of 224 pixels in patches of 16.

    Args:
        encoder: The model.
        image_hw: The height and width of all images, in pixels.
        batch_size: The batch size that the user asked for.
    """
    device_type = encoder.info.device.partition(":")[0]
    if device_type != "cpu":
        return batch_size
    height, width = image_hw
    n_patches = max(1, height * width // encoder.patch_size**2)
    return max(1, min(batch_size, _CPU_PATCHES // n_patches))


def fingerprints(
    protocol: LabelMapProtocol, names: Sequence[str], constants: Mapping[str, Any]
) -> dict[str, str]:
    """Return the SHA-256s that a result records, by name, in hexadecimal digits.

    Args:
        protocol: The protocol, whose class names, prompts and templates are hashed.
        names: The names of the images.
        constants: The other constants of the protocol that decide its numbers, by name.
    """
    content = {
        "class_names": protocol.class_names,
        "queries": protocol.queries,
        "templates": resolve_templates(protocol.templates),
        "constants": constants,
        "samples": list(names),
    }
    hashes = {}
    for name, value in content.items():
        text = json.dumps(value, sort_keys=True)
        hashes[name] = hashlib.sha256(text.encode()).hexdigest()
    return hashes
