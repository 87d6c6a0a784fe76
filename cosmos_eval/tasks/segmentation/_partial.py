"""What is kept of an unfinished measurement, so that a killed run goes on where it stopped.

A measurement has a folder named after everything that decides its counts, with a file a shard, the
confusion counts of consecutive images. Batch size and threads have no part in the name: they change
how logits are rounded, which moves a pixel at a border now and then, as another processor would.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cosmos_eval.code import fingerprint
from cosmos_eval.files import write_atomically
from cosmos_eval.metrics.segmentation import SparseConfusion, join, separate
from cosmos_eval.tasks.label_maps import Sample
from cosmos_eval.types import EncoderInfo, RunOptions, SegmentationProtocol, UsageError

# How a measurement is carried out; any other option is taken to decide its counts. The samples
# that `data_root` and `limit` lead to are named one by one.
_CARRYING_OUT = {
    *("data_root", "download", "limit", "batch_size", "workers", "seed"),
    *("save_predictions", "partial", "cache", "share"),
}
_DAMAGES = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class Counts(NamedTuple):
    """Confusion counts of the images of a shard, and the SHA-256 of their saved label maps.

    The latter is empty for an image whose label map was not saved.
    """

    confusions: list[SparseConfusion]
    pictures: list[str]


class DamagedError(Exception):
    """A file of counts that cannot be what was written."""


class Kept(NamedTuple):
    """The finished shards of one measurement. `folder` None: none is kept."""

    folder: Path | None

    def read(self, shard: range) -> Counts | None:
        """The counts of a shard, None where it is not finished. Raises DamagedError."""
        path = self._path(shard)
        if path is None or not path.exists():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes())) as arrays:
                pictures = arrays["pictures"].tolist()
                every = SparseConfusion(*(arrays[field] for field in SparseConfusion._fields))
        except _DAMAGES as error:
            raise DamagedError(str(path)) from error
        if len(pictures) != len(shard):
            raise DamagedError(str(path))
        return Counts(separate(every, len(shard)), pictures)

    def write(self, shard: range, counts: Counts) -> None:
        """Keep a finished shard, whole or not at all. Raises UsageError where it cannot."""
        path = self._path(shard)
        if path is None:
            return
        arrays = join(counts.confusions)._asdict()
        content = io.BytesIO()
        np.savez(content, pictures=np.array(counts.pictures), **arrays)
        try:
            write_atomically(path, content.getvalue())
        except OSError as error:
            raise UsageError(
                f"cannot write finished parts to {path.parent}: {error.strerror}"
            ) from error

    def discard(self) -> None:
        """Remove all shards: the measurement is stored."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, shard: range) -> Path | None:
        return None if self.folder is None else self.folder / f"{shard.start:06}.npz"


def kept_of(
    info: EncoderInfo,
    protocol: SegmentationProtocol,
    options: RunOptions,
    samples: Sequence[Sample],
) -> Kept:
    """Where the shards of a measurement are."""
    if options.partial is None:
        return Kept(None)
    return Kept(Path(options.partial) / _identity(info, protocol, options, samples))


def _identity(
    info: EncoderInfo,
    protocol: SegmentationProtocol,
    options: RunOptions,
    samples: Sequence[Sample],
) -> str:
    """A hash of everything that decides the counts."""
    names = {field.name for field in fields(options)} - _CARRYING_OUT
    described = {
        "code": fingerprint("cosmos_core", "cosmos_eval"),
        "model": [info.architecture, info.weights, info.weights_sha256, info.precision],
        "device": torch.device(info.device).type,
        "protocol": vars(protocol),
        "options": {name: getattr(options, name) for name in sorted(names)},
        "samples": [
            (sample.name, *_state(sample.image), *_state(sample.mask)) for sample in samples
        ],
    }
    text = json.dumps(described, sort_keys=True, default=dict)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _state(path: Path) -> tuple[int, int]:
    """Size and time of the last change: other content under the same name shows in them."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns
