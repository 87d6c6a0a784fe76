"""Embeddings kept on the disk under everything that decides them, for the next run or a killed one.

A shelf holds the embeddings of one identity (weights, architecture, preprocessing or tokenizer,
precision, role, code), which names its folder. In it lie shards: safetensors files with `keys`
(n, 32), the SHA-256 of every input, and `features` (n, D). A shard is named after the SHA-256 of
its own bytes, so that damage shows, and runs at the same time write the same files or different
ones. Names and paths of models and images are no part of it. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from cosmos_core.utils.storage import cache_folder, write_atomically
from cosmos_eval.types import UsageError

LIMIT_VARIABLE = "COSMOS_EVAL_CACHE_GB"
_DEFAULT_GB = 20.0
_IDENTITY = "identity.json"
_SUFFIX = ".safetensors"
_KEY_BYTES = 32  # of a SHA-256
_SIZED_EVERY = 64_000_000  # bytes that are written between two looks at how much is kept


def embeddings_folder() -> Path:
    """Where embeddings are kept unless a run is told otherwise."""
    return cache_folder() / "embeddings"


def limit_bytes() -> int:
    """How much may be kept. Raises UsageError where the user's wish is no number."""
    wanted = os.environ.get(LIMIT_VARIABLE, str(_DEFAULT_GB))
    try:
        gigabytes = float(wanted)
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < float("inf"):
        raise UsageError(f"{LIMIT_VARIABLE} must be a number of gigabytes, not {wanted!r}")
    return int(gigabytes * 1e9)


