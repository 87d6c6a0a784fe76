"""Where the files of each sample lie in a local tar, found once and kept in the user's cache.

A tar is indexed as rows (samples, 4) of int32: first block and bytes of the image, first block and
bytes of the JSON record; block 0, never a file's, where a sample lacks one. 16 bytes a sample.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import platformdirs

from cosmos_core.data.shards import ShardError
from cosmos_core.data.tar import BLOCK, Member, TarError, TarReader, split_name
from cosmos_core.utils.files import write_atomically

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
COLUMNS = 4
_VERSION = 2  # indexes of version 1 may be of a part of a damaged tar
_MOST = np.iinfo(np.int32).max
Rows = npt.NDArray[np.int32]

_log = logging.getLogger(__name__)


def tar_rows(shard: str) -> Rows:
    """The rows of a tar, scanned where the cache does not hold them. Raises ShardError."""
    rows = cached_rows(shard)
    if rows is None:
        identity = _identity(shard)
        rows = scan_tar(shard)
        _save(_entry(shard), identity, rows)
    return rows


def cached_rows(shard: str) -> Rows | None:
    """The rows of a tar, if the cache holds them whole and of its present state."""
    try:
        head, data = _entry(shard).read_bytes().split(b"\n", 1)
    except (OSError, ValueError):
        return None
    if head != _head(_identity(shard), data):
        return None
    return np.frombuffer(data, dtype="<i4").astype(np.int32).reshape(-1, COLUMNS)


def scan_tar(shard: str) -> Rows:
    """The rows of a tar, read from its headers: samples in the order of their first files.

    Files of one name up to its first full stop are one sample, of which the first image and the
    first JSON record count; a name without either is none. Raises ShardError for a tar that is
    damaged or cannot be read.
    """
    samples: dict[str, list[int]] = {}
    try:
        with open(shard, "rb") as file:
            for member in TarReader(file):
                _note(samples, member)
        rows = np.array(list(samples.values()), dtype=np.int32)
    except TarError as error:
        raise ShardError(f"{shard}: {error}") from error
    except OSError as error:
        raise ShardError(f"{shard}: cannot be read ({error.strerror})") from error
    except OverflowError as error:  # of the rows' int32
        raise ShardError(f"{shard}: larger than 1 TiB; use smaller tars") from error
    if not samples:
        _log.warning("%s: has no samples", shard)
    return rows.reshape(-1, COLUMNS)


def _note(samples: dict[str, list[int]], member: Member) -> None:
    found = split_name(member.name)
    if found is None or found[1] not in (*IMAGE_SUFFIXES, "json"):
        return
    row = samples.setdefault(found[0], [0] * COLUMNS)
    column = 2 if found[1] == "json" else 0
    if row[column] == 0:
        row[column : column + 2] = member.offset // BLOCK, min(member.size, _MOST)


def _entry(shard: str) -> Path:
    digest = hashlib.sha256(os.path.realpath(shard).encode(errors="surrogateescape")).hexdigest()
    return Path(platformdirs.user_cache_dir("cosmos-train", appauthor=False)) / "shards" / digest


def _identity(shard: str) -> str:
    try:
        stat = os.stat(shard)
    except OSError as error:
        raise ShardError(f"{shard}: cannot be read ({error.strerror})") from error
    return f"{_VERSION} {stat.st_size} {stat.st_mtime_ns}"


def _save(entry: Path, identity: str, rows: Rows) -> None:
    data = rows.astype("<i4").tobytes()
    try:
        write_atomically(entry, _head(identity, data) + b"\n" + data)
    except OSError as error:
        _log.warning("the index of a shard cannot be kept in %s: %s", entry.parent, error)


def _head(identity: str, data: bytes) -> bytes:
    return f"{identity} {len(data)} {zlib.crc32(data)}".encode()
