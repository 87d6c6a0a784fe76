"""What the measurements of data sets with label maps share: shards of images, patches, hashes.

A shard is a fixed number of consecutive images, which are never encoded together with others:
neither the number of processes nor a resumed run changes a batch, so that results stay the same to
the bit. Finished shards are stored until the result is, so that a killed run can be resumed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from cosmos_eval.data.label_maps import Sample
from cosmos_eval.embedding.cache import Arrays, Report, ShardStore, fingerprint
from cosmos_eval.models.encoder import DenseEncoder
from cosmos_eval.tasks.prompts import resolve_templates
from cosmos_eval.types import EncoderInfo, LabelMapProtocol, OnProgress, Progress, RunOptions

IMAGES_PER_SHARD = 32

# Options that do not decide results. Batch size and threads change how sums are rounded, which
# moves a pixel at a border now and then, as another processor would. The samples that `data_root`,
# `limit` and `allow_partial` lead to are part of the identity one by one, device and precision part
# of the model's.
_NOT_DECIDING = {
    *("data_root", "download", "limit", "allow_partial", "batch_size", "workers", "seed"),
    *("save_predictions", "unfinished", "cache", "distributed", "device", "precision"),
}
# Patches that a CPU encodes at once: eight windows of 224 pixels in patches of 16. More take more
# memory, and longer, since they leave its caches (docs/log.md).
_CPU_PATCHES = 8 * 14 * 14

Result = TypeVar("Result")
Find = Callable[[Sequence[range], Report], list[Result | None]]
Work = Callable[[Sequence[range], OnProgress], list[Result]]
"""Results of shards, in their order; progress counts images."""


def in_shards(
    n_images: int,
    find: Find[Result],
    prepare: Callable[[], Work[Result]],
    options: RunOptions,
    progress: OnProgress,
) -> list[Result]:
    """Return one result per shard of images, in order, in all processes.

    `find` returns the results that are stored, or None. Where any is missing, `prepare` is called
    in all processes and returns what computes the missing shards of this process.
    """
    starts = range(0, n_images, IMAGES_PER_SHARD)
    shards = [range(n_images)[start : start + IMAGES_PER_SHARD] for start in starts]

    def report(note: str, done: int = 0) -> None:
        progress(Progress("images", done, n_images, note))

    found = options.distributed.map_sharded(lambda own: find(own, report), shards)
    left = [shard for shard, result in zip(shards, found, strict=True) if result is None]
    done = n_images - sum(map(len, left))
    if done:
        report(f"resumed: {done:,} of {n_images:,} images were measured already", done)
    if not left:
        return [result for result in found if result is not None]
    work = prepare()

    def progress_of_all(step: Progress) -> None:
        progress(step._replace(done=step.done + done, total=step.total + done))

    new = iter(options.distributed.map_sharded(lambda own: work(own, progress_of_all), left))
    return [next(new) if result is None else result for result in found]


def unfinished_store(
    info: EncoderInfo, protocol: LabelMapProtocol, options: RunOptions, samples: Sequence[Sample]
) -> ShardStore:
    """Return the store of the finished shards of one measurement."""
    if options.unfinished is None:
        return ShardStore(None, {})
    names = {field.name for field in fields(options)} - _NOT_DECIDING
    files = [(sample.name, *_state(sample.image), *_state(sample.mask)) for sample in samples]
    identity = {
        "code": fingerprint("cosmos_core", "cosmos_eval"),
        "model": list(info._replace(spec="", device=info.device.partition(":")[0])),
        "protocol": vars(protocol),
        "options": {name: getattr(options, name) for name in names},
        "samples": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
    }
    return ShardStore(options.unfinished, identity)


def _state(path: Path) -> tuple[int, int]:
    """Return size and time of the last change, in which other content shows."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def stored_shards(
    store: ShardStore, shards: Sequence[range], report: Report
) -> list[Arrays | None]:
    """Return the arrays of shards of images, None where they are not stored."""
    keys = [_key(shard) for shard in shards]
    found = {stored[0]: arrays for stored, arrays in store.find(keys, report)}
    return [found.get(key) for key in keys]


def store_shard(store: ShardStore, shard: range, arrays: Arrays) -> None:
    """Store the arrays of a finished shard of images. Raises UsageError where it cannot."""
    store.add([_key(shard)], arrays)


def _key(shard: range) -> bytes:
    return hashlib.sha256(f"images from {shard.start}".encode()).digest()


def images_at_once(encoder: DenseEncoder, image_hw: tuple[int, int], batch_size: int) -> int:
    """Return how many images of a size make up a batch, at least 1."""
    if encoder.info.device.partition(":")[0] != "cpu" or not encoder.patch_size:
        return batch_size
    patches = image_hw[0] * image_hw[1] // encoder.patch_size**2
    return max(1, min(batch_size, _CPU_PATCHES // max(1, patches)))


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
    return {
        name: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
        for name, value in described.items()
    }
