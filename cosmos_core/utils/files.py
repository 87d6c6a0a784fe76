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

# Eight hexadecimal digits that stand for this machine in names of temporary files.
_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_TEMPORARY_NAME = re.compile(r"\.([0-9a-f]{8})-[0-9a-f]{32}\.tmp")
_SECONDS_PER_DAY = 86_400
_PROBE_CONTENT = bytes(4096)  # is written to a folder to test whether it can be
_MAX_UNPACKED_BYTES = 4 << 30

_cleared: set[str] = set()  # folders that this process has cleared of temporary files


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that it is whole or absent, even if this process is killed.

    The folder is created if it is missing. If several threads or processes write to one path, the
    last one to finish wins. A pipe or a device, such as /dev/stdout, is written directly. Raises
    OSError, which names the path, if it cannot be written, and for a pipe that nobody reads.
    """
    if _is_pipe_or_device(path):
        with errors_of(path):
            # With this flag, opening a pipe that nobody reads is an error, and does not wait.
            handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            with open(handle, "wb") as stream:
                os.set_blocking(handle, True)
                stream.write(content)
        return
    with errors_of(path), replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary binary file to write, which becomes `path` at the end of the block.

    An existing file is replaced. If the block raises an error, the temporary file is removed, and
    `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path.parent) as (temporary, handle):
        with open(handle, "wb", closefd=False) as file:
            yield file
            file.flush()
            os.fsync(handle)
        temporary.replace(path)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill, which becomes `path` at the end of the block.

    If the block raises an error, the folder is removed. Raises OSError if `path` exists and is not
    an empty folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path.parent, is_folder=True) as (temporary, _):
        yield temporary
        temporary.replace(path)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder inside of `parent`, which is removed at the end of the block."""
    with _temporary(parent, is_folder=True) as (path, _):
        yield path


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Raise every OSError of the block again with the name of `path`, which the block writes.

    The system does not name the file when a disk is full. `torch.save` turns an OSError into a
    RuntimeError, whose context is the OSError. It is raised as an OSError too.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        os_error = error if isinstance(error, OSError) else error.__context__
        if not isinstance(os_error, OSError) or os_error.errno is None:
            raise
        raise OSError(os_error.errno, os.strerror(os_error.errno), str(path)) from error


def require_writable(folder: Path) -> None:
    """Raise ValueError, which names the folder, if no files can be written to it.

    The folder may be missing, if it can be created. A small file is written as a test.
    """
    try:
        _write_probe(folder)
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from error


def require_new_folder(path: Path) -> None:
    """Raise ValueError, which names the folder, if it cannot become a new folder.

    It may exist if it is empty.
    """
    is_empty_folder = path.is_dir() and not any(path.iterdir())
    if path.exists() and not is_empty_folder:
        raise ValueError(f"{path} is there already; choose another folder")
    require_writable(path.parent)


def require_replaceable(path: Path) -> None:
    """Raise ValueError, which names the file, if `write_atomically` could not write it.

    The file may exist: it would be replaced.
    """
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a folder; name a file")
    try:
        if not _is_pipe_or_device(path):
            _write_probe(path.parent)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from error


def cache_folder() -> Path:
    """Return the absolute path of the folder for files that can be made again.

    It is the environment variable COSMOS_EVAL_CACHE or, if that is not set, the folder
    `cosmos-eval` in the user's cache, such as `~/.cache/cosmos-eval`.
    """
    import platformdirs

    folder = os.environ.get("COSMOS_EVAL_CACHE") or platformdirs.user_cache_path("cosmos-eval")
    return Path(folder).absolute()


@contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder during the block, so that one thread or process at a time runs it.

    The others wait. The kernel releases the lock when a process dies. Yields True if the lock is
    held, and False on a file system without locks on folders, such as NFS. Raises OSError for a
    folder that cannot be opened.
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
    """Return the content of a compressed .npz file with arrays by their names.

    The same arrays give the same bytes.
    """
    import numpy as np

    archive = io.BytesIO()
    np.savez_compressed(archive, allow_pickle=False, **arrays)
    return archive.getvalue()


def unpack_arrays(content: bytes, largest: int = _MAX_UNPACKED_BYTES) -> dict[str, NDArray[Any]]:
    """Return the arrays in the content of an .npz file by their names.

    Raises ValueError if the content is not a valid .npz file, or if its arrays would take more than
    `largest` bytes. These are not unpacked.
    """
    import numpy as np

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > largest:
                raise ValueError(f"unpacked it has {size >> 20:,} MiB, more than {largest >> 20:,}")
            for member in members:
                _require_stated_size(archive, member)
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file}
    except Exception as error:  # damaged files raise about ten kinds from zipfile, zlib and NumPy
        raise ValueError(f"{type(error).__name__}: {error}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} is not an array")
    return arrays