class Shelf:
    """Embeddings of one identity; without a folder it is always empty and keeps nothing."""

    def __init__(self, root: str | Path | None, identity: Mapping[str, Any]) -> None:
        text = json.dumps(identity, sort_keys=True, indent=1)
        self._root = None if root is None else Path(root)
        self._name = hashlib.sha256(text.encode()).hexdigest()[:_KEY_BYTES]
        self._identity = text
        self._limit = limit_bytes()
        # A look at a full folder takes as long as encoding a batch: not after every shard.
        self._room = 0

    def find(
        self, keys: Sequence[bytes], report: Callable[[str], None]
    ) -> dict[bytes, NDArray[np.float32]]:
        """What is kept of the embeddings of these inputs, (D,) each.

        A damaged shard is removed and reported in a line.
        """
        wanted = set(keys)
        found: dict[bytes, NDArray[np.float32]] = {}
        for path in self._shards():
            held = _keys_of(path)
            if held is not None and wanted.isdisjoint(held):
                continue
            content = _read(path)
            if content is None:
                continue
            if held is None or hashlib.sha256(content).hexdigest() != path.stem:
                path.unlink(missing_ok=True)
                report(f"warning: {path} was damaged and is computed again")
                continue
            found.update(pair for pair in _pairs(content) if pair[0] in wanted)
            _touch(path)
        return found

    def keep(self, keys: Sequence[bytes], features: NDArray[np.float32]) -> None:
        """Keep the (n, D) embeddings of inputs in a shard; the least recently used may go.

        The limit may be exceeded by a hundredth of it. Raises UsageError where a shard cannot be
        written.
        """
        if self._root is None:
            return
        rows = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), _KEY_BYTES)
        content = save({"keys": rows, "features": np.ascontiguousarray(features)})
        folder = self._root / self._name
        try:
            if not (folder / _IDENTITY).exists():
                write_atomically(folder / _IDENTITY, self._identity.encode())
            write_atomically(folder / f"{hashlib.sha256(content).hexdigest()}{_SUFFIX}", content)
        except OSError as error:
            if isinstance(error, FileNotFoundError | FileExistsError) and not folder.is_file():
                return  # another run has cleared what is kept, this shard with it
            raise UsageError(
                f"cannot keep embeddings in {self._root}: {error.strerror}; "
                "set COSMOS_EVAL_CACHE to another folder, or use --no-cache"
            ) from error
        self._room -= len(content)
        if self._room < 0:
            _evict(self._root, self._limit)
            self._room = min(_SIZED_EVERY, self._limit // 100)

    def _shards(self) -> list[Path]:
        if self._root is None:
            return []
        return sorted(path for path in _entries(self._root / self._name) if path.suffix == _SUFFIX)


def _keys_of(path: Path) -> set[bytes] | None:
    """The inputs of a shard, empty where it is gone, None where it is damaged."""
    try:
        with safe_open(path, "numpy") as shard:
            rows = shard.get_tensor("keys")
    except FileNotFoundError:  # another run has removed it
        return set()
    except (SafetensorError, OSError, ValueError):
        return None
    return {row.tobytes() for row in rows}


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # another run has removed it
        return None


def _pairs(content: bytes) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
    arrays = load(content)
    keys = (row.tobytes() for row in arrays["keys"])
    return zip(keys, arrays["features"], strict=True)


def _touch(path: Path) -> None:
    """Mark a shard as used now."""
    with suppress(FileNotFoundError):  # another run has removed it
        os.utime(path)


class _File(NamedTuple):
    used_ns: int
    size: int
    path: Path


def _files(root: Path) -> list[_File]:
    """Every shard, the least recently used first."""
    found = []
    for path in (path for folder in _entries(root) for path in _entries(folder)):
        with suppress(FileNotFoundError):  # another run has removed it
            if path.suffix == _SUFFIX:
                state = path.stat()
                found.append(_File(state.st_mtime_ns, state.st_size, path))
    return sorted(found)


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where another run has removed it, or it is none."""
    try:
        return [folder / name for name in os.listdir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _evict(root: Path, limit: int) -> None:
    """Remove the least recently used shards until the others fit into `limit` bytes."""
    files = _files(root)
    excess = sum(file.size for file in files) - limit
    for file in files:
        if excess <= 0:
            return
        file.path.unlink(missing_ok=True)
        excess -= file.size


class Space(NamedTuple):
    """What is kept under one identity; `used` is in seconds since the epoch."""

    identity: Mapping[str, Any]
    embeddings: int
    size: int
    used: float


def spaces(root: Path, **wanted: Any) -> list[Space]:
    """What is kept under identities with the `wanted` values, the most recently used first.

    Damaged shards count without embeddings.
    """
    files = _files(root)
    by_folder: dict[Path, list[_File]] = {}
    for file in files:
        by_folder.setdefault(file.path.parent, []).append(file)
    identities = {folder: _identity_of(folder) for folder in by_folder}
    found = [
        Space(
            identities[folder],
            sum(_count(file.path) for file in some),
            sum(file.size for file in some),
            max(file.used_ns for file in some) / 1e9,
        )
        for folder, some in by_folder.items()
        if wanted.items() <= identities[folder].items()
    ]
    return sorted(found, key=lambda space: -space.used)


def _count(path: Path) -> int:
    """How many embeddings a shard has, by what it says of itself."""
    try:
        with safe_open(path, "numpy") as shard:
            return int(shard.get_slice("keys").get_shape()[0])
    except (SafetensorError, OSError, ValueError):
        return 0


def _identity_of(folder: Path) -> Mapping[str, Any]:
    try:
        identity = json.loads((folder / _IDENTITY).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return identity if isinstance(identity, dict) else {}


def clear(root: Path) -> int:
    """Remove everything that is kept; the number of bytes. Raises UsageError where it cannot.

    Runs may go on meanwhile.
    """
    removed = 0
    for file in _files(root):
        removed += file.size
        _remove(file.path)
    for folder in _entries(root):
        for path in [*_entries(folder), folder]:
            _remove(path)
    return removed


def _remove(path: Path) -> None:
    try:
        if path.is_dir():
            with suppress(OSError):  # a run has just put something there
                path.rmdir()
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot remove {path}: {error.strerror}") from error
