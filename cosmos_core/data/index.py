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
BESIDE = ".cosmos-index"  # the folder beside the tars in which their indices are stored
_VERSION = 3  # the version of the format of a stored index
_MAX_INT32 = np.iinfo(np.int32).max
Rows = npt.NDArray[np.int32]
"""The index of a tar, (samples, 4): image block, image bytes, record block, record bytes."""

_log = logging.getLogger(__name__)


class SampleIndex:
    """The places of all samples in a list of tars, for random access by sample number.

    Samples are numbered through all tars, from 0. Worker processes share the rows of the index.
    """

    def __init__(self, shards: Sequence[str], starts: npt.NDArray[Any], rows: Rows) -> None:
        """Create an index of N samples.

        Args:
            shards: The paths of the tars.
            starts: The number of each shard's first sample, and N at the end (shards + 1,).
            rows: A row for each sample (N, 4): the first block and the bytes of its image, and then
                of its JSON record. Block 0 stands for a missing file.
        """
        self._shards = list(shards)
        self._starts = starts
        self._rows = torch.from_numpy(rows)

    def __len__(self) -> int:
        """Return the number of samples in all shards."""
        return len(self._rows)

    def fingerprint(self) -> list[list[Any]]:
        """Return an entry for each shard, by which training data can be compared.

        An entry is the name of the file, its bytes, its number of samples, and the SHA-256 of its
        rows in the index, such as `["00000.tar", 1048576, 1000, "9f86d0..."]`. The values have
        plain types and do not depend on the folder of the shards.
        """
        shard_rows = np.split(self._rows.numpy(), self._starts[1:-1])
        entries: list[list[Any]] = []
        for shard, rows in zip(self._shards, shard_rows, strict=True):
            sha256 = hashlib.sha256(rows.tobytes()).hexdigest()
            entries.append([Path(shard).name, os.path.getsize(shard), len(rows), sha256])
        return entries

    def count_samples(self, n_shards: int) -> int:
        """Return the number of samples in the first `n_shards` shards."""
        return int(self._starts[n_shards])

    def read(self, sample_number: int) -> RawSample:
        """Read the image file and the JSON record of a sample from its tar.

        Raises:
            BadSampleError: If they cannot be read.
        """
        image_block, image_bytes, record_block, record_bytes = self._rows[sample_number].tolist()
        try:
            with open(self._shard_of_sample(sample_number), "rb", buffering=0) as file:
                image = _read_file(file, image_block, image_bytes)
                record = _read_file(file, record_block, record_bytes)
        except (TarError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadSampleError("unreadable", str(reason)) from error
        return RawSample(image, record)

    def shard_and_key(self, sample_number: int) -> tuple[str, str]:
        """Return the path of a sample's shard, and the sample's key.

        The key is the name of its image up to the first full stop, or else of its JSON record. It
        is read from the tar: "folder/000123.jpg" has the key "folder/000123". If it cannot be read,
        the key is `sample NUMBER`.
        """
        shard = self._shard_of_sample(sample_number)
        image_block, _, record_block, _ = self._rows[sample_number].tolist()
        # The header of a file is one block long, and lies before the file's first block. Block 0
        # stands for a missing image.
        first_block = image_block or record_block
        header_block = first_block - 1
        try:
            with open(shard, "rb") as file:
                file.seek(header_block * BLOCK)
                header = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")
        except (OSError, tarfile.TarError):
            return shard, f"sample {sample_number}"
        folder, slash, file_name = header.name.rpartition("/")
        key = folder + slash + file_name.partition(".")[0]
        return shard, key

    def _shard_of_sample(self, sample_number: int) -> str:
        """Return the path of the shard that holds a sample.

        If the shards have 3 and 2 samples, samples 0 to 2 are in the first shard, and samples 3 and
        4 in the second.
        """
        # The shards start at the samples [0, 3], followed by the number of samples, 5. Both shards
        # have started at or before sample 4, so that it is in the second.
        n_shards_started = int(np.searchsorted(self._starts, sample_number, side="right"))
        return self._shards[n_shards_started - 1]


def _read_file(file: io.FileIO, block: int, size: int) -> bytes | None:
    """Read the content of a file in a tar.

    Args:
        file: The open tar.
        block: The number of the 512-byte block at which the content begins. Block 0 stands for a
            file that the sample lacks.
        size: The length of the content in bytes.

    Returns:
        The content, or None for block 0.

    Raises:
        BadSampleError: If the tar ends too early.
        TarError: If the content reaches into other files.
    """
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
    """Return the index of the samples in local tars.

    Tars without a stored index are scanned, and their index is stored.

    Args:
        shards: The paths of the tars.
        workers: The number of worker processes that scan. With 0, this process scans.
        rank: The number of this process of the training.
        world_size: The number of processes of the training. Each of them begins to scan at another
            shard, so that they divide the scanning.

    Raises:
        ShardError: If a tar cannot be read, or if all tars are empty.
    """
    stored_index = _read_set_index(shards)
    if stored_index is not None:
        return stored_index

    rows_by_shard = _read_or_scan_shards(shards, workers, rank, world_size)
    shard_rows = [rows_by_shard[shard] for shard in shards]
    # For shards of 3 and 2 samples, the starts are [0, 3, 5].
    starts = np.cumsum([0, *[len(rows) for rows in shard_rows]])
    rows = np.concatenate([np.empty((0, COLUMNS), np.int32), *shard_rows])
    if len(rows) == 0:
        raise ShardError(f"no sample in {len(shards)} shards, of which the first is {shards[0]}")

    _store_set_index(shards, starts, rows)
    # If the index could be stored, it is mapped from its file. All processes of the machine share
    # that memory, and this process's copy of the rows is dropped.
    mapped_index = _read_set_index(shards)
    if mapped_index is not None:
        return mapped_index
    return SampleIndex(shards, starts, rows)


def _read_or_scan_shards(
    shards: Sequence[str], workers: int, rank: int, world_size: int
) -> dict[str, Rows]:
    """Return the index rows of each tar, from its stored index or from a scan.

    Args:
        shards: The paths of the tars, which may have repetitions.
        workers: The number of worker processes that scan. With 0, this process scans.
        rank: The number of this process of the training.
        world_size: The number of processes of the training.

    Returns:
        The rows (samples, 4) by the path of the tar.

    Raises:
        ShardError: If tars cannot be read. The error names the first one and counts the others.
    """
    rows_by_shard: dict[str, Rows] = {}
    missing_shards = []
    for shard in dict.fromkeys(shards):
        rows = cached_rows(shard)
        if rows is None:
            missing_shards.append(shard)
        else:
            rows_by_shard[shard] = rows

    # Each process begins at another shard. Rows that another process has stored in the meantime
    # are read, not scanned. For 6 shards and 2 processes, the second process takes the shards in
    # the order 3, 4, 5, 0, 1, 2.
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
    """Return the stored index of a whole list of tars, with its rows mapped from their file.

    Return None if the index does not exist, if it is damaged, or if a tar has changed since.
    """
    for path in _index_paths("data-sets", *shards):
        # A file that is missing or damaged raises one of these errors.
        with suppress(OSError, ValueError, KeyError):
            head = unpack_arrays(path.read_bytes())
            has_changed = not np.array_equal(head["states"], _file_states(shards))
            if has_changed:
                continue
            # Mapped with copy on write, since a tensor must be writable; pages are still shared.
            rows_file = path.with_suffix(".rows")
            rows = np.memmap(rows_file, np.int32, mode="c").reshape(-1, COLUMNS)
            n_samples = head["starts"][-1]
            if len(rows) == n_samples and zlib.crc32(rows.data) == head["checksum"]:
                return SampleIndex(shards, head["starts"], rows)
    return None


def _store_set_index(shards: Sequence[str], starts: npt.NDArray[Any], rows: Rows) -> None:
    """Store the index of a whole list of tars, so that `_read_set_index` can map it.

    The index has two files. `NAME.rows` holds the rows as they are in memory. `NAME` holds the
    number of each shard's first sample, a checksum of the rows, and the sizes and times of the tars
    for which they are valid.

    Args:
        shards: The paths of the tars.
        starts: The number of each shard's first sample, and the number of samples at the end.
        rows: The rows of all samples (samples, 4).
    """
    checksum = np.array(zlib.crc32(rows.data))
    head = pack_arrays({"states": _file_states(shards), "starts": starts, "checksum": checksum})
    content_by_suffix: dict[str, bytes | memoryview] = {".rows": rows.data.cast("B"), "": head}
    _store_files(_index_paths("data-sets", *shards), content_by_suffix)


def _scan_shards(shards: Sequence[str], workers: int) -> Iterator[Rows | ShardError]:
    """Yield the index rows of each tar in order, or the error of an unreadable one.

    Args:
        shards: The paths of the tars.
        workers: The number of worker processes that scan. With 0, this process scans.
    """
    if not shards or not workers:
        for shard in shards:
            yield tar_rows(shard)
        return
    with worker_lifetime() as init_worker:
        # The pool is not used as a context manager, which would wait for all of its work if the
        # caller stops early.
        pool = ProcessPoolExecutor(
            min(workers, len(shards)), initializer=init_worker, initargs=(0,)
        )
        yield from pool.map(tar_rows, shards)
        pool.shutdown()


def tar_rows(shard: str) -> Rows | ShardError:
    """Return the index rows (samples, 4) of a tar, from its stored index or from a scan.

    The index of a scanned tar is stored. For an unreadable tar, ShardError is returned, not raised,
    so that a pool of processes goes on with the other tars.
    """
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
    _store_files(_index_paths("shards", shard), {"": content})
    return rows


def cached_rows(shard: str) -> Rows | None:
    """Return the stored index rows (samples, 4) of a tar.

    Return None if none are stored, if they are damaged, or if the tar has changed since.
    """
    for path in _index_paths("shards", shard):
        with suppress(OSError, ValueError, KeyError):
            stored = unpack_arrays(path.read_bytes())
            if np.array_equal(stored["state"], _file_state(shard)):
                return stored["rows"]
    return None


def scan_tar(shard: str) -> Rows:
    """Return the index rows (samples, 4) of a tar, which are computed from its headers.

    Files whose names are the same up to the first full stop are one sample. Its first image and its
    first JSON record are used. Samples are in the order of their first files.

    Args:
        shard: The path of the tar.

    Raises:
        TarError: If the tar is damaged.
        OSError: If the tar cannot be read.
        OverflowError: If the tar has 1 TiB or more.

    Example:
        A tar in which the image `a.jpg` of 700 bytes begins at block 1, and the record `a.json` of
        90 bytes at block 4, has the row [1, 700, 4, 90].
    """
    row_by_key: dict[str, list[int]] = {}
    for name, offset, size in read_members(shard):
        key, suffix = split_name(name) or ("", "")
        if suffix not in SAMPLE_SUFFIXES:
            continue
        row = row_by_key.setdefault(key, [0] * COLUMNS)
        block_column = 2 if suffix == "json" else 0
        size_column = block_column + 1
        is_first_of_its_kind = row[block_column] == 0
        if is_first_of_its_kind:
            row[block_column] = offset // BLOCK
            row[size_column] = min(size, _MAX_INT32)
    if not row_by_key:
        _log.warning("%s: has no samples", shard)
    return np.array(list(row_by_key.values()), dtype=np.int32).reshape(-1, COLUMNS)


def _index_paths(kind: str, *shards: str) -> list[Path]:
    """Return the paths at which an index of tars may be stored, the preferred one first.

    The name of the file is a hash of the tars' paths. Beside the tars, these are relative paths, so
    that the index stays valid if their folder is mounted elsewhere.

    Args:
        kind: The name of a folder: "shards" for the index of a single tar, or "data-sets" for the
            index of a list of tars.
        *shards: The paths of the tars.

    Returns:
        A path beside the first tar, and one in the user's cache folder, such as
        `/data/.cosmos-index/shards/1a2b...` and `~/.cache/cosmos-train/shards/3c4d...`.
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
    """Return the hexadecimal SHA-256 of a list of names, joined by zero bytes."""
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()


def _store_files(
    paths: Sequence[Path], content_by_suffix: Mapping[str, bytes | memoryview]
) -> None:
    """Store the files of an index at the first of several paths that can be written.

    If no path can be written, a warning is logged.

    Args:
        paths: The paths without a suffix, the preferred one first.
        content_by_suffix: The content of each file by the suffix that is added to the path. For
            `{".rows": b"...", "": b"..."}`, the files are `PATH.rows` and `PATH`.
    """
    for path in paths:
        try:
            for suffix, content in content_by_suffix.items():
                write_atomically(path.with_suffix(suffix), content)
            return
        except OSError as error:
            failure = error
    _log.warning("an index cannot be stored, tars are scanned each time: %s", failure)


def _file_states(shards: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the states (shards, 3) of tars, which `_file_state` describes."""
    return np.array([_file_state(shard) for shard in shards])


def _file_state(shard: str) -> npt.NDArray[np.int64]:
    """Return the numbers (3,) by which a changed tar is noticed.

    They are the version of the index format, the size in bytes, and the time of the last change in
    nanoseconds. A stored index is valid as long as the numbers of its tar are the same.
    """
    stat = os.stat(shard)
    return np.array([_VERSION, stat.st_size, stat.st_mtime_ns])
