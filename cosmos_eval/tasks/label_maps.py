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
    RunOptions,
    UsageError,
)

IMAGES_PER_SHARD = 32
CONTENT = "content"
"""Name of the array (N, 32) of a shard: the SHA-256 of every image with its label map."""

# Patches that a CPU encodes at once: eight windows of 224 pixels in patches of 16. More patches
# take more memory, and longer, since they leave the caches of the CPU (docs/log.md).
_CPU_PATCHES = 8 * 14 * 14

Item = TypeVar("Item")
Image = TypeVar("Image")
Joined = dict[str, NDArray[Any]]
"""Arrays of all images by name."""


class ShardedMeasurement(ABC, Generic[Item, Image]):
    """Measures all images of a data set in shards of 32, so that a killed run can be resumed.

    A subclass says how an item of `samples` is loaded, and how a shard of loaded images is
    measured. A shard has arrays for each store in `stores`, one per protocol. They are stored as
    soon as they are computed, and read again by a resumed run.
    """

    def __init__(
        self,
        stores: Sequence[ShardStore],
        samples: Sequence[Item],
        options: RunOptions,
        progress: OnProgress,
    ) -> None:
        """`stores` holds a store per protocol, and `samples` an item per image of the data set."""
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
        """Measure the images of a shard, and return the arrays of the shard for every store.

        `shard` holds the indices of the images. A subclass calls `image_done` after each image.
        """

    def is_valid(self, shard: range, arrays: Sequence[Arrays]) -> bool:
        """Return whether the stored arrays of a shard, one set per store, can be used again.

        By default, they can.
        """
        return True

    def image_done(self) -> None:
        """Report progress: one more image was measured."""
        self._n_done += 1
        self._progress(Progress("images", self._n_done, self._n_total))

    def run(self) -> tuple[list[Joined], dict[str, float]]:
        """Return the arrays of all images for each store, and the seconds of each phase.

        Shards that an earlier run stored are used again if they are valid. The other shards are
        divided among the processes, and each process measures and stores its own. All processes
        return the same. Raises UsageError for files that cannot be used.
        """
        started = perf_counter()
        n_images = len(self._samples)
        shards = [
            range(start, min(start + IMAGES_PER_SHARD, n_images))
            for start in range(0, n_images, IMAGES_PER_SHARD)
        ]
        distributed = self._options.distributed
        arrays_of_shards = distributed.map_sharded(self._read_stored, shards)
        missing_shards = [
            shard for shard, arrays in zip(shards, arrays_of_shards, strict=True) if arrays is None
        ]
        self._n_done = n_images - sum(len(shard) for shard in missing_shards)
        if self._n_done:
            note = f"resumed: {self._n_done:,} of {n_images:,} images were measured already"
            self._report(note)
        if missing_shards:
            self.prepare()
        prepared = perf_counter()

        # Measure the missing shards, and put their arrays into the gaps.
        measured_shards = distributed.map_sharded(self._measure, missing_shards)
        arrays_by_start = {
            shard.start: arrays
            for shard, arrays in zip(missing_shards, measured_shards, strict=True)
        }
        complete_arrays: list[Sequence[Arrays]] = []
        for shard, arrays in zip(shards, arrays_of_shards, strict=True):
            complete_arrays.append(arrays_by_start[shard.start] if arrays is None else arrays)

        # Concatenate the shards of each store.
        joined_by_store: list[Joined] = []
        for arrays_of_store in zip(*complete_arrays, strict=True):
            names = arrays_of_store[0]
            joined_by_store.append(
                {
                    name: np.concatenate([arrays[name] for arrays in arrays_of_store])
                    for name in names
                }
            )
        seconds = {"prompts": prepared - started, "images": perf_counter() - prepared}
        return joined_by_store, seconds

    def _report(self, note: str) -> None:
        """Show a note beside the progress."""
        self._progress(Progress("images", self._n_done, len(self._samples), note))

    def _read_stored(self, shards: Sequence[range]) -> list[Sequence[Arrays] | None]:
        """Return the stored arrays of each shard for every store.

        The entry of a shard is None if it must be measured: a store does not have its arrays, or
        they are not valid any more.
        """
        keys = [_key_of_shard(shard) for shard in shards]
        arrays_by_key_of_stores: list[dict[bytes, Arrays]] = []
        for store in self._stores:
            arrays_by_key = {}
            for shard_keys, arrays_of_shard in store.find(keys, self._report):
                arrays_by_key[shard_keys[0]] = arrays_of_shard
            arrays_by_key_of_stores.append(arrays_by_key)
        arrays_of_shards: list[Sequence[Arrays] | None] = []
        for shard, key in zip(shards, keys, strict=True):
            arrays = [
                arrays_by_key[key]
                for arrays_by_key in arrays_by_key_of_stores
                if key in arrays_by_key
            ]
            all_stores_have_it = len(arrays) == len(self._stores)
            if all_stores_have_it and self.is_valid(shard, arrays):
                arrays_of_shards.append(arrays)
            else:
                arrays_of_shards.append(None)
        return arrays_of_shards

    def _measure(self, shards: Sequence[range]) -> list[Sequence[Arrays]]:
        """Measure the shards of this process one by one, and store each when it is done.

        Returns the arrays of each shard for every store.
        """
        samples = [self._samples[index] for shard in shards for index in shard]
        self._n_total = self._n_done + len(samples)
        # Threads read the images of the next shard while the model encodes the current one.
        images = prefetch(samples, self.load, workers=self._options.workers)
        measured_shards = []
        for shard in shards:
            images_of_shard = islice(images, len(shard))
            arrays = self.measure_shard(shard, images_of_shard)
            for store, arrays_of_store in zip(self._stores, arrays, strict=True):
                store.add([_key_of_shard(shard)], arrays_of_store)
            measured_shards.append(arrays)
        return measured_shards