def _require_stated_size(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Raise ValueError unless the size of a .npy file follows from the header of its array.

    NumPy allocates the array by its header, even if less data follow: a file of 100 bytes that
    states the shape (1000000, 1000) would fill the memory. `member` is the file in an .npz archive.
    Arrays of Python objects are not checked, since NumPy refuses to load them.
    """
    from numpy.lib import format as npy

    header_readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    with archive.open(member) as file:
        version = npy.read_magic(file)
        shape, _, dtype = header_readers[version](file)
        header_size = file.tell()
        stated_size = header_size + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and stated_size != member.file_size:
        raise ValueError(f"{member.filename} has {member.file_size:,} bytes, not {stated_size:,}")


def json_sha256(content: Any) -> str:
    """Return the hexadecimal SHA-256 of a value as JSON, with sorted keys and no white space.

    So `{"b": 1, "a": 2}` has the hash of the text `{"a":2,"b":1}`. Raises ValueError for NaN and
    infinities.
    """
    text = json.dumps(content, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of the content of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while True:
            chunk = file.read(1 << 20)
            if not chunk:
                return digest.hexdigest()
            digest.update(chunk)


def _write_probe(folder: Path) -> None:
    """Write a small temporary file to a folder as a test, and remove it.

    If the folder is missing, its nearest parent that exists is tested. Raises OSError if the file
    cannot be written.
    """
    try:
        os.lstat(folder)
    except FileNotFoundError:
        return _write_probe(folder.parent)
    with _temporary(folder) as (_, handle):
        with open(handle, "wb", closefd=False) as file:
            file.write(_PROBE_CONTENT)
        os.fsync(handle)


def _is_pipe_or_device(path: Path) -> bool:
    """Return whether a path is a pipe or a device."""
    return path.exists() and not (path.is_file() or path.is_dir())


@contextmanager
def _temporary(folder: Path, *, is_folder: bool = False) -> Iterator[tuple[Path, int]]:
    """Yield a locked temporary file or folder inside of `folder`, and its file descriptor.

    It is removed after the block, if the block has not renamed it. Temporary files that killed
    processes have left in `folder` are removed before.
    """
    _remove_temporary_files(folder)
    while True:
        path = folder / f".{_MACHINE}-{uuid4().hex}.tmp"
        if is_folder:
            path.mkdir()
            handle = os.open(path, os.O_RDONLY, 0o666)
        else:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        # Before it is locked, another process may take it for a file of a killed process, and
        # remove it. Then it is tried again.
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
    """Remove a file, or a folder with its content. It may be missing."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lock_new_file(handle: int) -> bool:
    """Lock a file that this process has just created, and return whether it can be used.

    Return False if another process has removed it, or has locked it to remove it.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # without locks in a file system, no process removes files
        return True
    return os.fstat(handle).st_nlink > 0


def _remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder.

    A process does this only once for each folder.
    """
    absolute_path = os.path.abspath(folder)
    if absolute_path in _cleared:
        return
    _cleared.add(absolute_path)
    with suppress(OSError), os.scandir(absolute_path) as entries:
        for entry in entries:
            # The name of a temporary file is `.MACHINE-RANDOM.tmp`.
            name_match = _TEMPORARY_NAME.fullmatch(entry.name)
            if name_match is not None:
                is_of_this_machine = name_match[1] == _MACHINE
                _remove_abandoned(Path(entry.path), is_of_this_machine=is_of_this_machine)


def _remove_abandoned(path: Path, *, is_of_this_machine: bool) -> None:
    """Remove a temporary file or folder unless a process has locked it, and so still writes it.

    On some network file systems a lock is only known to one machine. So files of another machine,
    whose writer may be alive, are removed only if they are older than a day.
    """
    with suppress(OSError):
        # NFS locks a file only if it is open for writing.
        mode = os.O_RDONLY if path.is_dir() else os.O_RDWR
        handle = os.open(path, mode | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            # Raises BlockingIOError, an OSError, if a process has locked it.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            age_in_seconds = time.time() - os.fstat(handle).st_mtime
            if is_of_this_machine or age_in_seconds > _SECONDS_PER_DAY:
                remove(path)
        finally:
            os.close(handle)
