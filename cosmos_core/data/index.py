"""Random access to the samples of local tars.

The index of a tar has a row of four int32 for each sample: the first block and the bytes of the
image, then of the JSON record. If a sample lacks one of them, its block is 0, where no file begins.
The index is stored in `.cosmos-index` beside the tar, or in the user's cache folder if that cannot
be written. The rows of all tars of a data set are also stored in one file. All processes and
workers of a machine map this file into their memory, so that it is there once.
"""

import hashlib
import io
import logging
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs
import torch

from cosmos_core.data.samples import SAMPLE_SUFFIXES, BadSampleError, RawSample
from cosmos_core.data.shards import ShardError
from cosmos_core.data.tar import BLOCK, TarError, read_members, require_one_file, split_name
from cosmos_core.data.workers import worker_lifetime
from cosmos_core.utils.files import pack_arrays, unpack_arrays, write_atomically

COLUMNS = 4
BESIDE = ".cosmos-index"  # a folder beside tars
_VERSION = 3  # of the format of a stored index
_MAX_INT32 = np.iinfo(np.int32).max
Rows = npt.NDArray[np.int32]

_log = logging.getLogger(__name__)


class SampleIndex:
    """The samples of tars, in order.

    `rows` (N, 4) has a row for each sample. `starts` (shards + 1,) has the number of each shard's
    first sample, and N at the end. Worker processes share the rows.
    """

    def __init__(self, shards: Sequence[str], starts: npt.NDArray[Any], rows: Rows) -> None:
        self._shards = list(shards)
        self._starts = starts
        self._rows = torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def fingerprint(self) -> list[list[Any]]:
        """Return an entry of plain types for each shard: name, bytes, samples, SHA-256 of its rows.

        The entries do not depend on the folder of the shards.
        """
        shard_rows = np.split(self._rows.numpy(), self._starts[1:-1])
        entries: list[list[Any]] = []
        for shard, rows in zip(self._shards, shard_rows, strict=True):
            sha256 = hashlib.sha256(rows.tobytes()).hexdigest()
            entries.append([Path(shard).name, os.path.getsize(shard), len(rows), sha256])
        return entries

    def start(self, shards: int) -> int:
        """Return the number of samples in the first `shards` shards."""
        return int(self._starts[shards])

    def read(self, number: int) -> RawSample:
        """Read the files of a sample. Raises BadSampleError."""
        image_block, image_bytes, record_block, record_bytes = self._rows[number].tolist()
        try:
            with open(self._shard(number), "rb", buffering=0) as file:
                image = _read_file(file, image_block, image_bytes)
                record = _read_file(file, record_block, record_bytes)
        except (TarError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadSampleError("unreadable", str(reason)) from error
        return RawSample(image, record)

    def name(self, number: int) -> tuple[str, str]:
        """Return the shard and the key of a sample; the key is read from the tar."""
        shard = self._shard(number)
        image_block, _, record_block, _ = self._rows[number].tolist()
        header_block = (image_block or record_block) - 1
        try:
            with open(shard, "rb") as file:
                file.seek(header_block * BLOCK)
                header = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")
        except (OSError, tarfile.TarError):
            return shard, f"sample {number}"
        folder, slash, file_name = header.name.rpartition("/")
        key = folder + slash + file_name.partition(".")[0]
        return shard, key

    def _shard(self, number: int) -> str:
        """Return the shard of a sample."""
        shard_number = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._shards[shard_number]


def _read_file(file: io.FileIO, block: int, size: int) -> bytes | None:
    """Read a file in a tar; None for block 0."""
    if block == 0:
        return None
    file.seek(block * BLOCK)
    content = file.read(size)
    missing_bytes = size - len(content)
    if missing_bytes:
        raise BadSampleError("truncated", f"the tar ends {missing_bytes} bytes before the sample")
    require_one_file(content)
    return content


def index_shards(
    shards: Sequence[str], *, workers: int = 0, rank: int = 0, world_size: int = 1
) -> SampleIndex:
    """Index local tars; those without a stored index are scanned by `workers` processes.

    Each of `world_size` processes begins at another shard, so that they divide the scanning. Raises
    ShardError for an unreadable tar, and if there is no sample.
    """
    stored_index = _read_set_index(shards)
    if stored_index is not None:
        return stored_index
    rows_by_shard = _all_rows(shards, workers, rank, world_size)
    shard_rows = [rows_by_shard[shard] for shard in shards]
    starts = np.cumsum([0, *[len(rows) for rows in shard_rows]])
    rows = np.concatenate([np.empty((0, COLUMNS), np.int32), *shard_rows])
    if len(rows) == 0:
        raise ShardError(f"no sample in {len(shards)} shards, of which the first is {shards[0]}")
    _store_set_index(shards, starts, rows)
    # If it could be stored, it is mapped, and this process's own copy of the rows is dropped.
    return _read_set_index(shards) or SampleIndex(shards, starts, rows)


def _all_rows(shards: Sequence[str], workers: int, rank: int, world_size: int) -> dict[str, Rows]:
    """Return the rows of all shards, stored or scanned. Raises ShardError for unreadable ones."""
    rows_by_shard: dict[str, Rows] = {}
    missing_shards = []
    for shard in dict.fromkeys(shards):
        rows = cached_rows(shard)
        if rows is None:
            missing_shards.append(shard)
        else:
            rows_by_shard[shard] = rows
    # Each process begins at another shard. Rows that another process has stored are not scanned.
    first = rank * len(missing_shards) // world_size
    missing_shards = missing_shards[first:] + missing_shards[:first]
    errors = []
    scanned_shards = _scan_shards(missing_shards, workers)
    for shard, rows_or_error in zip(missing_shards, scanned_shards, strict=True):
        if isinstance(rows_or_error, ShardError):
            errors.append(rows_or_error)
        else:
            rows_by_shard[shard] = rows_or_error
    if len(errors) > 1:
        raise ShardError(f"{errors[0]} ({len(errors) - 1} other shards fail as well)")
    if errors:
        raise ShardError(str(errors[0]))
    return rows_by_shard


def _read_set_index(shards: Sequence[str]) -> SampleIndex | None:
    """Map the stored rows of all shards; None unless they are whole and no tar has changed."""
    for path in _index_paths("data-sets", *shards):
        with suppress(OSError, ValueError, KeyError):
            head = unpack_arrays(path.read_bytes())
            if not np.array_equal(head["states"], _file_states(shards)):
                continue
            # Mapped with copy on write, since a tensor must be writable; pages are still shared.
            rows_file = path.with_suffix(".rows")
            rows = np.memmap(rows_file, np.int32, mode="c").reshape(-1, COLUMNS)
            if len(rows) == head["starts"][-1] and zlib.crc32(rows.data) == head["checksum"]:
                return SampleIndex(shards, head["starts"], rows)
    return None


def _store_set_index(shards: Sequence[str], starts: npt.NDArray[Any], rows: Rows) -> None:
    """Store the rows of all shards in a file, and the states of the tars in another file."""
    checksum = np.array(zlib.crc32(rows.data))
    head = pack_arrays({"states": _file_states(shards), "starts": starts, "checksum": checksum})
    _store(_index_paths("data-sets", *shards), {".rows": rows.data.cast("B"), "": head})


def _scan_shards(shards: Sequence[str], workers: int) -> Iterator[Rows | ShardError]:
    """Yield the rows of each shard, or its error, from a pool of processes if there are workers."""
    if not shards or not workers:
        for shard in shards:
            yield tar_rows(shard)
        return
    with worker_lifetime() as init_worker:
        # Not as a context manager: if this is left early, workers end before their work is done.
        pool = ProcessPoolExecutor(
            min(workers, len(shards)), initializer=init_worker, initargs=(0,)
        )
        yield from pool.map(tar_rows, shards)
        pool.shutdown()


def tar_rows(shard: str) -> Rows | ShardError:
    """Return the stored rows of a tar, or scan it and store them; an error if it is unreadable."""
    stored_rows = cached_rows(shard)
    if stored_rows is not None:
        return stored_rows
    try:
        # Before the scan: a tar that changes during it will be scanned again.
        state = _file_state(shard)
        rows = scan_tar(shard)
    except TarError as error:
        return ShardError(f"{shard}: {error}")
    except OverflowError:  # int32 cannot hold the number of a block
        return ShardError(f"{shard}: larger than 1 TiB; use smaller tars")
    except OSError as error:
        return ShardError(f"{shard}: cannot be read ({error.strerror})")
    content = pack_arrays({"state": state, "rows": rows})
    _store(_index_paths("shards", shard), {"": content})
    return rows


def cached_rows(shard: str) -> Rows | None:
    """Return the stored rows of a tar; None unless they are whole and the tar has not changed."""
    for path in _index_paths("shards", shard):
        with suppress(OSError, ValueError, KeyError):
            stored = unpack_arrays(path.read_bytes())
            if np.array_equal(stored["state"], _file_state(shard)):
                return stored["rows"]
    return None


def scan_tar(shard: str) -> Rows:
    """Read the rows of a tar from its headers; samples are in the order of their first files.

    Files whose names are the same up to the first full stop are one sample. Its first image and its
    first JSON record are used. Raises TarError, OSError, and OverflowError for 1 TiB or more.
    """
    row_by_key: dict[str, list[int]] = {}
    for name, offset, size in read_members(shard):
        key, suffix = split_name(name) or ("", "")
        if suffix not in SAMPLE_SUFFIXES:
            continue
        row = row_by_key.setdefault(key, [0] * COLUMNS)
        block_column = 2 if suffix == "json" else 0  # the size is in the next column
        if row[block_column] == 0:
            row[block_column] = offset // BLOCK
            row[block_column + 1] = min(size, _MAX_INT32)
    if not row_by_key:
        _log.warning("%s: has no samples", shard)
    return np.array(list(row_by_key.values()), dtype=np.int32).reshape(-1, COLUMNS)


def _index_paths(kind: str, *shards: str) -> list[Path]:
    """Return the paths where an index of shards may be: beside the first shard, and in the cache.

    The path beside the shards stays valid if their folder is mounted elsewhere, because its name is
    a hash of relative paths.
    """
    paths = [os.path.realpath(shard) for shard in shards]
    folder = os.path.dirname(paths[0])
    relative_paths = [os.path.relpath(path, folder) for path in paths]
    cache = platformdirs.user_cache_dir("cosmos-train", appauthor=False)
    return [
        Path(folder, BESIDE, kind, _names_sha256(relative_paths)),
        Path(cache, kind, _names_sha256(paths)),
    ]


def _names_sha256(names: Sequence[str]) -> str:
    """Return the SHA-256 of several names, in order."""
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()


def _store(paths: Sequence[Path], contents: Mapping[str, bytes | memoryview]) -> None:
    """Write files, named by suffix, to the first of `paths` that can be written."""
    for path in paths:
        try:
            for suffix, content in contents.items():
                write_atomically(path.with_suffix(suffix), content)
            return
        except OSError as error:
            failure = error
    _log.warning("an index cannot be stored, tars are scanned each time: %s", failure)


def _file_states(shards: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the states (shards, 3) of tars; see `_file_state`."""
    return np.array([_file_state(shard) for shard in shards])


def _file_state(shard: str) -> npt.NDArray[np.int64]:
    """Return the state of a tar for which an index is valid: version, bytes, time of change."""
    stat = os.stat(shard)
    return np.array([_VERSION, stat.st_size, stat.st_mtime_ns])
