"""The shards that `data.shards` and `data.weights` name, and the order of local samples."""

import glob
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from braceexpand import braceexpand
from fsspec import get_filesystem_class
from torch.utils.data import Sampler
from webdataset.gopen import gopen_schemes
from webdataset.shardlists import envsubst

from cosmos_core.config import DataConfig
from cosmos_core.utils.files import json_sha256

SEPARATOR = "::"
MOST_SHARDS = 1_000_000
# A scheme has two letters or more: one is a drive.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_PATTERN = re.compile(r"[*?[]")
_BRACES = re.compile(r"\{[^{}]*\}")
_NESTED = re.compile(r"\{[^{}]*\{")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?\}")


class ShardError(ValueError):
    """Raised for shards that cannot be used; one line."""


class ShardSets(NamedTuple):
    """The shards of each set, local paths or `streams` (`pipe:`, URLs), and the sets' weights."""

    sets: tuple[tuple[str, ...], ...]
    weights: tuple[float, ...] | None
    streams: bool

    @property
    def shards(self) -> list[str]:
        """Those of all sets, in order."""
        return [shard for shards in self.sets for shard in shards]

    @property
    def fingerprint(self) -> str | None:
        """The SHA-256 of the names and sizes of the files of every set; None for streams."""
        if self.streams:
            return None
        named = [[(Path(shard).name, os.path.getsize(shard)) for shard in one] for one in self.sets]
        return json_sha256(named)


def parse_shards(config: DataConfig) -> ShardSets:
    """Find the shards of a configuration; every local path must exist, and none is opened. Sets are
    joined by `::`. A set is a path, a pattern (`*`, `?`, `[...]`), `pipe:COMMAND` or a URL, of
    webdataset or of fsspec; braces are expanded as webdataset does. Raises ShardError."""
    sets = [_expand(spec) for spec in config.shards.split(SEPARATOR)]
    streams = {_SCHEME.match(shard) is not None for shards in sets for shard in shards}
    if len(streams) > 1:
        raise ShardError(
            "data.shards mixes local tars with streams, whose order differs in kind; "
            "name the local ones as pipe:cat PATH, or fetch the others"
        )
    if streams == {False}:
        try:
            sets = [[path for shard in shards for path in _find(shard)] for shards in sets]
        except OSError as error:  # a name that is too long, a folder that cannot be read
            raise ShardError(f"no such shard: {error.filename} ({error.strerror})") from error
    else:
        for shards in sets:
            _require_file_system(shards[0])
    weights = _parse_weights(config.weights, len(sets))
    return ShardSets(tuple(map(tuple, sets)), weights, streams == {True})


def is_opened_by_fsspec(shard: str) -> bool:
    """Whether fsspec opens a stream: every scheme that webdataset has no way of its own for."""
    return shard.partition(":")[0] not in (*gopen_schemes, "file")


def _require_file_system(shard: str) -> None:
    """Raise ShardError, which names the package to install, if fsspec cannot open a stream."""
    if not is_opened_by_fsspec(shard):
        return
    scheme = shard.partition(":")[0]
    try:
        get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        hint = "; pip install 'cosmos-eval[s3]'" if scheme == "s3" else ""
        raise ShardError(f"data.shards {shard}: {' '.join(str(error).split())}{hint}") from error


def _expand(spec: str) -> list[str]:
    if not spec.strip():
        raise ShardError("data.shards is empty or has an empty set; name tars, as in data/*.tar")
    pattern = spec.strip()
    try:
        for _ in range(10):  # as webdataset does: a variable may hold others
            pattern = envsubst(pattern)
        # Single ranges first: braceexpand makes their product lazily, but lists each of them.
        large = any(_is_large(*bounds) for bounds in _RANGE.findall(pattern)) or (
            not _NESTED.search(pattern)  # counted, since a product of many braces is slow
            and math.prod(len([*braceexpand(one)]) for one in _BRACES.findall(pattern))
            > MOST_SHARDS
        )
        found = [] if large else list(itertools.islice(braceexpand(pattern), MOST_SHARDS + 1))
    except (ValueError, AssertionError) as error:  # unbalanced braces; an unknown ${variable}
        raise ShardError(f"data.shards {spec!r} cannot be expanded: {error}") from error
    if large or len(found) > MOST_SHARDS:
        raise ShardError(f"data.shards {spec!r} names more than {MOST_SHARDS} shards")
    return found


def _is_large(first: str, last: str, step: str) -> bool:
    """Return whether a range has more than MOST_SHARDS numbers, or numbers with too many digits."""
    if max(map(len, (first, last, step))) > len(str(MOST_SHARDS)) + 1:
        return True
    return abs(int(last) - int(first)) // (int(step or 1) or 1) >= MOST_SHARDS


def _find(shard: str) -> list[str]:
    path = Path(shard).expanduser()
    if _PATTERN.search(shard) and not path.exists():
        for folder in glob.glob(str(path.parent)):  # glob would leave out its tars in silence
            if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):
                raise ShardError(f"cannot read folder {folder}: permission denied")
        found = sorted(glob.glob(str(path)))
        if not found:
            raise ShardError(f"no such shard: nothing matches {path}")
    else:
        found = [str(path)]
    for name in found:
        if not Path(name).is_file():
            hint = f"; name its tars, as in {name}/*.tar" if Path(name).is_dir() else ""
            raise ShardError(f"no such shard: {name}{hint}")
    return found


def _parse_weights(spec: str, sets: int) -> tuple[float, ...] | None:
    if not spec:
        return None
    try:
        weights = tuple(float(weight) for weight in spec.split(SEPARATOR))
    except ValueError as error:
        raise ShardError(f"data.weights {spec!r}: a weight is no number") from error
    if len(weights) != sets:
        raise ShardError(
            f"data.weights has {len(weights)} weights for {sets} sets in data.shards; "
            "give one per set, joined by ::"
        )
    if not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise ShardError(f"data.weights {spec!r}: weights must be greater than 0")
    return weights


