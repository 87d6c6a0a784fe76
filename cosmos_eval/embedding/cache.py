"""The store of computed arrays: embeddings, and the counts of measurements that are not finished.

A store's folder is named after the hash of its identity, which is everything that decides its
arrays. The folder holds shards. A shard is a safetensors file of arrays, and of `keys` (n, 32), the
SHA-256s of the n inputs. A shard is named after the SHA-256 of its bytes. So damage is noticed, and
runs at the same time do not write to the same file."""

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from cosmos_core.utils.environment import package_version
from cosmos_core.utils.files import cache_folder, write_atomically
from cosmos_eval.types import UsageError

LIMIT_VARIABLE = "COSMOS_EVAL_CACHE_GB"
_IDENTITY = "identity.json"
_SUFFIX = ".safetensors"
_MEASURED_EVERY = 64_000_000  # bytes that are written before the folder is measured again

# Modules that decide an embedding. Embeddings by another version of these modules are not used.
EMBEDDING = (
    *("cosmos_core.model", "cosmos_core.data.pixels", "cosmos_core.data.scenes.vocabulary"),
    *("cosmos_eval.models", "cosmos_eval.embedding.embed", "cosmos_eval.embedding.pairs"),
    *("cosmos_eval.data.sources", "cosmos_eval.tasks.prompts"),
)
# Distributions that decode, resize, tokenise and encode.
_LIBRARIES = (
    *("torch", "torchvision", "open_clip_torch", "timm", "transformers", "tokenizers"),
    *("pillow", "opencv-python", "numpy"),
)

Arrays = Mapping[str, NDArray[Any]]
Report = Callable[[str], None]
"""Shows a line to the user."""


def embeddings_folder() -> Path:
    """Return the folder of cached embeddings that commands use."""
    return cache_folder() / "embeddings"


def limit_bytes() -> int:
    """Return the largest size of the embedding cache in bytes: 20 GB, or COSMOS_EVAL_CACHE_GB.

    Raises UsageError if COSMOS_EVAL_CACHE_GB is not a number of gigabytes.
    """
    limit = os.environ.get(LIMIT_VARIABLE, "20")
    with suppress(ValueError):
        gigabytes = float(limit)
        if 0 <= gigabytes < float("inf"):
            return int(gigabytes * 1e9)
    raise UsageError(f"{LIMIT_VARIABLE} must be a number of gigabytes, not {limit!r}")


@cache
def fingerprint(*modules: str) -> str:
    """Return the SHA-256 of the sources of modules and of the versions of libraries.

    If a module is a package, the sources of all its modules are hashed.
    """
    digest = hashlib.sha256()
    for name in _LIBRARIES:
        digest.update(f"{name} {package_version(name) or 'none'}\n".encode())
    for module in modules:
        for path in _sources(module):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources(module: str) -> list[Path]:
    """Return the source files of a module or package, without importing the packages above it."""
    top_package, *submodules = module.split(".")
    spec = importlib.util.find_spec(top_package)
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        path = Path(folder, *submodules)
        if path.is_dir():
            return sorted(path.rglob("*.py"))
        if path.with_suffix(".py").is_file():
            return [path.with_suffix(".py")]
    raise ModuleNotFoundError(f"{module} is missing: install cosmos-eval again")


