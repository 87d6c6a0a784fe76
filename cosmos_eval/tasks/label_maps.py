"""What the measurements of data sets with label maps share: shards of images, patches, hashes.

Images of a shard are never encoded with others: neither the number of processes nor a resumed run
changes a batch or a bit of the results. Finished shards are stored until the result is.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, islice
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cosmos_eval.data.label_maps import Sample
from cosmos_eval.data.prefetch import prefetch
from cosmos_eval.data.readers import FileError, read_bytes
from cosmos_eval.embedding.cache import Arrays, Report, ShardStore, fingerprint
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

# Patches that a CPU encodes at once: eight windows of 224 pixels in patches of 16. More take more
# memory, and longer, since they leave its caches (docs/log.md).
_CPU_PATCHES = 8 * 14 * 14

Item = TypeVar("Item")
Image = TypeVar("Image")
Joined = dict[str, NDArray[Any]]
MeasureShard = Callable[[range, Iterator[Image], Callable[[], None]], Sequence[Arrays]]
"""Returns the arrays of a shard of images for every store; calls its last argument per image."""


def in_shards(
    stores: Sequence[ShardStore],
    samples: Sequence[Item],
    load: Callable[[Item], Image],
    prepare: Callable[[], MeasureShard[Image]],
    options: RunOptions,
    progress: OnProgress,
    is_valid: Callable[[range, Sequence[Arrays]], bool] = lambda shard, arrays: True,
) -> tuple[list[Joined], dict[str, float]]:
    """Return the arrays of all images for each store, in all processes, and seconds per phase.

    Shards that are stored and valid are used again. Where any is missing, `prepare` is called in
    all processes, and each measures and stores its share. Raises UsageError where it cannot.
    """
    started = prepared = perf_counter()
    n_images = len(samples)
    starts = range(0, n_images, IMAGES_PER_SHARD)
    shards = [range(n_images)[start : start + IMAGES_PER_SHARD] for start in starts]

    def report(note: str, done: int = 0) -> None:
        progress(Progress("images", done, n_images, note))

    found = options.distributed.map_sharded(partial(_stored, stores, is_valid, report), shards)
    left = [shard for shard, arrays in zip(shards, found, strict=True) if arrays is None]
    done = n_images - sum(map(len, left))
    if done:
        report(f"resumed: {done:,} of {n_images:,} images were measured already", done)
    new: Iterator[Sequence[Arrays]] = iter(())
    if left:
        measure = partial(_measure, stores, samples, load, prepare(), done, options, progress)
        prepared = perf_counter()
        new = iter(options.distributed.map_sharded(measure, left))
    by_store = zip(*(next(new) if one is None else one for one in found), strict=True)
    joined = [{name: np.concatenate([a[name] for a in own]) for name in own[0]} for own in by_store]
    return joined, {"prompts": prepared - started, "images": perf_counter() - prepared}


def _stored(
    stores: Sequence[ShardStore],
    is_valid: Callable[[range, Sequence[Arrays]], bool],
    report: Report,
    shards: Sequence[range],
) -> list[Sequence[Arrays] | None]:
    """Return the arrays of shards that every store has, else None."""
    keys = list(map(_key, shards))
    found = [{own[0]: arrays for own, arrays in store.find(keys, report)} for store in stores]
    every = ([own[key] for own in found if key in own] for key in keys)
    return [
        arrays if len(arrays) == len(stores) and is_valid(shard, arrays) else None
        for shard, arrays in zip(shards, every, strict=True)
    ]


def _measure(
    stores: Sequence[ShardStore],
    samples: Sequence[Item],
    load: Callable[[Item], Image],
    measure_shard: MeasureShard[Image],
    done: int,
    options: RunOptions,
    progress: OnProgress,
    shards: Sequence[range],
) -> list[Sequence[Arrays]]:
    """Measure shards and store each; `done` images were measured before."""
    own = [samples[index] for shard in shards for index in shard]
    numbers, total = count(done + 1), done + len(own)
    # Images of the next shard are read while the last ones of a shard are encoded.
    images = prefetch(own, load, workers=options.workers)
    measured = []
    for shard in shards:
        arrays = measure_shard(
            shard,
            islice(images, len(shard)),
            lambda: progress(Progress("images", next(numbers), total)),
        )
        for store, of_store in zip(stores, arrays, strict=True):
            store.add([_key(shard)], of_store)
        measured.append(arrays)
    return measured


def _key(shard: range) -> bytes:
    return hashlib.sha256(f"images from {shard.start}".encode()).digest()


def unfinished_store(
    info: EncoderInfo, protocol: LabelMapProtocol, options: RunOptions, samples: Sequence[Sample]
) -> ShardStore:
    """Return the store of the finished shards of one measurement."""
    if options.unfinished is None:
        return ShardStore(None, {})
    states = [(sample.name, sample.image.stat(), sample.mask.stat()) for sample in samples]
    files = [  # other content shows in size and time of the last change
        (name, image.st_size, image.st_mtime_ns, mask.st_size, mask.st_mtime_ns)
        for name, image, mask in states
    ]
    identity = {
        "code": fingerprint("cosmos_core", "cosmos_eval"),
        "model": list(info._replace(spec="", device=info.device.partition(":")[0])),
        "protocol": vars(protocol),
        # No other option decides results. Batch size and threads change how sums are rounded, which
        # moves a pixel at a border now and then, as another processor would.
        "options": {"attention": options.attention, "overlays": options.overlays},
        "samples": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
    }
    return ShardStore(options.unfinished, identity)


def content_sha256(image: bytes, sample: Sample) -> bytes:
    """Return the SHA-256 of two SHA-256s: of an image file's content and of its label map's file.
    Raises UsageError for a label map that cannot be read."""
    try:
        label_map = read_bytes(sample.mask)
    except FileError as error:
        raise UsageError(f"cannot read label map {sample.mask}: {error}") from error
    both = hashlib.sha256(image).digest() + hashlib.sha256(label_map).digest()
    return hashlib.sha256(both).digest()


def content_array(sha256s: Sequence[bytes]) -> NDArray[np.uint8]:
    """Return SHA-256s as an array (N, 32)."""
    return np.frombuffer(b"".join(sha256s), np.uint8).reshape(len(sha256s), 32)


def images_at_once(encoder: DenseEncoder, image_hw: tuple[int, int], batch_size: int) -> int:
    """Return how many images of a size make up a batch, at least 1."""
    if encoder.info.device.partition(":")[0] != "cpu":
        return batch_size
    patches = max(1, image_hw[0] * image_hw[1] // encoder.patch_size**2)
    return max(1, min(batch_size, _CPU_PATCHES // patches))


def fingerprints(
    protocol: LabelMapProtocol, names: Sequence[str], constants: Mapping[str, Any]
) -> dict[str, str]:
    """SHA-256 of classes, prompts, the constants that change the number, and names of images."""
    described = {
        "class_names": protocol.class_names,
        "queries": protocol.queries,
        "templates": resolve_templates(protocol.templates),
        "constants": constants,
        "samples": list(names),
    }
    texts = {name: json.dumps(value, sort_keys=True) for name, value in described.items()}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