# From positions in an epoch (N,) to numbers of samples.
Order = Callable[[npt.NDArray[np.int64]], npt.NDArray[Any]]


class Draw(NamedTuple):
    """A sample's number, and the seed of what is random about it."""

    number: int
    seed: tuple[int, ...]


class Schedule(NamedTuple):
    """Steps `first_step` to `steps` of a process; `batch_size` counts samples of all processes."""

    batch_size: int
    steps: int
    first_step: int = 0
    rank: int = 0
    world_size: int = 1


class BatchOrder(Sampler[list[Draw]]):
    """The draws of a process's batches, a part of each global batch, from any step on. Without
    weights an epoch is a permutation of all samples, NumPy's or, if `keyed`, one that needs no
    memory and no time at the start of an epoch; batches continue into the next one, and none has a
    sample twice unless the data are smaller than three batches. With one weight per set, it is as
    many draws with replacement, of a set in proportion to its weight times its size, as by
    `--train-data-upsampling-factors` of OpenCLIP."""

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float] | None,
        seed: int,
        schedule: Schedule,
        *,
        keyed: bool = False,
    ) -> None:
        self._sizes, self._weights, self._seed = np.array(sizes), weights, seed
        self._schedule, self._keyed = schedule, keyed
        self._epoch = -1
        self._order: Order = np.asarray

    def __len__(self) -> int:
        return max(0, self._schedule.steps - self._schedule.first_step)

    def __iter__(self) -> Iterator[list[Draw]]:
        schedule = self._schedule
        size = schedule.batch_size // schedule.world_size
        for step in range(schedule.first_step, schedule.steps):
            first = step * schedule.batch_size + schedule.rank * size
            yield self._draws(np.arange(first, first + size))

    def _draws(self, positions: npt.NDArray[np.int64]) -> list[Draw]:
        """Return the draws at positions counted over all epochs, ascending."""
        epochs, offsets = np.divmod(positions, int(self._sizes.sum()))
        found = []
        for epoch in dict.fromkeys(epochs.tolist()):
            if epoch != self._epoch:
                self._epoch, self._order = epoch, self._continue(epoch)
            own = offsets[epochs == epoch]
            for number, offset in zip(self._order(own).tolist(), own.tolist(), strict=True):
                seed = (self._seed, epoch, number)
                # A sample that is drawn twice in an epoch is not augmented alike.
                found.append(Draw(number, seed if self._weights is None else (*seed, offset)))
        return found

    def _continue(self, epoch: int) -> Order:
        """Return an epoch's order: samples of its first batch that this has already, from the end
        of the epoch before, change places with later ones. Its own end, which the next epoch's
        order depends on, stays."""
        order, batch, samples = self._permute(epoch), self._schedule.batch_size, self._sizes.sum()
        shared, following = epoch * samples % batch, (epoch + 1) * samples % batch
        if not shared or self._weights is not None:
            return order
        earlier = self._order if self._epoch == epoch - 1 else self._permute(epoch - 1)
        before = earlier(np.arange(max(0, samples - shared), samples))
        first, end = batch - shared, samples - following
        numbers = order(np.arange(min(samples, first + 2 * batch)))
        twice = np.flatnonzero(np.isin(numbers[:first], before))
        others = numbers[first : min(end, first + 2 * batch)]
        spare = first + np.flatnonzero(~np.isin(others, before))[: len(twice)]
        twice = twice[: len(spare)]
        numbers[twice], numbers[spare] = numbers[spare], numbers[twice]
        most = len(numbers) - 1
        return lambda at: np.where(at <= most, numbers[np.minimum(at, most)], order(at))

    def _permute(self, epoch: int) -> Order:
        """Return the function of an epoch from positions in it to numbers of samples."""
        samples = int(self._sizes.sum())
        if self._keyed and self._weights is None and samples >= KeyedPermutation.SMALLEST:
            return KeyedPermutation(samples, [self._seed, epoch])
        rng = np.random.default_rng([self._seed, epoch])
        if self._weights is None:
            return rng.permutation(samples).astype(np.uint32).__getitem__
        mass = self._sizes * np.array(self._weights)
        chosen = rng.choice(len(mass), size=samples, p=mass / mass.sum())
        starts = np.cumsum(self._sizes) - self._sizes
        return (starts[chosen] + rng.integers(self._sizes[chosen])).astype(np.uint32).__getitem__


class KeyedPermutation:
    """A permutation of `size` numbers, each computed when it is needed: a Feistel network on the
    bits of positions (Luby and Rackoff, 1988), applied again to what exceeds the size (cycle
    walking; Black and Rogaway, 2002). The round function is splitmix64's (Steele et al., 2014)."""

    ROUNDS = 6
    SMALLEST = 2**16  # of a smaller domain a network's permutations are not uniform

    def __init__(self, size: int, seed: Sequence[int]) -> None:
        self._size = size
        self._half = np.uint64(((size - 1).bit_length() + 1) // 2)  # bits
        self._keys = np.random.default_rng(seed).integers(2**64, size=self.ROUNDS, dtype=np.uint64)

    def __call__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Return the numbers at positions (N,)."""
        numbers = self._encrypt(positions.astype(np.uint64))
        while (outside := numbers >= self._size).any():
            numbers[outside] = self._encrypt(numbers[outside])
        return numbers

    def _encrypt(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = numbers >> self._half, numbers & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right + key) & mask)
        return left << self._half | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ values >> np.uint64(shift)) * np.uint64(factor)
    return values ^ values >> np.uint64(31)
