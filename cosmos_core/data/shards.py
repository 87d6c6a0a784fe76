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
MAX_SHARDS = 1_000_000
# A scheme has two letters or more: a single letter is a drive.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_PATTERN = re.compile(r"[*?[]")
_BRACES = re.compile(r"\{[^{}]*\}")
_NESTED = re.compile(r"\{[^{}]*\{")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?\}")


class ShardError(ValueError):
    """Shards cannot be used; one line."""


class ShardSets(NamedTuple):
    """The sets of shards that a configuration names."""

    # The shards of each set: local paths, or streams (`pipe:`, URLs).
    sets: tuple[tuple[str, ...], ...]
    # A weight for each set, or None.
    weights: tuple[float, ...] | None
    # Whether the shards are streams.
    streams: bool

    @property
    def shards(self) -> list[str]:
        """The shards of all sets, in order."""
        return [shard for set_shards in self.sets for shard in set_shards]

    @property
    def fingerprint(self) -> str | None:
        """The SHA-256 of the names and sizes of the files of every set; None for streams."""
        if self.streams:
            return None
        names_and_sizes = [
            [(Path(shard).name, os.path.getsize(shard)) for shard in set_shards]
            for set_shards in self.sets
        ]
        return json_sha256(names_and_sizes)


def parse_shards(config: DataConfig) -> ShardSets:
    """Find the shards of a configuration; every local path must exist, and none is opened.

    Sets are joined by `::`. A set is a path, a pattern (`*`, `?`, `[...]`), `pipe:COMMAND` or a URL
    of webdataset or fsspec. Braces are expanded as webdataset does. Raises ShardError.
    """
    sets = [_expand(specification) for specification in config.shards.split(SEPARATOR)]
    are_streams = {_SCHEME.match(shard) is not None for shards in sets for shard in shards}
    if len(are_streams) > 1:
        raise ShardError(
            "data.shards mixes local tars with streams, whose order differs in kind; "
            "name the local ones as pipe:cat PATH, or fetch the others"
        )
    streams = True in are_streams
    if streams:
        for shards in sets:
            _require_file_system(shards[0])
    elif False in are_streams:
        sets = [_find_local_shards(shards) for shards in sets]
    weights = _parse_weights(config.weights, len(sets))
    return ShardSets(tuple(tuple(shards) for shards in sets), weights, streams)


def is_opened_by_fsspec(shard: str) -> bool:
    """Return whether fsspec opens a stream: webdataset itself cannot open its scheme."""
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


def _expand(specification: str) -> list[str]:
    """Expand the variables and braces of a set, as webdataset does."""
    pattern = specification.strip()
    if not pattern:
        raise ShardError("data.shards is empty or has an empty set; name tars, as in data/*.tar")
    shards: list[str] | None = None
    try:
        for _ in range(10):  # as webdataset does: a variable may hold other variables
            pattern = envsubst(pattern)
        if not _has_large_braces(pattern):
            shards = list(itertools.islice(braceexpand(pattern), MAX_SHARDS + 1))
    except (ValueError, AssertionError) as error:  # unbalanced braces; an unknown ${variable}
        raise ShardError(f"data.shards {specification!r} cannot be expanded: {error}") from error
    if shards is None or len(shards) > MAX_SHARDS:
        raise ShardError(f"data.shards {specification!r} names more than {MAX_SHARDS} shards")
    return shards


def _has_large_braces(pattern: str) -> bool:
    """Return whether the braces of a pattern clearly have more than MAX_SHARDS combinations.

    braceexpand lists each range in full, and is slow on the product of many braces, so this is
    checked before. Nested braces are not counted.
    """
    for first, last, step in _RANGE.findall(pattern):
        if _is_large_range(first, last, step):
            return True
    if _NESTED.search(pattern):
        return False
    counts = [len(list(braceexpand(braces))) for braces in _BRACES.findall(pattern)]
    return math.prod(counts) > MAX_SHARDS


def _is_large_range(first: str, last: str, step: str) -> bool:
    """Return whether a range has more than MAX_SHARDS numbers, or numbers with too many digits."""
    max_digits = len(str(MAX_SHARDS)) + 1
    if max(len(first), len(last), len(step)) > max_digits:
        return True
    step_size = int(step or 1) or 1
    return abs(int(last) - int(first)) // step_size >= MAX_SHARDS


def _find_local_shards(shards: Sequence[str]) -> list[str]:
    """Return the paths of local shards, patterns resolved. Raises ShardError for missing ones."""
    paths = []
    try:
        for shard in shards:
            paths += _find_files(shard)
    except OSError as error:  # a name that is too long, a folder that cannot be read
        raise ShardError(f"no such shard: {error.filename} ({error.strerror})") from error
    return paths


