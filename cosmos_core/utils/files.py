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

from cosmos_core.utils.errors import UsageError

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

    If several threads or processes write to one path, the last one to finish wins.

    Args:
        path: The file to write. Its folder is created if it is missing. A pipe or a device, such as
            /dev/stdout, is written directly.
        content: All bytes of the file.

    Raises:
        OSError: If the file cannot be written, or if the path is a pipe that nobody reads. The
            error names the path.
    """
    if _is_pipe_or_device(path):
        with errors_of(path):
            # With O_NONBLOCK, opening a pipe that nobody reads is an error, and does not wait.
            handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            with open(handle, "wb") as stream:
                os.set_blocking(handle, True)
                stream.write(content)
        return
    with errors_of(path), replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary binary file to write, which is renamed to `path` at the end of the block.

    An existing file is replaced. If the block raises an error, the temporary file is removed, and
    `path` stays as it was.

    Example::

        with replacing(Path("weights.pt")) as file:
            torch.save(weights, file)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked_temporary(path.parent) as (temporary, handle):
        with open(handle, "wb", closefd=False) as file:
            yield file
            file.flush()
            os.fsync(handle)
        temporary.replace(path)


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill, which is renamed to `path` at the end of the block.

    If the block raises an error, the temporary folder is removed.

    Raises:
        OSError: If `path` exists and is not an empty folder.

    Example::

        with appearing(Path("export")) as folder:
            (folder / "config.json").write_text("{}")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked_temporary(path.parent, is_folder=True) as (temporary, _):
        yield temporary
        temporary.replace(path)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder inside of `parent`, which is removed at the end of the block."""
    with _locked_temporary(parent, is_folder=True) as (path, _):
        yield path


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Add the name of the file that the block writes to every OSError of the block.

    Without this, the error of a full disk does not say which file could not be written.

    Args:
        path: The file or folder that the block writes.

    Raises:
        OSError: If the block raises an OSError, or a RuntimeError that `torch.save` made of an
            OSError. It has the same error number, and names `path`.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # The context of the RuntimeError of `torch.save` is the OSError.
        os_error = error if isinstance(error, OSError) else error.__context__
        if not isinstance(os_error, OSError) or os_error.errno is None:
            raise
        raise OSError(os_error.errno, os.strerror(os_error.errno), str(path)) from error


def require_writable(folder: Path) -> None:
    """Check that files can be written to a folder, by writing a small file as a test.

    The folder may be missing, if it can be created.

    Raises:
        ValueError: If no files can be written. The error names the folder.
    """
    try:
        _write_probe(folder)
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}") from error


def require_new_folder(path: Path) -> None:
    """Check that a folder can be created. It may exist if it is empty.

    Raises:
        ValueError: If it has content, or cannot be created. The error names the folder.
    """
    is_empty_folder = path.is_dir() and not any(path.iterdir())
    if path.exists() and not is_empty_folder:
        raise ValueError(f"{path} is there already; choose another folder")
    require_writable(path.parent)


def require_replaceable(path: Path) -> None:
    """Check that `write_atomically` can write a file, which may exist and would be replaced.

    Raises:
        ValueError: If it cannot be written. The error names the file.
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

    It is the environment variable COSMOS_EVAL_CACHE, in which `~` is the home folder, or, if that
    is not set, the folder `cosmos-eval` in the user's cache, such as `~/.cache/cosmos-eval`.

    Raises:
        UsageError: If the folder is in the home folder, and that is unknown, as in a container
            without HOME.
    """
    import platformdirs

    try:
        folder = os.environ.get("COSMOS_EVAL_CACHE") or platformdirs.user_cache_dir("cosmos-eval")
        return Path(folder).expanduser().absolute()
    except RuntimeError as error:
        message = "the home folder is unknown: set HOME, or COSMOS_EVAL_CACHE to a folder"
        raise UsageError(message) from error


