"""Random access to the samples of local tars, at 16 bytes of memory each."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cosmos_core.data.problems import BadSampleError
from cosmos_core.data.samples import RawSample
from cosmos_core.data.shards import ShardError
from cosmos_core.data.tar import BLOCK, TarError, require_one_file
from cosmos_core.data.tarindex import COLUMNS, Rows, cached_rows, tar_rows
from cosmos_core.data.workers import worker_lifetime

_Item = TypeVar("_Item")


class SampleIndex:
    """The samples of tars, numbered in their order.

    The rows are one tensor: processes forked from this one share it, and PyTorch hands it to others
    as shared memory.
    """

    def __init__(self, shards: Sequence[str], rows: Sequence[Rows]) -> None:
        self._shards = list(shards)
        self._starts = np.cumsum([0, *map(len, rows)])
        self._rows = torch.from_numpy(np.concatenate([np.empty((0, COLUMNS), np.int32), *rows]))

    def __len__(self) -> int:
        return len(self._rows)

    def start(self, shards: int) -> int:
        """How many samples the first so many shards hold."""
        return int(self._starts[shards])

    def read(self, number: int) -> RawSample:
        """The files of a sample as they lie in the tar. Raises BadSampleError."""
        image, image_bytes, record, record_bytes = self._rows[number].tolist()
        try:
            with open(self._shard(number), "rb", buffering=0) as file:
                return RawSample(_read(file, image, image_bytes), _read(file, record, record_bytes))
        except TarError as error:
            raise BadSampleError("unreadable", str(error)) from error
        except OSError as error:
            raise BadSampleError("unreadable", str(error.strerror or error)) from error

    def name(self, number: int) -> tuple[str, str]:
        """The shard and the key of a sample, the key read from its tar."""
        shard = self._shard(number)
        image, _, record, _ = self._rows[number].tolist()
        try:
            with open(shard, "rb") as file:
                file.seek(((image or record) - 1) * BLOCK)
                header = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")
        except (OSError, tarfile.TarError):
            return shard, f"sample {number}"
        folder, slash, name = header.name.rpartition("/")
        return shard, folder + slash + name.partition(".")[0]

    def _shard(self, number: int) -> str:
        return self._shards[int(np.searchsorted(self._starts, number, side="right")) - 1]


def _read(file: io.FileIO, block: int, size: int) -> bytes | None:
    if block == 0:
        return None
    file.seek(block * BLOCK)
    data = file.read(size)
    if len(data) < size:
        raise BadSampleError(
            "truncated", f"the tar ends {size - len(data)} bytes before the sample"
        )
    require_one_file(data)
    return data


def as_is(item: _Item) -> _Item:
    """For a DataLoader whose data set gives whole items."""
    return item


class _Tars(Dataset["Rows | str"]):
    def __init__(self, shards: Sequence[str]) -> None:
        self._shards = shards

    def __getitem__(self, number: int) -> Rows | str:
        try:
            return tar_rows(self._shards[number])
        except ShardError as error:
            return str(error)  # an exception would come back with the worker's traceback


def _scan(shards: Sequence[str], workers: int) -> Iterator[Rows | str]:
    with worker_lifetime() as start_worker:
        loader = DataLoader(
            _Tars(shards),
            batch_size=None,
            sampler=range(len(shards)),
            num_workers=min(workers, len(shards)),
            collate_fn=as_is,
            worker_init_fn=start_worker,
            generator=torch.Generator(),
        )
        items = iter(loader)
        yield from items


def index_shards(
    shards: Sequence[str], *, workers: int = 0, rank: int = 0, world_size: int = 1
) -> SampleIndex:
    """The index of local tars; those not in the user's cache are scanned by `workers` processes.

    Each of `world_size` processes begins at another shard, so that they share the scanning where
    they share the cache. Raises ShardError for an unreadable tar, and where there is no sample.
    """
    rows = {shard: cached_rows(shard) for shard in shards}
    missing = [shard for shard, found in rows.items() if found is None]
    first = rank * len(missing) // world_size
    missing = missing[first:] + missing[:first]
    failures: list[str] = []
    for shard, result in zip(missing, _scan(missing, workers), strict=True):
        if isinstance(result, str):
            failures.append(result)
        else:
            rows[shard] = result
    if failures:
        others = f" ({len(failures) - 1} other shards fail as well)" if len(failures) > 1 else ""
        raise ShardError(f"{failures[0]}{others}")
    index = SampleIndex(shards, [found for shard in shards if (found := rows[shard]) is not None])
    if len(index) == 0:
        raise ShardError(f"no sample in {len(shards)} shards, of which the first is {shards[0]}")
    return index