def _find_files(shard: str) -> list[str]:
    """Return the files that a path or a pattern names."""
    path = Path(shard).expanduser()
    if _PATTERN.search(shard) and not path.exists():
        for folder in glob.glob(str(path.parent)):
            # `glob` itself would leave out its tars without an error.
            if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):
                raise ShardError(f"cannot read folder {folder}: permission denied")
        names = sorted(glob.glob(str(path)))
        if not names:
            raise ShardError(f"no such shard: nothing matches {path}")
    else:
        names = [str(path)]
    for name in names:
        if not Path(name).is_file():
            hint = f"; name its tars, as in {name}/*.tar" if Path(name).is_dir() else ""
            raise ShardError(f"no such shard: {name}{hint}")
    return names


def _parse_weights(specification: str, sets: int) -> tuple[float, ...] | None:
    """Parse `data.weights`, one weight for each of `sets` sets; None if it is empty."""
    if not specification:
        return None
    try:
        weights = tuple(float(weight) for weight in specification.split(SEPARATOR))
    except ValueError as error:
        raise ShardError(f"data.weights {specification!r}: a weight is not a number") from error
    if len(weights) != sets:
        raise ShardError(
            f"data.weights has {len(weights)} weights for {sets} sets in data.shards; "
            "give one per set, joined by ::"
        )
    if not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise ShardError(f"data.weights {specification!r}: weights must be greater than 0")
    return weights


# A function from positions in an epoch (N,) to the numbers of the samples there (N,).
Order = Callable[[npt.NDArray[np.int64]], npt.NDArray[Any]]


class Draw(NamedTuple):
    """A sample's number, and the seed of its random views."""

    number: int
    seed: tuple[int, ...]


class Schedule(NamedTuple):
    """The steps of a run that a process does, and its share of each batch."""

    # Samples in the batch of all processes.
    batch_size: int
    # The number of steps of the whole run.
    steps: int
    # The first step of this process: later than 0 if it resumes a snapshot.
    first_step: int = 0
    # The number of this process, and the number of processes.
    rank: int = 0
    world_size: int = 1


