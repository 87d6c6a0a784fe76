"""Random access to the samples of local tars. The index of a tar, rows (samples, 4) of int32, has
first block and bytes of the image, then of the JSON record; block 0, never a file's, where a sample
lacks one. It is stored in `.cosmos-index` beside the tar, or, where that cannot be written, in the
user's cache folder. So are the rows of all tars of a data set in one file, which all processes and
workers of a machine map into their memory: it is there once."""

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
_VERSION = 3  # of the stored index
_MOST = np.iinfo(np.int32).max
Rows = npt.NDArray[np.int32]

_log = logging.getLogger(__name__)


class SampleIndex:
    """The samples of tars, in order: `rows` (N, 4) of all, and `starts` (shards + 1,), the first of
    each and N. Worker processes share the rows."""

    def __init__(self, shards: Sequence[str], starts: npt.NDArray[Any], rows: Rows) -> None:
        self._shards, self._starts = list(shards), starts
        self._rows = torch.from_numpy(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def fingerprint(self) -> list[list[Any]]:
        """Return name, bytes, samples and the SHA-256 of the rows of every shard, of plain types:
        they are the same where the shards lie in another folder."""
        rows, names = self._rows.numpy(), [Path(shard).name for shard in self._shards]
        parts = zip(names, self._shards, np.split(rows, self._starts[1:-1]), strict=True)
        return [
            [name, os.path.getsize(shard), len(own), hashlib.sha256(own.tobytes()).hexdigest()]
            for name, shard, own in parts
        ]

    def start(self, shards: int) -> int:
        """Return the number of samples in the first `shards` shards."""
        return int(self._starts[shards])

    def read(self, number: int) -> RawSample:
        """Read the files of a sample. Raises BadSampleError."""
        image, image_bytes, record, record_bytes = self._rows[number].tolist()
        try:
            with open(self._shard(number), "rb", buffering=0) as file:
                return RawSample(_read(file, image, image_bytes), _read(file, record, record_bytes))
        except (TarError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadSampleError("unreadable", str(reason)) from error

    def name(self, number: int) -> tuple[str, str]:
        """Return the shard and the key of a sample; the key is read from the tar."""
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
    if missing := size - len(data):
        raise BadSampleError("truncated", f"the tar ends {missing} bytes before the sample")
    require_one_file(data)
    return data


def index_shards(
    shards: Sequence[str], *, workers: int = 0, rank: int = 0, world_size: int = 1
) -> SampleIndex:
    """Index local tars; those without a stored index are scanned by `workers` processes. Each of
    `world_size` processes begins at another shard, so that they divide the scanning. Raises
    ShardError for an unreadable tar, and where there is no sample."""
    if (index := _mapped(shards)) is None:
        rows = _all_rows(shards, workers, rank, world_size)
        starts = np.cumsum([0, *(len(rows[shard]) for shard in shards)])
        whole = np.concatenate([np.empty((0, COLUMNS), np.int32), *(rows[s] for s in shards)])
        if len(whole) == 0:
            where = f"{len(shards)} shards, of which the first is {shards[0]}"
            raise ShardError(f"no sample in {where}")
        _write_whole(shards, starts, whole)
        # Mapped, where it could be written, so that this process's own copy is dropped.
        index = _mapped(shards) or SampleIndex(shards, starts, whole)
    return index


def _all_rows(shards: Sequence[str], workers: int, rank: int, world_size: int) -> dict[str, Rows]:
    rows = {shard: found for shard in shards if (found := cached_rows(shard)) is not None}
    missing = [shard for shard in dict.fromkeys(shards) if shard not in rows]
    first = rank * len(missing) // world_size
    missing = missing[first:] + missing[:first]
    results = dict(zip(missing, _scan(missing, workers), strict=True))
    failures = [result for result in results.values() if isinstance(result, ShardError)]
    if failures:
        others = f" ({len(failures) - 1} other shards fail as well)" if len(failures) > 1 else ""
        raise ShardError(f"{failures[0]}{others}")
    return rows | {shard: new for shard, new in results.items() if not isinstance(new, ShardError)}


def _mapped(shards: Sequence[str]) -> SampleIndex | None:
    """Map the rows of all shards, if they are stored whole and no tar has changed."""
    for path in _homes("data-sets", *shards):
        with suppress(OSError, ValueError, KeyError):
            head = unpack_arrays(path.read_bytes())
            if not np.array_equal(head["states"], _states(shards)):
                continue
            # Of copy on write, since a tensor must be writable; the pages are shared all the same.
            rows = np.memmap(path.with_suffix(".rows"), np.int32, mode="c").reshape(-1, COLUMNS)
            if len(rows) == head["starts"][-1] and zlib.crc32(rows.data) == head["checksum"]:
                return SampleIndex(shards, head["starts"], rows)
    return None


def _write_whole(shards: Sequence[str], starts: npt.NDArray[Any], rows: Rows) -> None:
    checksum = np.array(zlib.crc32(rows.data))
    head = pack_arrays({"states": _states(shards), "starts": starts, "checksum": checksum})
    _store(_homes("data-sets", *shards), {".rows": rows.data.cast("B"), "": head})


def _scan(shards: Sequence[str], workers: int) -> Iterator[Rows | ShardError]:
    if not shards or not workers:
        yield from map(tar_rows, shards)
        return
    with worker_lifetime() as start_worker:
        # No context manager: where this is left early, the workers end before their work is done.
        pool = ProcessPoolExecutor(min(workers, len(shards)), None, start_worker, (0,))
        yield from pool.map(tar_rows, shards)
        pool.shutdown()


def tar_rows(shard: str) -> Rows | ShardError:
    """Return the rows of a tar, scanned unless they are stored, or why it cannot be read."""
    if (rows := cached_rows(shard)) is not None:
        return rows
    try:
        state, rows = _state(shard), scan_tar(shard)
    except TarError as error:
        return ShardError(f"{shard}: {error}")
    except OverflowError:  # of the rows' int32
        return ShardError(f"{shard}: larger than 1 TiB; use smaller tars")
    except OSError as error:
        return ShardError(f"{shard}: cannot be read ({error.strerror})")
    _store(_homes("shards", shard), {"": pack_arrays({"state": state, "rows": rows})})
    return rows


def cached_rows(shard: str) -> Rows | None:
    """Return the rows of a tar if they are stored whole and the tar has not changed."""
    for path in _homes("shards", shard):
        with suppress(OSError, ValueError, KeyError):
            stored = unpack_arrays(path.read_bytes())
            if np.array_equal(stored["state"], _state(shard)):
                return stored["rows"]
    return None


def scan_tar(shard: str) -> Rows:
    """Read the rows of a tar from its headers: samples in the order of their first files. Files of
    one name up to its first full stop are one sample, of which the first image and the first JSON
    record count. Raises TarError, OSError, and OverflowError from 1 TiB on."""
    samples: dict[str, list[int]] = {}
    for name, offset, size in read_members(shard):
        key, suffix = split_name(name) or ("", "")
        if suffix in SAMPLE_SUFFIXES:
            row = samples.setdefault(key, [0] * COLUMNS)
            column = 2 if suffix == "json" else 0
            if row[column] == 0:
                row[column : column + 2] = offset // BLOCK, min(size, _MOST)
    if not samples:
        _log.warning("%s: has no samples", shard)
    return np.array(list(samples.values()), dtype=np.int32).reshape(-1, COLUMNS)


def _homes(kind: str, *shards: str) -> list[Path]:
    """Return where an index of shards may be: beside the first, by names that hold wherever the
    folder is mounted, and in the user's cache."""
    paths = [os.path.realpath(shard) for shard in shards]
    folder = os.path.dirname(paths[0])
    cache = platformdirs.user_cache_dir("cosmos-train", appauthor=False)
    homes = ((Path(folder, BESIDE), [os.path.relpath(p, folder) for p in paths]), (cache, paths))
    return [
        Path(
            home,
            kind,
            hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest(),
        )
        for home, names in homes
    ]


def _store(homes: Sequence[Path], contents: Mapping[str, bytes | memoryview]) -> None:
    """Write files, named by suffix, to the first of `homes` that can be written to."""
    for home in homes:
        try:
            for suffix, content in contents.items():
                write_atomically(home.with_suffix(suffix), content)
            return
        except OSError as error:
            failure = error
    _log.warning("an index cannot be stored, tars are scanned each time: %s", failure)


def _states(shards: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.array([_state(shard) for shard in shards])


def _state(shard: str) -> npt.NDArray[np.int64]:
    stat = os.stat(shard)
    return np.array([_VERSION, stat.st_size, stat.st_mtime_ns])
