"""Where the files of each sample lie in a local tar, found once and kept in the user's cache.

A tar is indexed as rows (samples, 4) of int32: first block and bytes of the image, first block and
bytes of the JSON record; block 0, never a file's, where a sample lacks one. 16 bytes a sample.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import platformdirs

from cosmos_core.data.shards import ShardError

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
BLOCK = tarfile.BLOCKSIZE
COLUMNS = 4
_VERSION = 1
_META = re.compile(r"__[^/]*__(/|$)")  # what webdataset passes over
_MOST = np.iinfo(np.int32).max
Rows = npt.NDArray[np.int32]

_log = logging.getLogger(__name__)


class Scan(NamedTuple):
    """The rows of a tar, and whether it ends as a tar does."""

    rows: Rows
    whole: bool


def tar_rows(shard: str) -> Rows:
    """The rows of a tar, scanned where the cache does not hold them. Raises ShardError.

    A damaged tar is not kept: every run is to tell of it.
    """
    rows = cached_rows(shard)
    if rows is None:
        identity = _identity(shard)
        rows, whole = scan_tar(shard)
        if whole:
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


def scan_tar(shard: str) -> Scan:
    """The rows of a tar, read from its headers: samples in the order of their first files.

    Files of one name up to its first full stop are one sample, of which the first image and the
    first JSON record count; a name without either is none. A tar that is cut off or damaged ends
    there. Raises ShardError.
    """
    samples: dict[str, list[int]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            try:
                for member in tar:
                    _note(samples, member)
                whole = _ends_well(shard, tar.offset)
            except tarfile.ReadError:
                whole = False
    except (tarfile.TarError, OSError, OverflowError) as error:
        hint = "compressed tars are read as pipe:zcat PATH"
        raise ShardError(f"{shard}: not a readable, uncompressed tar ({error}); {hint}") from error
    if not whole:
        _log.warning("%s: cut off or damaged after %d samples", shard, len(samples))
    rows = np.array(list(samples.values()), dtype=np.int32)
    return Scan(rows.reshape(-1, COLUMNS), whole)


def _note(samples: dict[str, list[int]], member: tarfile.TarInfo) -> None:
    folder, slash, name = member.name.rpartition("/")
    stem, _, suffix = name.partition(".")
    suffix = suffix.lower()
    if not member.isreg() or not stem or suffix not in (*IMAGE_SUFFIXES, "json"):
        return
    if _META.match(member.name):
        return
    row = samples.setdefault(folder + slash + stem, [0] * COLUMNS)
    column = 2 if suffix == "json" else 0
    if row[column] == 0:
        row[column : column + 2] = member.offset_data // BLOCK, min(member.size, _MOST)


def _ends_well(shard: str, end: int) -> bool:
    """tarfile takes a damaged header for the end, which is zeros or the end of the file."""
    with open(shard, "rb") as file:
        file.seek(end)
        return not file.read(BLOCK).strip(b"\0")


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
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=entry.parent, delete=False) as file:
            file.write(_head(identity, data) + b"\n" + data)
        os.replace(file.name, entry)
    except OSError as error:
        _log.warning("the index of a shard cannot be kept in %s: %s", entry.parent, error)


def _head(identity: str, data: bytes) -> bytes:
    return f"{identity} {len(data)} {zlib.crc32(data)}".encode()
