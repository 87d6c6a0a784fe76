"""Atomic writes, locks, hashes, packed arrays, and the cache folder.

A file or folder is written under a hidden temporary name beside it, `.MACHINE-RANDOM.tmp`, and
renamed when it is complete. So it is whole or absent, however the process ends. The writer holds a
lock (flock) on it, which the kernel releases when the process dies. The next process that writes to
the folder removes temporary files that nobody has locked.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import math
import os
import platform
import re
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_TEMPORARY = re.compile(r"\.([0-9a-f]{8})-[0-9a-f]{32}\.tmp")
_DAY = 86_400  # seconds
_PROBE = bytes(4096)  # the content of a file that is written to test a folder
_MAX_UNPACKED_BYTES = 4 << 30

_cleared: set[str] = set()  # folders that this process has cleared of temporary files


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file; its folder is created if it is missing. Raises OSError, with the path.

    If several threads or processes write to one path, the last to finish wins. A pipe or device,
    such as /dev/stdout, is written as it is; OSError is raised for a pipe that nobody reads.
    """
    if _is_special(path):
        with errors_of(path):
            # Does not wait for a reader of a pipe.
            handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            with open(handle, "wb") as stream:
                os.set_blocking(handle, True)
                stream.write(content)
        return
    with errors_of(path), replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write. It becomes `path` at the end of the block, or is removed on error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path.parent) as (temporary, handle):
        with open(handle, "wb", closefd=False) as file:
            yield file
            file.flush()
            os.fsync(handle)
        temporary.replace(path)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a folder to fill. It becomes `path` at the end of the block, or is removed on an error.

    Raises OSError if `path` exists and is not an empty folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path.parent, is_folder=True) as (temporary, _):
        yield temporary
        temporary.replace(path)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a folder that is removed at the end of the block."""
    with _temporary(parent, is_folder=True) as (path, _):
        yield path


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Name `path` in every OSError of a block that only writes this path.

    The system names no file when a disk is full, and `torch.save` turns its error into another.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.errno is None:
            raise
        raise OSError(cause.errno, os.strerror(cause.errno), str(path)) from error


def require_writable(folder: Path) -> None:
    """Raise ValueError, which names the folder, if no files can be written to it."""
    try:
        _probe(folder)
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from error


def require_new_folder(path: Path) -> None:
    """Raise ValueError, which names the folder, if it is not empty or cannot be created."""
    is_empty_folder = path.is_dir() and not any(path.iterdir())
    if path.exists() and not is_empty_folder:
        raise ValueError(f"{path} is there already; choose another folder")
    require_writable(path.parent)


def require_replaceable(path: Path) -> None:
    """Raise ValueError, which names the file, if `write_atomically` could not write it."""
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder; name a file")
    try:
        if not _is_special(path):
            _probe(path.parent)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from error


def cache_folder() -> Path:
    """Return the folder for reproducible files: COSMOS_EVAL_CACHE, or the user's cache."""
    import platformdirs

    folder = os.environ.get("COSMOS_EVAL_CACHE") or platformdirs.user_cache_path("cosmos-eval")
    return Path(folder).absolute()


@contextmanager
def exclusive(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder, which threads and processes take one after the other.

    The kernel releases the lock when a process dies. Yields whether it is held: some file systems,
    such as NFS, have no locks on folders. Raises OSError for a folder that cannot be opened.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        is_held = False
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
            is_held = True
        yield is_held
    finally:
        os.close(handle)


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a compressed .npz file of arrays; the same arrays give the same bytes."""
    import numpy as np

    archive = io.BytesIO()
    np.savez_compressed(archive, allow_pickle=False, **arrays)
    return archive.getvalue()


def unpack_arrays(content: bytes, largest: int = _MAX_UNPACKED_BYTES) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name.

    Raises ValueError for other content, and for arrays of more than `largest` bytes, which are not
    unpacked.
    """
    import numpy as np

    try:
        _require_sizes(content, largest)
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file}
    except Exception as error:  # damaged files raise about ten kinds from zipfile, zlib and NumPy
        raise ValueError(f"{type(error).__name__}: {error}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} is not an array")
    return arrays


