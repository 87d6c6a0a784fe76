"""Files that are whole or not there, whatever kills the process, and where this program's lie."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from cosmos_core.utils.files import write_atomically as write_atomically

RESULTS = Path("runs/eval")
"""Where results go and are looked for, in the current folder.

Not `results`: in a checkout of this project that folder holds the results under version control,
which a trial run must not replace.
"""


_LARGEST = 4 << 30  # bytes of the arrays in a file
# Samples of 5,000 images with 171 classes take 1.3 MB.


def cache_folder() -> Path:
    """Where files lie that can be made again: COSMOS_EVAL_CACHE, or the user's cache folder."""
    chosen = os.environ.get("COSMOS_EVAL_CACHE")
    return Path(chosen or platformdirs.user_cache_path("cosmos-eval")).absolute()


@contextmanager
def exclusive(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder, which threads and processes take one after the other.

    The kernel releases it when a process dies. Yields whether it is held: some file systems,
    NFS among them, offer no lock on a folder. Raises OSError for a folder that cannot be opened.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _lock(handle)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a compressed .npz file of arrays; the same arrays are the same bytes."""
    archive = io.BytesIO()
    np.savez_compressed(archive, allow_pickle=False, **arrays)
    return archive.getvalue()


def unpack_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name. Raises ValueError for anything else."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _LARGEST:
            raise ValueError(f"unpacked it has {size >> 30} GiB")
        with np.load(io.BytesIO(content), allow_pickle=False) as members:
            arrays = {name: members[name] for name in members}
    except Exception as error:  # damaged files raise about ten kinds from zipfile, zlib and NumPy
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if foreign := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{foreign[0]} is not an array")
    return arrays


def json_sha256(content: Any) -> str:
    """SHA-256 of a JSON document with sorted keys and without white space, in hexadecimal."""
    text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