@contextmanager
def folder_lock(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder, so that one thread or process at a time runs the block.

    The others wait before their blocks. The kernel releases the lock when a process dies.

    Args:
        folder: A folder that exists.

    Yields:
        True if the lock is held. False if the file system has no locks on folders, such as NFS.

    Raises:
        OSError: If the folder cannot be opened.
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
    """Return the content of a compressed .npz file with the arrays under their names.

    The same arrays give the same bytes. `unpack_arrays` reads them again.
    """
    import numpy as np

    archive = io.BytesIO()
    np.savez_compressed(archive, allow_pickle=False, **arrays)
    return archive.getvalue()


def unpack_arrays(content: bytes, largest: int = _MAX_UNPACKED_BYTES) -> dict[str, NDArray[Any]]:
    """Return the arrays in the content of an .npz file by their names.

    Args:
        content: All bytes of the .npz file. They may come from a stranger: no object is unpickled,
            and no array is allocated before its size is checked.
        largest: How many bytes the unpacked arrays may take together.

    Raises:
        ValueError: If the content is not a valid .npz file, or if its arrays would take more than
            `largest` bytes.
    """
    from numpy.lib import format as npy

    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # Check all sizes before an array is allocated.
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > largest:
                raise ValueError(f"unpacked it has {size >> 20:,} MiB, more than {largest >> 20:,}")
            for member in members:
                _require_size_of_header(archive, member)

            # numpy.load would read the list of members and each header once more.
            for member in members:
                with archive.open(member) as file:
                    name = member.filename.removesuffix(".npy")
                    arrays[name] = npy.read_array(file, allow_pickle=False)
    except Exception as error:  # damaged files raise about ten kinds from zipfile, zlib and NumPy
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return arrays


def _require_size_of_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Check that a .npy file in an .npz archive is as large as the header of its array says.

    NumPy allocates the array by its header, even if less data follow: a file of 100 bytes whose
    header has the shape (1000000, 1000) would fill the memory. Arrays of Python objects are not
    checked, since NumPy refuses to load them.

    Args:
        archive: The open .npz archive.
        member: The .npy file in the archive.

    Raises:
        ValueError: If the file has another size.
    """
    from numpy.lib import format as npy

    header_readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    with archive.open(member) as file:
        version = npy.read_magic(file)
        shape, _, dtype = header_readers[version](file)
        header_size = file.tell()
    expected_size = header_size + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and expected_size != member.file_size:
        raise ValueError(f"{member.filename} has {member.file_size:,} bytes, not {expected_size:,}")


def json_sha256(content: Any) -> str:
    """Return the hexadecimal SHA-256 of a value as JSON, with sorted keys and no white space.

    For example, `{"b": 1, "a": 2}` has the hash of the text `{"a":2,"b":1}`.

    Raises:
        ValueError: If the value contains NaN or an infinity.
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

    If the folder is missing, the nearest folder above it that exists is tested.

    Raises:
        OSError: If the file cannot be written.
    """
    try:
        os.lstat(folder)
    except FileNotFoundError:
        return _write_probe(folder.parent)
    with _locked_temporary(folder) as (_, handle):
        with open(handle, "wb", closefd=False) as file:
            file.write(_PROBE_CONTENT)
        os.fsync(handle)


def _is_pipe_or_device(path: Path) -> bool:
    """Return whether a path is a pipe or a device."""
    return path.exists() and not (path.is_file() or path.is_dir())


@contextmanager
def _locked_temporary(folder: Path, *, is_folder: bool = False) -> Iterator[tuple[Path, int]]:
    """Create a temporary file or folder, and hold its lock until the end of the block.

    It is removed after the block, if the block has not renamed it. Temporary files that killed
    processes have left in `folder` are removed before.

    Args:
        folder: The folder in which it is created.
        is_folder: True to create a folder, False to create a file.

    Yields:
        The path, and an open file descriptor. The lock is released when the descriptor is closed.
    """
    _remove_temporary_files(folder)
    while True:
        path = folder / f".{_MACHINE}-{uuid4().hex}.tmp"
        if is_folder:
            path.mkdir()
            handle = os.open(path, os.O_RDONLY, 0o666)
        else:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        # Lock it. Before that, another process may take it for a file of a killed process, lock it,
        # and remove it. A removed file has no links. Then another one is created.
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_usable = os.fstat(handle).st_nlink > 0
        except BlockingIOError:
            is_usable = False
        except OSError:
            # Without locks in the file system, no process removes temporary files.
            is_usable = True
        if is_usable:
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
                machine = name_match[1]
                _remove_if_abandoned(Path(entry.path), is_of_this_machine=machine == _MACHINE)


def _remove_if_abandoned(path: Path, *, is_of_this_machine: bool) -> None:
    """Remove a temporary file or folder, unless a living process may still write it.

    The process that writes it holds a lock on it. On some network file systems a lock is known only
    to one machine. So a file of another machine is removed only if it is also older than a day.

    Args:
        path: The temporary file or folder.
        is_of_this_machine: True if a process of this machine has created it.
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
