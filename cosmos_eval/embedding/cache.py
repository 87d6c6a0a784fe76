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
_BYTES_BETWEEN_MEASUREMENTS = 64_000_000  # written before the size of all stores is measured again

# Modules that decide an embedding. Embeddings by another version of these modules are not used.
EMBEDDING = (
    *("cosmos_core.model", "cosmos_core.data.pixels", "cosmos_core.data.scenes.vocabulary"),
    *("cosmos_eval.models", "cosmos_eval.embedding.embed", "cosmos_eval.embedding.pairs"),
    *("cosmos_eval.data.sources", "cosmos_eval.data.altered_images", "cosmos_eval.tasks.prompts"),
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
    """Return the largest size of the embedding cache in bytes.

    It is 20 GB, or the number of gigabytes in the environment variable COSMOS_EVAL_CACHE_GB:
    "0.5" -> 500_000_000. Raises UsageError if the variable is not a number of gigabytes.
    """
    text = os.environ.get(LIMIT_VARIABLE, "20")
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < float("inf"):
        raise UsageError(f"{LIMIT_VARIABLE} must be a number of gigabytes, not {text!r}")
    return int(gigabytes * 1e9)


@cache
def fingerprint(*modules: str) -> str:
    """Return the SHA-256 of the code that computes an embedding, in hexadecimal digits.

    It changes with every version of the libraries that decode, resize, tokenize and encode, and
    with every change of the sources.

    Args:
        modules: The modules whose sources are hashed, such as "cosmos_core.model". If a module is a
            package, the sources of all its modules are hashed.
    """
    digest = hashlib.sha256()
    for library in _LIBRARIES:
        version = package_version(library) or "none"
        digest.update(f"{library} {version}\n".encode())
    for module in modules:
        for path in _find_sources(module):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _find_sources(module: str) -> list[Path]:
    """Return the source files of a module or a package, without importing it.

    Raises ModuleNotFoundError if the module does not exist.

    Example:
        "cosmos_core.data.tar" -> [Path(".../cosmos_core/data/tar.py")]
        "cosmos_core.model" -> all Python files below the folder cosmos_core/model
    """
    top_package, *submodules = module.split(".")
    spec = importlib.util.find_spec(top_package)
    package_folders = spec.submodule_search_locations if spec else None
    for package_folder in package_folders or ():
        folder = Path(package_folder, *submodules)
        if folder.is_dir():
            return sorted(folder.rglob("*.py"))
        file = folder.with_suffix(".py")
        if file.is_file():
            return [file]
    raise ModuleNotFoundError(f"{module} is missing: install cosmos-eval again")


class ShardStore:
    """Stores arrays of one identity on disk, in files that are called shards.

    A shard holds a few arrays, which have one row for each of its keys. A key is the SHA-256 of an
    input, such as an image.
    """

    def __init__(
        self,
        root: str | Path | None,
        identity: Mapping[str, Any],
        limit: int | None = None,
        advice: str = "",
    ) -> None:
        """Find the folder of an identity below `root`, without reading or writing anything.

        Args:
            root: The folder of the stores of all identities. If it is None, the store is empty and
                stores nothing.
            identity: Everything that decides the arrays besides the inputs, such as the model.
            limit: The most bytes that all stores below `root` may have together; None for any
                number. Beyond it, the least recently used shards are removed. The size is measured
                from time to time, so that it may exceed the limit by a hundredth.
            advice: The end of the error message if the folder cannot be written to: what to do.
        """
        self._identity = json.dumps(identity, sort_keys=True, indent=1, default=dict)
        name = hashlib.sha256(self._identity.encode()).hexdigest()[:32]
        self._folder = None if root is None else Path(root) / name
        self._limit = limit
        self._advice = advice
        # The keys of each shard that was read so far, None for a damaged shard.
        self._keys_by_path: dict[Path, set[bytes] | None] = {}
        # How many more bytes may be written before the size of all stores is measured.
        self._bytes_before_measuring = 0

    def find(
        self, keys: Sequence[bytes], report_warning: Report
    ) -> Iterator[tuple[list[bytes], Arrays]]:
        """Yield the keys and arrays of each shard that holds any of the requested keys.

        Damaged shards are removed.

        Args:
            keys: The requested keys.
            report_warning: Called with a line for each damaged shard.

        Yields:
            All keys of a shard, which may include keys that were not requested, and the shard's
            arrays by name. Row i of each array belongs to key i. The least recently used shard
            comes first.
        """
        if self._folder is None:
            return
        requested_keys = set(keys)
        for file in sorted(_list_shards(self._folder)):
            path = file.path
            # Read only the keys first, and the arrays if a key was requested.
            shard_keys = self._keys_by_path.get(path) or _read_keys(path)
            self._keys_by_path[path] = shard_keys
            is_unreadable = shard_keys is None
            if shard_keys is not None and requested_keys.isdisjoint(shard_keys):
                continue
            with suppress(FileNotFoundError):  # another run has removed the shard
                content = path.read_bytes()
                # The file is named after the SHA-256 of its content.
                content_has_changed = hashlib.sha256(content).hexdigest() != path.stem
                if is_unreadable or content_has_changed:
                    path.unlink(missing_ok=True)
                    report_warning(f"warning: {path} was damaged and is computed again")
                    continue
                if self._limit is not None:
                    os.utime(path)  # marks it as used now
                arrays = load(content)
                ordered_keys = [row.tobytes() for row in arrays.pop("keys")]
                yield ordered_keys, arrays

    def add(self, keys: Sequence[bytes], arrays: Arrays) -> None:
        """Store arrays as a new shard, and remove old shards if the limit is exceeded.

        The shard is written atomically: another run finds it complete or not at all.

        Args:
            keys: The keys (n,) of the rows, each of 32 bytes.
            arrays: The arrays by name, each with n rows.

        Raises UsageError if the shard cannot be written.
        """
        if self._folder is None:
            return
        tensors = {"keys": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 32)}
        for name, array in arrays.items():
            tensors[name] = np.ascontiguousarray(array)
        content = save(tensors)

        # Write the shard, and the identity for readers of the folder.
        try:
            if not (self._folder / _IDENTITY).exists():
                write_atomically(self._folder / _IDENTITY, self._identity.encode())
            file_name = f"{hashlib.sha256(content).hexdigest()}{_SUFFIX}"
            write_atomically(self._folder / file_name, content)
        except OSError as error:
            # Another run may have cleared the cache while this one wrote to it. That does no harm.
            is_missing_folder = isinstance(error, FileNotFoundError | FileExistsError)
            if is_missing_folder and not self._folder.is_file():
                return
            raise UsageError(
                f"cannot write to {self._folder.parent}: {error.strerror}{self._advice}"
            ) from error

        # Measure the size from time to time, and remove shards if it exceeds the limit.
        self._bytes_before_measuring -= len(content)
        if self._limit is not None and self._bytes_before_measuring < 0:
            _remove_least_recently_used(self._folder.parent, self._limit)
            self._bytes_before_measuring = min(_BYTES_BETWEEN_MEASUREMENTS, self._limit // 100)

    def has_shards(self) -> bool:
        """Return whether any shard is stored."""
        return self._folder is not None and any(_list_shards(self._folder))

    def remove(self) -> None:
        """Remove the folder of this identity with all its shards."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class _ShardFile(NamedTuple):
    """The file of a shard. Files sort by the time of their last use."""

    # The time of the last use, in nanoseconds since the epoch.
    used_ns: int
    # The size in bytes.
    size: int
    path: Path


def _list_shards(folder: Path) -> Iterator[_ShardFile]:
    """Yield the files of the shards in a store's folder."""
    for path in _list_folder(folder):
        with suppress(FileNotFoundError):  # another run has removed the shard
            if path.suffix == _SUFFIX:
                status = path.stat()
                yield _ShardFile(status.st_mtime_ns, status.st_size, path)


def _list_folder(folder: Path) -> list[Path]:
    """Return the paths in a folder. The list is empty if the folder does not exist."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return [*folder.iterdir()]
    return []


def _read_keys(path: Path) -> set[bytes] | None:
    """Read the keys in the file of a shard, without its other arrays.

    Returns:
        The keys. The set is empty if another run has removed the file, and None if the file is
        damaged.
    """
    try:
        with safe_open(path, "numpy") as shard:
            return {row.tobytes() for row in shard.get_tensor("keys")}
    except FileNotFoundError:
        return set()
    except (SafetensorError, OSError, ValueError):
        return None


def _remove_least_recently_used(root: Path, limit: int) -> None:
    """Remove shards of all stores below `root` until the others fit into `limit` bytes.

    The least recently used shards are removed first.
    """
    files: list[_ShardFile] = []
    for folder in _list_folder(root):
        files += _list_shards(folder)
    files.sort()  # by the time of the last use
    excess_bytes = sum(file.size for file in files) - limit
    for file in files:
        if excess_bytes <= 0:
            return
        file.path.unlink(missing_ok=True)
        excess_bytes -= file.size


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
    """Return the disk space of each identity that has shards, the most recently used first.

    An identity is a dictionary of everything that decides an embedding besides the input.

    Args:
        root: The folder of the cache.
        values: Entries that an identity must have to be listed.

    Example:
        spaces(root, role="image") returns the spaces of image features only.
    """
    matching_spaces = []
    for folder in _list_folder(root):
        identity = _read_identity(folder)
        files = sorted(_list_shards(folder))  # by the time of the last use
        has_values = values.items() <= identity.items()
        if files and has_values:
            n_embeddings = sum(len(_read_keys(file.path) or ()) for file in files)
            size = sum(file.size for file in files)
            last_used = files[-1].used_ns / 1e9
            matching_spaces.append(Space(identity, n_embeddings, size, last_used))
    return sorted(matching_spaces, key=lambda space: -space.used)


def _read_identity(folder: Path) -> dict[str, Any]:
    """Return the identity of a store from its folder. It is empty if it cannot be read."""
    try:
        identity = json.loads((folder / _IDENTITY).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return identity if isinstance(identity, dict) else {}


def clear(root: Path) -> int:
    """Remove all shards below `root`, and return how many bytes they had.

    Other runs may go on at the same time. Raises UsageError for a file that cannot be removed.
    """
    removed_bytes = 0
    for folder in _list_folder(root):
        removed_bytes += sum(file.size for file in _list_shards(folder))
        # Remove the files of the folder first, and then the folder itself.
        for path in [*_list_folder(folder), folder]:
            try:
                if not path.is_dir():
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise UsageError(f"cannot remove {path}: {error.strerror}") from error
            # This fails for a file, and for a folder that another run has just put a file into.
            with suppress(OSError):
                path.rmdir()
    return removed_bytes