def _require_sizes(content: bytes, largest: int) -> None:
    """Raise an error if an .npz file is too large unpacked, or states a wrong size."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        if size > largest:
            raise ValueError(f"unpacked it has {size >> 20:,} MiB, more than {largest >> 20:,}")
        for member in members:
            _require_stated_size(archive, member)


def _require_stated_size(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raise an error unless an array's header states the size of its member of a zip file.

    NumPy allocates the array by its header, even if less data follow.
    """
    from numpy.lib import format as npy

    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    with archive.open(member) as file:
        shape, _, dtype = readers[npy.read_magic(file)](file)
        stated_size = file.tell() + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and stated_size != member.file_size:
        raise ValueError(f"{member.filename} has {member.file_size:,} bytes, not {stated_size:,}")


def json_sha256(content: Any) -> str:
    """Return the hexadecimal SHA-256 of a JSON document with sorted keys and no white space."""
    text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while True:
            chunk = file.read(1 << 20)
            if not chunk:
                return digest.hexdigest()
            digest.update(chunk)


def _probe(folder: Path) -> None:
    """Write a small file to a folder, or to its nearest parent that exists, and remove it."""
    try:
        os.lstat(folder)
    except FileNotFoundError:
        return _probe(folder.parent)
    with _temporary(folder) as (_, handle):
        with open(handle, "wb", closefd=False) as file:
            file.write(_PROBE)
        os.fsync(handle)


def _is_special(path: Path) -> bool:
    """Return whether a path is a pipe or a device."""
    return path.exists() and not (path.is_file() or path.is_dir())


@contextmanager
def _temporary(folder: Path, *, is_folder: bool = False) -> Iterator[tuple[Path, int]]:
    """Yield a temporary file or folder and the handle of its lock; remove it after the block."""
    _remove_temporary_files(folder)
    while True:
        path = folder / f".{_MACHINE}-{uuid4().hex}.tmp"
        if is_folder:
            path.mkdir()
        flags = os.O_RDONLY if is_folder else os.O_RDWR | os.O_CREAT | os.O_EXCL
        handle = os.open(path, flags, 0o666)
        if _lock_new_file(handle):
            break
        os.close(handle)
        remove(path)
    try:
        yield path, handle
    finally:
        os.close(handle)
        remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lock_new_file(handle: int) -> bool:
    """Lock a file that this process has just created, and return whether it can be used.

    Return False if another process has removed it, or is about to: before it is locked it looks
    like a file of a killed process.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # without locks in a file system, no process removes files
        return True
    return os.fstat(handle).st_nlink > 0


def _remove_temporary_files(folder: Path) -> None:
    """Remove temporary files of killed processes from a folder, once for each folder in a process.

    On some network file systems a lock is only known to one machine. So files of another machine,
    whose writer may be alive, are removed only if they are older than a day.
    """
    name = os.path.abspath(folder)
    if name in _cleared:
        return
    _cleared.add(name)
    with suppress(OSError), os.scandir(name) as entries:
        for entry in entries:
            name_match = _TEMPORARY.fullmatch(entry.name)
            if name_match is not None:
                is_of_this_machine = name_match[1] == _MACHINE
                _remove_abandoned(Path(entry.path), is_of_this_machine=is_of_this_machine)


def _remove_abandoned(path: Path, *, is_of_this_machine: bool) -> None:
    """Remove a temporary file unless a process has locked it.

    A file of another machine is removed only if it is older than a day.
    """
    with suppress(OSError):
        # NFS locks a file only if it is open for writing.
        mode = os.O_RDONLY if path.is_dir() else os.O_RDWR
        handle = os.open(path, mode | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            age = time.time() - os.fstat(handle).st_mtime
            if is_of_this_machine or age > _DAY:
                remove(path)
        finally:
            os.close(handle)