def _concatenate_shards(arrays_of_shards: Sequence[Arrays]) -> Joined:
    """Concatenate the arrays of all shards that have the same name."""
    return {
        name: np.concatenate([arrays[name] for arrays in arrays_of_shards])
        for name in arrays_of_shards[0]
    }


def _key_of_shard(shard: range) -> bytes:
    """Return the key under which the arrays of a shard are stored: a hash of its first index."""
    return hashlib.sha256(f"images from {shard.start}".encode()).digest()


def unfinished_store(
    info: EncoderInfo, protocol: LabelMapProtocol, options: RunOptions, samples: Sequence[Sample]
) -> ShardStore:
    """Return the store, below `options.unfinished`, for the finished shards of a measurement.

    A later run finds the same store only if everything that decides the arrays is the same: the
    code, the model, the protocol, the options, and the files. If `options.unfinished` is None, the
    store keeps nothing.
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
    identity = {
        "code": fingerprint("cosmos_core", "cosmos_eval"),
        "model": list(info._replace(spec="", device=info.device.partition(":")[0])),
        "protocol": vars(protocol),
        # Other options do not decide results. Batch size and threads change how sums are rounded,
        # which moves a pixel at a border now and then, as another processor would.
        "options": {"attention": options.attention, "overlays": options.overlays},
        "samples": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
    }
    return ShardStore(options.unfinished, identity)


def content_sha256(image: bytes, sample: Sample) -> bytes:
    """Return a SHA-256 that identifies an image together with its label map.

    `image` is the content of the image file. The result is sha256(sha256(image) +
    sha256(label map)). The label map is read here. Raises UsageError if that fails.
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
    """Return how many images, or windows, of one size a model encodes together, at least 1.

    `image_hw` is their height and width. On a GPU, it is `batch_size`. On a CPU, it is at most as
    many as have _CPU_PATCHES patches.
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
    """Return the SHA-256s that a result records, by name.

    They are the hashes of the class names, the prompts, the templates, the `names` of the images,
    and the `constants` of the protocol that decide its numbers.
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
