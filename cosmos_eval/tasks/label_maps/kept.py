"""What is kept of an unfinished measurement, so that a killed run goes on where it stopped.

A measurement has a folder named after everything that decides its results, with a file of arrays a
shard, which is consecutive images. Batch size and threads have no part in the name: they change how
sums are rounded, which moves a pixel at a border now and then, as another processor would.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cosmos_core.utils.storage import write_atomically
from cosmos_eval.embedding.code import fingerprint
from cosmos_eval.tasks.label_maps import Sample
from cosmos_eval.types import EncoderInfo, LabelMapProtocol, RunOptions, UsageError

# How a measurement is carried out; any other option is taken to decide its results. The samples
# that `data_root`, `limit` and `allow_partial` lead to are named one by one.
_CARRYING_OUT = {
    *("data_root", "download", "limit", "allow_partial", "batch_size", "workers", "seed"),
    *("save_predictions", "unfinished", "cache", "share"),
}
_DAMAGES = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)

Arrays = Mapping[str, NDArray[Any]]


class DamagedError(Exception):
    """A file of a finished shard that cannot be what was written."""


class Kept(NamedTuple):
    """The finished shards of one measurement. `folder` None: none is kept."""

    folder: Path | None

    def read(self, shard: range) -> Arrays | None:
        """The arrays of a shard, None where it is not finished. Raises DamagedError."""
        path = self.path(shard)
        if path is None or not path.exists():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes())) as arrays:
                return {name: arrays[name] for name in arrays}
        except _DAMAGES as error:
            raise DamagedError(str(path)) from error

    def write(self, shard: range, arrays: Arrays) -> None:
        """Keep a finished shard, whole or not at all. Raises UsageError where it cannot."""
        path = self.path(shard)
        if path is None:
            return
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
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

    def path(self, shard: range) -> Path | None:
        """The file of a shard, whether it is there or not."""
        return None if self.folder is None else self.folder / f"{shard.start:06}.npz"


def kept_of(
    info: EncoderInfo,
    protocol: LabelMapProtocol,
    options: RunOptions,
    samples: Sequence[Sample],
) -> Kept:
    """Where the shards of a measurement are."""
    if options.unfinished is None:
        return Kept(None)
    return Kept(Path(options.unfinished) / _identity(info, protocol, options, samples))


def _identity(
    info: EncoderInfo,
    protocol: LabelMapProtocol,
    options: RunOptions,
    samples: Sequence[Sample],
) -> str:
    """A hash of everything that decides the results."""
    names = {field.name for field in fields(options)} - _CARRYING_OUT
    described = {
        "code": fingerprint("cosmos_core", "cosmos_eval"),
        "model": list(info._replace(spec="", device="")),
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