class BatchOrder(Sampler[list[Draw]]):
    """The samples of each batch of a process, as a list of draws per step.

    A process draws its share of each global batch. `sizes` are the numbers of samples in the sets.

    Without weights, an epoch is a permutation of all samples. It is NumPy's permutation or, if
    `keyed`, a KeyedPermutation, which needs no memory, and no time at the start of an epoch. A
    batch may continue into the next epoch. It has no sample twice unless the data are smaller than
    three batches.

    With one weight per set, an epoch is as many draws with replacement as there are samples. A set
    is drawn in proportion to its weight times its size, as by `--train-data-upsampling-factors` of
    OpenCLIP.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        weights: Sequence[float] | None,
        seed: int,
        schedule: Schedule,
        *,
        keyed: bool = False,
    ) -> None:
        self._set_sizes = np.array(sizes)
        self._n_samples = int(self._set_sizes.sum())
        self._weights = weights
        self._seed = seed
        self._schedule = schedule
        self._is_keyed = keyed
        # The epoch whose order was computed last, and that order. None was computed so far.
        self._epoch = -1
        self._order: Order = np.asarray

    def __len__(self) -> int:
        return max(0, self._schedule.steps - self._schedule.first_step)

    def __iter__(self) -> Iterator[list[Draw]]:
        schedule = self._schedule
        process_batch_size = schedule.batch_size // schedule.world_size
        for step in range(schedule.first_step, schedule.steps):
            first = step * schedule.batch_size + schedule.rank * process_batch_size
            yield self._draws(np.arange(first, first + process_batch_size))

    def _draws(self, positions: npt.NDArray[np.int64]) -> list[Draw]:
        """Return the draws at ascending positions, which are counted over all epochs."""
        epochs, epoch_positions = np.divmod(positions, self._n_samples)
        draws = []
        for epoch in np.unique(epochs).tolist():
            if epoch != self._epoch:
                self._order = self._order_of_epoch(epoch)
                self._epoch = epoch
            positions_in_epoch = epoch_positions[epochs == epoch]
            numbers = self._order(positions_in_epoch)
            for number, position in zip(numbers.tolist(), positions_in_epoch.tolist(), strict=True):
                seed: tuple[int, ...] = (self._seed, epoch, number)
                if self._weights is not None:
                    # A sample can be drawn twice in an epoch; its views should then differ.
                    seed = (*seed, position)
                draws.append(Draw(number, seed))
        return draws

    def _order_of_epoch(self, epoch: int) -> Order:
        """Return the order of an epoch, in which a batch that two epochs share has no sample twice.

        If the beginning of this epoch repeats samples that the end of the previous epoch has put
        into the shared batch, they change places with later samples of this epoch. For batches of
        four, and epochs of six samples A to F::

            previous epoch: A D B E | C F    shared batch: C F, and the next two samples
            this epoch:     C A | E B F D    C is repeated, and changes places with E
            its new order:  E A | C B F D

        The end of this epoch is not changed, since the order of the next epoch depends on it.
        """
        order = self._epoch_permutation(epoch)
        batch_size, n_samples = self._schedule.batch_size, self._n_samples
        # The last samples of the previous epoch, and of this one, that are in a shared batch.
        n_shared_of_previous = epoch * n_samples % batch_size
        n_shared_of_this = (epoch + 1) * n_samples % batch_size
        if n_shared_of_previous == 0 or self._weights is not None:
            return order
        has_previous_order = self._epoch == epoch - 1
        previous_order = self._order if has_previous_order else self._epoch_permutation(epoch - 1)
        first_shared = max(0, n_samples - n_shared_of_previous)
        previous_numbers = previous_order(np.arange(first_shared, n_samples))

        # The first samples of this epoch complete the shared batch. Substitutes for them are among
        # the next two batches.
        n_completing = batch_size - n_shared_of_previous
        n_changeable = n_completing + 2 * batch_size
        numbers = order(np.arange(min(n_samples, n_changeable)))
        is_repeated = np.isin(numbers[:n_completing], previous_numbers)
        repeated_positions = np.flatnonzero(is_repeated)
        candidates = numbers[n_completing : min(n_samples - n_shared_of_this, n_changeable)]
        is_unrepeated = ~np.isin(candidates, previous_numbers)
        substitute_positions = n_completing + np.flatnonzero(is_unrepeated)

        # Small data may have fewer substitutes than repeated samples.
        n_swaps = min(len(repeated_positions), len(substitute_positions))
        repeated_positions = repeated_positions[:n_swaps]
        substitute_positions = substitute_positions[:n_swaps]
        repeated_numbers = numbers[repeated_positions]
        numbers[repeated_positions] = numbers[substitute_positions]
        numbers[substitute_positions] = repeated_numbers
        return _ChangedStart(numbers, order)

    def _epoch_permutation(self, epoch: int) -> Order:
        """Return the order of an epoch, which does not depend on other epochs.

        With weights, it is not a permutation but draws with replacement.
        """
        n_samples = self._n_samples
        is_large = n_samples >= KeyedPermutation.MIN_SIZE
        if self._is_keyed and self._weights is None and is_large:
            return KeyedPermutation(n_samples, [self._seed, epoch])
        rng = np.random.default_rng([self._seed, epoch])
        if self._weights is None:
            return rng.permutation(n_samples).astype(np.uint32).__getitem__
        weighted_sizes = self._set_sizes * np.array(self._weights)
        probabilities = weighted_sizes / weighted_sizes.sum()
        drawn_sets = rng.choice(len(probabilities), size=n_samples, p=probabilities)
        set_starts = np.cumsum(self._set_sizes) - self._set_sizes
        numbers = set_starts[drawn_sets] + rng.integers(self._set_sizes[drawn_sets])
        return numbers.astype(np.uint32).__getitem__


class _ChangedStart:
    """An order that begins with `first_numbers`, and goes on as another order."""

    def __init__(self, first_numbers: npt.NDArray[Any], order: Order) -> None:
        self._first_numbers = first_numbers
        self._order = order

    def __call__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        last_changed = len(self._first_numbers) - 1
        first_numbers = self._first_numbers[np.minimum(positions, last_changed)]
        return np.where(positions <= last_changed, first_numbers, self._order(positions))


class KeyedPermutation:
    """A permutation of `size` numbers, each of which is computed when it is needed.

    It is a Feistel network on the bits of positions (Luby and Rackoff, 1988), applied again to
    results that exceed the size (cycle walking; Black and Rogaway, 2002). The round function is the
    mixing function of splitmix64 (Steele et al., 2014).
    """

    ROUNDS = 6
    MIN_SIZE = 2**16  # for smaller sizes a network's permutations are not uniform

    def __init__(self, size: int, seed: Sequence[int]) -> None:
        self._size = size
        self._half_bits = np.uint64(((size - 1).bit_length() + 1) // 2)
        self._keys = np.random.default_rng(seed).integers(2**64, size=self.ROUNDS, dtype=np.uint64)

    def __call__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Return the numbers at positions (N,)."""
        numbers = self._encrypt(positions.astype(np.uint64))
        while True:
            is_outside = numbers >= self._size
            if not is_outside.any():
                return numbers
            numbers[is_outside] = self._encrypt(numbers[is_outside])

    def _encrypt(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Apply the network, a permutation of all numbers of `2 * half_bits` bits."""
        mask = (np.uint64(1) << self._half_bits) - np.uint64(1)
        left, right = numbers >> self._half_bits, numbers & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right + key) & mask)
        return left << self._half_bits | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the output function of splitmix64, which mixes the bits of each value."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ values >> np.uint64(shift)) * np.uint64(factor)
    return values ^ values >> np.uint64(31)