class ShardStore:
    """The shards of one identity, in a folder below `root`.

    If `root` is None, the store is empty and stores nothing. If all stores below `root` together
    grow beyond `limit` bytes, the least recently used shards are removed. The size is measured
    from time to time, so that it may exceed the limit by a hundredth. `remedy` completes the error
    message of a folder that cannot be written to.
    """

    def __init__(
        self,
        root: str | Path | None,
        identity: Mapping[str, Any],
        limit: int | None = None,
        remedy: str = "",
    ) -> None:
        self._identity = json.dumps(identity, sort_keys=True, indent=1, default=dict)
        name = hashlib.sha256(self._identity.encode()).hexdigest()[:32]
        self._folder = None if root is None else Path(root) / name
        self._limit = limit
        self._remedy = remedy
        # The keys of each shard that was read so far, None for a damaged shard.
        self._keys: dict[Path, set[bytes] | None] = {}
        # Bytes that may be written before the folder is measured again.
        self._unmeasured = 0

    def find(self, keys: Sequence[bytes], report: Report) -> Iterator[tuple[list[bytes], Arrays]]:
        """Yield the keys and arrays of each shard that holds any of `keys`, the oldest shard first.

        Damaged shards are removed, and `report` is given a warning.
        """
        if self._folder is None:
            return
        requested_keys = set(keys)
        for _, _, path in sorted(_shards(self._folder)):
            shard_keys = self._keys.get(path) or _keys_of(path)
            self._keys[path] = shard_keys
            if shard_keys is not None and requested_keys.isdisjoint(shard_keys):
                continue
            with suppress(FileNotFoundError):  # another run has removed the shard
                content = path.read_bytes()
                if shard_keys is None or hashlib.sha256(content).hexdigest() != path.stem:
                    path.unlink(missing_ok=True)
                    report(f"warning: {path} was damaged and is computed again")
                    continue
                if self._limit is not None:
                    os.utime(path)
                arrays = load(content)
                yield [row.tobytes() for row in arrays.pop("keys")], arrays

    def add(self, keys: Sequence[bytes], arrays: Arrays) -> None:
        """Store arrays, one row per key, as a shard. Raises UsageError if it cannot be written.

        The shard is written atomically: another run finds it complete or not at all.
        """
        if self._folder is None:
            return
        content = _shard_content(keys, arrays)
        try:
            if not (self._folder / _IDENTITY).exists():
                write_atomically(self._folder / _IDENTITY, self._identity.encode())
            name = f"{hashlib.sha256(content).hexdigest()}{_SUFFIX}"
            write_atomically(self._folder / name, content)
        except OSError as error:
            is_removed = isinstance(error, FileNotFoundError | FileExistsError)
            if is_removed and not self._folder.is_file():
                return  # another run has cleared the store while this one wrote to it
            raise UsageError(
                f"cannot write to {self._folder.parent}: {error.strerror}{self._remedy}"
            ) from error
        self._unmeasured -= len(content)
        if self._limit is not None and self._unmeasured < 0:
            _evict(self._folder.parent, self._limit)
            self._unmeasured = min(_MEASURED_EVERY, self._limit // 100)

    def remove(self) -> None:
        """Remove all shards of this identity."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _shard_content(keys: Sequence[bytes], arrays: Arrays) -> bytes:
    """Return the bytes of the file that holds keys and arrays."""
    tensors = {"keys": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 32)}
    for name, array in arrays.items():
        tensors[name] = np.ascontiguousarray(array)
    return save(tensors)


class _File(NamedTuple):
    """The file of a shard. Files sort by the time of their last use."""

    # The time of the last use, in nanoseconds since the epoch.
    used_ns: int
    # The size in bytes.
    size: int
    path: Path


def _shards(folder: Path) -> Iterator[_File]:
    """Yield the files of a store's shards."""
    for path in _entries(folder):
        with suppress(FileNotFoundError):  # another run has removed the shard
            if path.suffix == _SUFFIX:
                state = path.stat()
                yield _File(state.st_mtime_ns, state.st_size, path)


def _entries(folder: Path) -> list[Path]:
    """List a folder. The list is empty if the folder is missing or is not a folder."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return [*folder.iterdir()]
    return []


def _keys_of(path: Path) -> set[bytes] | None:
    """Return the keys of a shard.

    There are no keys if the shard was removed. Return None if it is damaged.
    """
    try:
        with safe_open(path, "numpy") as shard:
            return {row.tobytes() for row in shard.get_tensor("keys")}
    except FileNotFoundError:  # another run has removed the shard
        return set()
    except (SafetensorError, OSError, ValueError):
        return None


def _evict(root: Path, limit: int) -> None:
    """Remove the least recently used shards of all stores until they fit `limit` bytes."""
    files = sorted(file for folder in _entries(root) for file in _shards(folder))
    excess = sum(file.size for file in files) - limit
    for file in files:
        if excess <= 0:
            return
        file.path.unlink(missing_ok=True)
        excess -= file.size


class Space(NamedTuple):
    """The space that the shards of one identity take in the cache."""

    # Everything that decides the arrays of these shards.
    identity: Mapping[str, Any]
    # The number of embeddings, without those of damaged shards.
    embeddings: int
    # The size in bytes.
    size: int
    # The time of the last use of any shard, in seconds since the epoch.
    used: float


def spaces(root: Path, **values: Any) -> list[Space]:
    """Return the spaces of all identities with these values, the most recently used first.

    For example, spaces(root, role="image") are the spaces of image features.
    """
    matching_spaces = []
    for folder in _entries(root):
        identity, files = _identity_of(folder), sorted(_shards(folder))
        if files and values.items() <= identity.items():
            embeddings = sum(len(_keys_of(file.path) or ()) for file in files)
            size = sum(file.size for file in files)
            matching_spaces.append(Space(identity, embeddings, size, files[-1].used_ns / 1e9))
    return sorted(matching_spaces, key=lambda space: -space.used)


def _identity_of(folder: Path) -> dict[str, Any]:
    """Return the identity of a store's folder. It is empty if it cannot be read."""
    try:
        identity = json.loads((folder / _IDENTITY).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return identity if isinstance(identity, dict) else {}


def clear(root: Path) -> int:
    """Remove all shards and return the number of bytes. Runs at the same time are not disturbed.

    Raises UsageError for a file that cannot be removed.
    """
    removed_bytes = 0
    for folder in _entries(root):
        removed_bytes += sum(file.size for file in _shards(folder))
        for path in [*_entries(folder), folder]:
            try:
                if not path.is_dir():
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise UsageError(f"cannot remove {path}: {error.strerror}") from error
            with suppress(OSError):  # not a folder, or a run has just put a file into it
                path.rmdir()
    return removed_bytes
