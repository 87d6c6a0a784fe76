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
    """The measurement of all images of a data set, shard by shard, in all processes.

    `samples` are the items to load. Every shard of samples yields arrays for each protocol that is
    measured, which are stored in the protocol's own store.
    """

    def __init__(
        self,
        stores: Sequence[ShardStore],
        samples: Sequence[Item],
        options: RunOptions,
        progress: OnProgress,
    ) -> None:
        self._stores = stores
        self._samples = samples
        self._options = options
        self._progress = progress
        # Numbers of images, for the progress.
        self._n_done = 0
        self._n_total = 0

    @abstractmethod
    def prepare(self) -> None:
        """Encode prompts. It is called in all processes if any shard is left to measure."""

    @abstractmethod
    def load(self, sample: Item) -> Image:
        """Read the files of a sample. Raises UsageError for a file that cannot be used."""

    @abstractmethod
    def measure_shard(self, shard: range, images: Iterator[Image]) -> Sequence[Arrays]:
        """Return the arrays of a shard for every store; call `image_done` after each image."""

    def is_valid(self, shard: range, arrays: Sequence[Arrays]) -> bool:
        """Return whether stored arrays of a shard can be used again."""
        return True

    def image_done(self) -> None:
        """Report that one more image was measured."""
        self._n_done += 1
        self._progress(Progress("images", self._n_done, self._n_total))

    def run(self) -> tuple[list[Joined], dict[str, float]]:
        """Return the arrays of all images for each store, and the seconds by phase.

        Shards that are stored and valid are used again. Each process measures and stores its share
        of the other shards, and all processes return the same. Raises UsageError for files that
        cannot be used.
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
        measured = distributed.map_sharded(self._measure, missing_shards)
        measured_by_start = {
            shard.start: arrays for shard, arrays in zip(missing_shards, measured, strict=True)
        }
        complete: list[Sequence[Arrays]] = []
        for shard, arrays in zip(shards, arrays_of_shards, strict=True):
            complete.append(measured_by_start[shard.start] if arrays is None else arrays)
        shards_of_stores = zip(*complete, strict=True)
        joined = [_concatenate(shards_of_store) for shards_of_store in shards_of_stores]
        return joined, {"prompts": prepared - started, "images": perf_counter() - prepared}

    def _report(self, note: str) -> None:
        self._progress(Progress("images", self._n_done, len(self._samples), note))

    def _read_stored(self, shards: Sequence[range]) -> list[Sequence[Arrays] | None]:
        """Return the arrays of each shard for every store, or None for a shard to measure.

        A shard is measured again if a store lacks its arrays, or if they are not valid.
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
            is_complete = len(arrays) == len(self._stores) and self.is_valid(shard, arrays)
            arrays_of_shards.append(arrays if is_complete else None)
        return arrays_of_shards

    def _measure(self, shards: Sequence[range]) -> list[Sequence[Arrays]]:
        """Measure the shards of this process, store them, and return their arrays."""
        samples = [self._samples[index] for shard in shards for index in shard]
        self._n_total = self._n_done + len(samples)
        # Images of the next shard are read while the last ones of a shard are encoded.
        images = prefetch(samples, self.load, workers=self._options.workers)
        measured = []
        for shard in shards:
            arrays = self.measure_shard(shard, islice(images, len(shard)))
            for store, arrays_of_store in zip(self._stores, arrays, strict=True):
                store.add([_key_of_shard(shard)], arrays_of_store)
            measured.append(arrays)
        return measured


def _concatenate(shards: Sequence[Arrays]) -> Joined:
    """Concatenate the arrays of shards by name."""
    return {name: np.concatenate([arrays[name] for arrays in shards]) for name in shards[0]}


def _key_of_shard(shard: range) -> bytes:
    """Return the key under which the arrays of a shard are stored."""
    return hashlib.sha256(f"images from {shard.start}".encode()).digest()


def unfinished_store(
    info: EncoderInfo, protocol: LabelMapProtocol, options: RunOptions, samples: Sequence[Sample]
) -> ShardStore:
    """Return the store of the finished shards of one measurement."""
    if options.unfinished is None:
        return ShardStore(None, {})
    files = []
    for sample in samples:  # other content shows in size and time of the last change
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
    """Return the SHA-256 of an image with its label map.

    `image` is the content of the image file. The result is sha256(sha256(image) +
    sha256(label map)). Raises UsageError for a label map that cannot be read.
    """
    try:
        label_map = read_bytes(sample.mask)
    except FileError as error:
        raise UsageError(f"cannot read label map {sample.mask}: {error}") from error
    digests = hashlib.sha256(image).digest() + hashlib.sha256(label_map).digest()
    return hashlib.sha256(digests).digest()


def content_array(sha256s: Sequence[bytes]) -> NDArray[np.uint8]:
    """Return SHA-256s as an array (N, 32)."""
    return np.frombuffer(b"".join(sha256s), np.uint8).reshape(len(sha256s), 32)


def images_at_once(encoder: DenseEncoder, image_hw: tuple[int, int], batch_size: int) -> int:
    """Return the number of images (H, W) in a batch, at least 1."""
    if encoder.info.device.partition(":")[0] != "cpu":
        return batch_size
    patches = max(1, image_hw[0] * image_hw[1] // encoder.patch_size**2)
    return max(1, min(batch_size, _CPU_PATCHES // patches))


def fingerprints(
    protocol: LabelMapProtocol, names: Sequence[str], constants: Mapping[str, Any]
) -> dict[str, str]:
    """Return SHA-256s of classes, prompts, names of images, and constants that change numbers."""
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
