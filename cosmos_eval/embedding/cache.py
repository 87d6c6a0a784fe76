"""The one store of computed arrays: embeddings, and counts of unfinished measurements.

A store's folder is named after the hash of its identity: everything that decides its arrays. Its
shards are safetensors files of arrays, with `keys` (n, 32), the SHA-256 of every input. A shard is
named after the SHA-256 of its bytes: damage shows, and runs at the same time do not collide."""

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
_MEASURED_EVERY = 64_000_000  # bytes written between two measurements of the folder's size

# Modules that decide an embedding: embeddings by another version of them are not used.
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
    """Return how large the embedding cache may grow. Raises UsageError for a limit not a number."""
    wanted = os.environ.get(LIMIT_VARIABLE, "20")
    with suppress(ValueError):
        if 0 <= float(wanted) < float("inf"):
            return int(float(wanted) * 1e9)
    raise UsageError(f"{LIMIT_VARIABLE} must be a number of gigabytes, not {wanted!r}")


@cache
def fingerprint(*modules: str) -> str:
    """SHA-256 of the sources of modules (packages whole) and of the versions of libraries."""
    digest = hashlib.sha256()
    for name in _LIBRARIES:
        digest.update(f"{name} {package_version(name) or 'none'}\n".encode())
    for module in modules:
        for path in _sources(module):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources(module: str) -> list[Path]:
    """Source files of a module or package, found without importing the packages above it."""
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, *rest)
        if path.is_dir():
            return sorted(path.rglob("*.py"))
        if path.with_suffix(".py").is_file():
            return [path.with_suffix(".py")]
    raise ModuleNotFoundError(f"{module} is missing: install cosmos-eval again")


class ShardStore:
    """Shards of one identity below `root`; without a root it is empty and stores nothing. Beyond
    `limit` bytes in the whole root, give or take a hundredth, the least recently used shards are
    removed. `remedy` completes the error of a folder that cannot be written."""

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
        self._limit, self._remedy = limit, remedy
        self._keys: dict[Path, set[bytes] | None] = {}  # of shards that were met
        self._unmeasured = 0  # bytes that may be written before the folder is measured again

    def find(self, keys: Sequence[bytes], report: Report) -> Iterator[tuple[list[bytes], Arrays]]:
        """Yield keys and arrays of shards with any of `keys`, the oldest first. Damaged ones are
        reported and removed."""
        wanted = set(keys)
        for _, _, path in sorted(_shards(self._folder)) if self._folder else ():
            stored = self._keys[path] = self._keys.get(path) or _keys_of(path)
            if stored is not None and wanted.isdisjoint(stored):
                continue
            with suppress(FileNotFoundError):  # another run has removed it
                content = path.read_bytes()
                if stored is None or hashlib.sha256(content).hexdigest() != path.stem:
                    path.unlink(missing_ok=True)
                    report(f"warning: {path} was damaged and is computed again")
                    continue
                if self._limit is not None:
                    os.utime(path)
                arrays = load(content)
                yield [row.tobytes() for row in arrays.pop("keys")], arrays

    def add(self, keys: Sequence[bytes], arrays: Arrays) -> None:
        """Store arrays as a shard, whole or not at all. Raises UsageError where it cannot."""
        if self._folder is None:
            return
        rows = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 32)
        content = save({"keys": rows, **{n: np.ascontiguousarray(a) for n, a in arrays.items()}})
        try:
            if not (self._folder / _IDENTITY).exists():
                write_atomically(self._folder / _IDENTITY, self._identity.encode())
            name = f"{hashlib.sha256(content).hexdigest()}{_SUFFIX}"
            write_atomically(self._folder / name, content)
        except OSError as error:
            removed = isinstance(error, FileNotFoundError | FileExistsError)
            if removed and not self._folder.is_file():
                return  # another run has cleared the store, this shard with it
            where = self._folder.parent
            raise UsageError(f"cannot write to {where}: {error.strerror}{self._remedy}") from error
        self._unmeasured -= len(content)
        if self._limit is not None and self._unmeasured < 0:
            _evict(self._folder.parent, self._limit)
            self._unmeasured = min(_MEASURED_EVERY, self._limit // 100)

    def remove(self) -> None:
        """Remove all shards of this identity."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class _File(NamedTuple):
    used_ns: int
    size: int
    path: Path


def _shards(folder: Path) -> Iterator[_File]:
    for path in _entries(folder):
        with suppress(FileNotFoundError):  # another run has removed it
            if path.suffix == _SUFFIX:
                state = path.stat()
                yield _File(state.st_mtime_ns, state.st_size, path)


def _entries(folder: Path) -> list[Path]:
    """List a folder; nothing where another run has removed it, or it is none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return [*folder.iterdir()]
    return []


def _keys_of(path: Path) -> set[bytes] | None:
    """Read the keys of a shard: empty where it is gone, None where it is damaged."""
    try:
        with safe_open(path, "numpy") as shard:
            return {row.tobytes() for row in shard.get_tensor("keys")}
    except FileNotFoundError:  # another run has removed it
        return set()
    except (SafetensorError, OSError, ValueError):
        return None


def _evict(root: Path, limit: int) -> None:
    files = sorted(file for folder in _entries(root) for file in _shards(folder))
    excess = sum(file.size for file in files) - limit
    for file in files:
        if excess <= 0:
            return
        file.path.unlink(missing_ok=True)
        excess -= file.size


class Space(NamedTuple):
    """What is cached under one identity; `used` is in seconds since the epoch."""

    identity: Mapping[str, Any]
    embeddings: int
    size: int
    used: float


def spaces(root: Path, **wanted: Any) -> list[Space]:
    """List identities that have the `wanted` values, the most recently used first. Damaged shards
    count without embeddings."""
    found = []
    for folder in _entries(root):
        identity, files = _identity_of(folder), sorted(_shards(folder))
        if files and wanted.items() <= identity.items():
            embeddings = sum(len(_keys_of(file.path) or ()) for file in files)
            size, used = sum(file.size for file in files), files[-1].used_ns / 1e9
            found.append(Space(identity, embeddings, size, used))
    return sorted(found, key=lambda space: -space.used)


def _identity_of(folder: Path) -> dict[str, Any]:
    try:
        identity = json.loads((folder / _IDENTITY).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return identity if isinstance(identity, dict) else {}


def clear(root: Path) -> int:
    """Remove all shards, also while runs go on; return the number of bytes. Raises UsageError."""
    removed = 0
    for folder in _entries(root):
        removed += sum(file.size for file in _shards(folder))
        for path in [*_entries(folder), folder]:
            try:
                if not path.is_dir():
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise UsageError(f"cannot remove {path}: {error.strerror}") from error
            with suppress(OSError):  # it is no folder, or a run has just put something there
                path.rmdir()
    return removed
