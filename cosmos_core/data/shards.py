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
    """The shards of a configuration cannot be used. The message is one line."""


class ShardSets(NamedTuple):
    """The sets of shards (tars) that a configuration names."""

    # The shards of each set: local paths, or streams (`pipe:COMMAND` or URLs).
    sets: tuple[tuple[str, ...], ...]
    # A weight for each set, or None.
    weights: tuple[float, ...] | None
    # Whether the shards are streams.
    streams: bool

    @property
    def shards(self) -> list[str]:
        """The shards of all sets, one set after the other."""
        return [shard for set_shards in self.sets for shard in set_shards]

    @property
    def fingerprint(self) -> str | None:
        """The hexadecimal SHA-256 of the names and sizes of all files; None for streams.

        It does not depend on the folders of the files.
        """
        if self.streams:
            return None
        names_and_sizes = [
            [(Path(shard).name, os.path.getsize(shard)) for shard in set_shards]
            for set_shards in self.sets
        ]
        return json_sha256(names_and_sizes)


def parse_shards(config: DataConfig) -> ShardSets:
    """Return the shards that `data.shards` names, with the weights of `data.weights`.

    Sets of shards are joined by `::`. A set is a path, a pattern (`*`, `?`, `[...]`),
    `pipe:COMMAND` or a URL of webdataset or fsspec. Braces are expanded as webdataset does. No
    shard is opened.

    Args:
        config: The options of the data.

    Raises:
        ShardError: If the options cannot be understood, or if a local tar does not exist.

    Example::

        "a-{0..1}.tar::b.tar" -> sets (("a-0.tar", "a-1.tar"), ("b.tar",))
    """
    sets = [_expand_braces(specification) for specification in config.shards.split(SEPARATOR)]

    # A stream begins with a scheme, such as "pipe:" or "https:".
    has_streams = False
    has_local_shards = False
    for shards in sets:
        for shard in shards:
            if _SCHEME.match(shard):
                has_streams = True
            else:
                has_local_shards = True
    if has_streams and has_local_shards:
        raise ShardError(
            "data.shards mixes local tars with streams, whose order differs in kind; "
            "name the local ones as pipe:cat PATH, or fetch the others"
        )

    # Check that streams can be opened, and that local tars exist.
    if has_streams:
        for shards in sets:
            _require_file_system(shards[0])
    elif has_local_shards:
        sets = [_find_local_shards(shards) for shards in sets]
    weights = _parse_weights(config.weights, len(sets))
    return ShardSets(tuple(tuple(shards) for shards in sets), weights, streams=has_streams)


def is_opened_by_fsspec(shard: str) -> bool:
    """Return whether fsspec opens a stream, because webdataset cannot open its scheme.

    For example, fsspec opens `s3://BUCKET/0.tar`. Webdataset opens `pipe:COMMAND` and
    `https://HOST/0.tar`.

    Args:
        shard: A URL, or a command after `pipe:`.
    """
    scheme = shard.partition(":")[0]
    return scheme not in (*gopen_schemes, "file")


def _require_file_system(shard: str) -> None:
    """Check that a package is installed that can open a stream.

    Args:
        shard: A URL such as `s3://BUCKET/0.tar`, or a command after `pipe:`.

    Raises:
        ShardError: If no package can open it. The error may name the package to install.
    """
    if not is_opened_by_fsspec(shard):
        return
    scheme = shard.partition(":")[0]
    try:
        get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        advice = "; pip install 'cosmos-eval[s3]'" if scheme == "s3" else ""
        reason = " ".join(str(error).split())
        raise ShardError(f"data.shards {shard}: {reason}{advice}") from error


def _expand_braces(specification: str) -> list[str]:
    """Return the shards of a set, with its variables and braces expanded as webdataset does.

    Patterns such as `*.tar` are not resolved.

    Args:
        specification: One set of the option `data.shards`.

    Raises:
        ShardError: If the set is empty, if it cannot be expanded, or if it has more than MAX_SHARDS
            shards.

    Example:
        With the environment variable DIR=/data, `${DIR}/{0..1}.tar` gives `["/data/0.tar",
        "/data/1.tar"]`.
    """
    pattern = specification.strip()
    if not pattern:
        raise ShardError("data.shards is empty or has an empty set; name tars, as in data/*.tar")
    try:
        for _ in range(10):  # as webdataset does: a variable may hold other variables
            pattern = envsubst(pattern)
        is_too_large = _has_too_many_shards(pattern)
        shards: list[str] = []
        if not is_too_large:
            # One shard more than allowed is enough to know that there are too many.
            shards = list(itertools.islice(braceexpand(pattern), MAX_SHARDS + 1))
    except (ValueError, AssertionError) as error:  # unbalanced braces; an unknown ${variable}
        raise ShardError(f"data.shards {specification!r} cannot be expanded: {error}") from error
    if is_too_large or len(shards) > MAX_SHARDS:
        raise ShardError(f"data.shards {specification!r} names more than {MAX_SHARDS} shards")
    return shards


def _has_too_many_shards(pattern: str) -> bool:
    """Return whether the braces of a pattern clearly have more than MAX_SHARDS combinations.

    This is checked before braceexpand is called, which lists each range in full, and is slow on the
    product of many braces. A pattern with nested braces is not checked completely.

    Args:
        pattern: A set of shards. `{0..9}/{0..99}.tar` has 10 * 100 combinations.
    """
    # Check each range, such as {0..99} or {0..99..3}. The numbers must be short enough to compute
    # with, including a minus sign.
    max_digits = len(str(MAX_SHARDS)) + 1
    for first, last, step in _RANGE.findall(pattern):
        if max(len(first), len(last), len(step)) > max_digits:
            return True
        # A step that is missing or 0 counts as 1.
        step_size = int(step or 1) or 1
        n_numbers = abs(int(last) - int(first)) // step_size + 1
        if n_numbers > MAX_SHARDS:
            return True

    # Check the product of all braces.
    has_nested_braces = _NESTED.search(pattern) is not None
    if has_nested_braces:
        return False
    counts = [len(list(braceexpand(braces))) for braces in _BRACES.findall(pattern)]
    return math.prod(counts) > MAX_SHARDS


def _find_local_shards(shards: Sequence[str]) -> list[str]:
    """Return the paths of local shards, with patterns such as `data/*.tar` resolved.

    Raises:
        ShardError: If a file does not exist, or if a folder cannot be read.
    """
    paths = []
    try:
        for shard in shards:
            paths += _find_files(shard)
    except OSError as error:  # a name that is too long, a folder that cannot be read
        raise ShardError(f"no such shard: {error.filename} ({error.strerror})") from error
    return paths


def _find_files(path_or_pattern: str) -> list[str]:
    """Return the files that a path or a pattern (`*`, `?`, `[...]`) names, sorted.

    An existing file whose name looks like a pattern is taken as it is.

    Raises:
        ShardError: If the file does not exist, or if a folder cannot be read.
    """
    path = Path(path_or_pattern).expanduser()
    is_pattern = _PATTERN.search(path_or_pattern) is not None and not path.exists()
    if is_pattern:
        for folder in glob.glob(str(path.parent)):
            # `glob` itself would leave out the tars of an unreadable folder without an error.
            if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):
                raise ShardError(f"cannot read folder {folder}: permission denied")
        names = sorted(glob.glob(str(path)))
        if not names:
            raise ShardError(f"no such shard: nothing matches {path}")
    else:
        names = [str(path)]
    for name in names:
        if not Path(name).is_file():
            advice = f"; name its tars, as in {name}/*.tar" if Path(name).is_dir() else ""
            raise ShardError(f"no such shard: {name}{advice}")
    return names


def _parse_weights(specification: str, n_sets: int) -> tuple[float, ...] | None:
    """Return the weights that `data.weights` states, one for each set of shards.

    Args:
        specification: The value of the option: numbers that are joined by `::`, or nothing.
        n_sets: The number of sets of shards.

    Returns:
        The weights, or None if the option is empty: "1::0.5" -> (1.0, 0.5).

    Raises:
        ShardError: If there are not `n_sets` weights, or if one is not a finite number greater
            than 0.
    """
    if not specification:
        return None
    try:
        weights = tuple(float(weight) for weight in specification.split(SEPARATOR))
    except ValueError as error:
        raise ShardError(f"data.weights {specification!r}: a weight is not a number") from error
    if len(weights) != n_sets:
        raise ShardError(
            f"data.weights has {len(weights)} weights for {n_sets} sets in data.shards; "
            "give one per set, joined by ::"
        )
    if not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise ShardError(f"data.weights {specification!r}: weights must be greater than 0")
    return weights


# A function from positions in an epoch (N,) to the numbers of the samples there (N,).
Order = Callable[[npt.NDArray[np.int64]], npt.NDArray[Any]]


class Draw(NamedTuple):
    """A sample that is drawn for a batch."""

    # The number of the sample in the index of all samples.
    number: int
    # The seed of its random views.
    seed: tuple[int, ...]
    # The training step of the batch, counted from 0.
    step: int


class Schedule(NamedTuple):
    """The steps of a training run that a process does, and its share of each batch."""

    # The number of samples in a global batch, which all processes share.
    batch_size: int
    # The number of steps of the whole run.
    steps: int
    # The first step of this process: later than 0 if it resumes a snapshot.
    first_step: int = 0
    # The number of this process, and the number of processes.
    rank: int = 0
    world_size: int = 1


class BatchOrder(Sampler[list[Draw]]):
    """A PyTorch sampler of the batches of a process: a list of drawn samples for each step.

    A process draws its share of each global batch. The global batches depend only on the seed and
    the step.

    Without weights, an epoch is a random permutation of all samples. It is NumPy's permutation or,
    if `keyed`, a KeyedPermutation, which needs no memory, and no time at the start of an epoch. A
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
        """Create the order of a run.

        Args:
            sizes: The number of samples in each set of shards.
            weights: The weight of each set. None means that each sample is drawn once per epoch.
            seed: Decides the order.
            schedule: The steps and the share of each batch that this process draws.
            keyed: True to use permutations that need no memory.
        """
        self._set_sizes = np.array(sizes)
        self._n_samples = int(self._set_sizes.sum())
        self._weights = weights
        self._seed = seed
        self._schedule = schedule
        self._is_keyed = keyed
        # The epoch whose order was computed last, and that order. No order was computed so far.
        self._epoch = -1
        self._order: Order = np.asarray

    def __len__(self) -> int:
        """Return the number of batches that this process still draws."""
        return max(0, self._schedule.steps - self._schedule.first_step)

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield this process's draws for each step, from the first step to the last of the run.

        For batches of 8 samples and two processes, the process of rank 1 draws the positions 4 to 7
        in step 0, and the positions 12 to 15 in step 1.
        """
        schedule = self._schedule
        process_batch_size = schedule.batch_size // schedule.world_size
        for step in range(schedule.first_step, schedule.steps):
            batch_start = step * schedule.batch_size
            first = batch_start + schedule.rank * process_batch_size
            yield self._draws(np.arange(first, first + process_batch_size), step)

    def _draws(self, positions: npt.NDArray[np.int64], step: int) -> list[Draw]:
        """Return the samples that are drawn at some positions, and the seeds of their views.

        Args:
            positions: Ascending positions (N,), which are counted over all epochs. With 10 samples,
                position 23 is position 3 of epoch 2.
            step: The training step of the batch.
        """
        epoch_by_position, positions_in_epochs = np.divmod(positions, self._n_samples)
        draws = []
        for epoch in np.unique(epoch_by_position).tolist():
            # Compute the order of the epoch, unless it is the last one that was computed.
            if epoch != self._epoch:
                self._order = self._order_of_epoch(epoch)
                self._epoch = epoch
            positions_in_epoch = positions_in_epochs[epoch_by_position == epoch]
            numbers = self._order(positions_in_epoch)
            for number, position in zip(numbers.tolist(), positions_in_epoch.tolist(), strict=True):
                seed: tuple[int, ...] = (self._seed, epoch, number)
                if self._weights is not None:
                    # A sample can be drawn twice in an epoch. Its views should then differ.
                    seed = (*seed, position)
                draws.append(Draw(number, seed, step))
        return draws

    def _order_of_epoch(self, epoch: int) -> Order:
        """Return the order of an epoch, changed so that no batch has a sample twice.

        Only a batch that two epochs share could have one. If the beginning of this epoch repeats
        samples that the end of the previous epoch has put into the shared batch, they change places
        with later samples of this epoch. For batches of four, and epochs of six samples A to F::

            previous epoch: A D B E | C F    shared batch: C F, and the next two samples
            this epoch:     C A | E B F D    C is repeated, and changes places with E
            its new order:  E A | C B F D

        The end of this epoch is not changed, since the order of the next epoch depends on it.

        Args:
            epoch: The number of the epoch, counted from 0.

        Returns:
            A function from positions in the epoch to the numbers of the samples there.
        """
        order = self._epoch_permutation(epoch)
        batch_size, n_samples = self._schedule.batch_size, self._n_samples
        # The number of the previous epoch's last samples that are in a batch with this epoch's.
        n_shared = epoch * n_samples % batch_size
        if n_shared == 0 or self._weights is not None:
            return order

        # Find the samples of the previous epoch that are in the shared batch: C and F.
        previous_order = self._order
        if self._epoch != epoch - 1:
            previous_order = self._epoch_permutation(epoch - 1)
        first_shared = max(0, n_samples - n_shared)
        shared_numbers = previous_order(np.arange(first_shared, n_samples))

        # The first samples of this epoch complete the shared batch: C and A. Find those among them
        # that it has already.
        n_completing = batch_size - n_shared
        n_changeable = min(n_samples, n_completing + 2 * batch_size)
        numbers = order(np.arange(n_changeable))
        is_repeated = np.isin(numbers, shared_numbers)
        repeated_positions = np.flatnonzero(is_repeated[:n_completing])

        # Find substitutes among the samples of the next two batches, but not at the end of this
        # epoch, which may share a batch with the next epoch.
        n_shared_with_next_epoch = (epoch + 1) * n_samples % batch_size
        substitutes_end = min(n_samples - n_shared_with_next_epoch, n_changeable)
        is_substitute = ~is_repeated[n_completing:substitutes_end]
        substitute_positions = n_completing + np.flatnonzero(is_substitute)

        # Let them change places. Small data may have fewer substitutes than repeated samples.
        for repeated, substitute in zip(repeated_positions, substitute_positions, strict=False):
            numbers[repeated], numbers[substitute] = numbers[substitute], numbers[repeated]
        return _ChangedStart(numbers, order)

    def _epoch_permutation(self, epoch: int) -> Order:
        """Return the random order of an epoch, as a function from positions to sample numbers.

        It depends on the seed and on the number of the epoch. With weights, it is not a permutation
        but draws with replacement.

        Args:
            epoch: The number of the epoch, counted from 0.
        """
        n_samples = self._n_samples
        is_large = n_samples >= KeyedPermutation.MIN_SIZE
        if self._is_keyed and self._weights is None and is_large:
            return KeyedPermutation(n_samples, [self._seed, epoch])
        rng = np.random.default_rng([self._seed, epoch])
        if self._weights is None:
            return rng.permutation(n_samples).astype(np.uint32).__getitem__

        # Draw a set for each position.
        weighted_sizes = self._set_sizes * np.array(self._weights)
        probabilities = weighted_sizes / weighted_sizes.sum()
        drawn_sets = rng.choice(len(probabilities), size=n_samples, p=probabilities)

        # Draw one of the samples of this set. Sets of 3 and 2 samples start at the numbers [0, 3].
        numbers_in_set = rng.integers(self._set_sizes[drawn_sets])
        set_starts = np.cumsum(self._set_sizes) - self._set_sizes
        numbers = set_starts[drawn_sets] + numbers_in_set
        return numbers.astype(np.uint32).__getitem__


class _ChangedStart:
    """An order that begins with `first_numbers`, and goes on as another order.

    For the order A B C D E and the first numbers B A, it is B A C D E.
    """

    def __init__(self, first_numbers: npt.NDArray[Any], order: Order) -> None:
        """Create an order.

        Args:
            first_numbers: The sample numbers at the first positions.
            order: The order at all other positions.
        """
        self._first_numbers = first_numbers
        self._order = order

    def __call__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return the sample numbers (N,) at positions (N,)."""
        last_changed = len(self._first_numbers) - 1
        # Look up the first numbers at all positions. Later positions give any number, which is not
        # used.
        first_numbers = self._first_numbers[np.minimum(positions, last_changed)]
        return np.where(positions <= last_changed, first_numbers, self._order(positions))


class KeyedPermutation:
    """A random permutation of the numbers below `size`, which is not held in memory.

    Each number is computed when it is needed. The permutation is a Feistel network on the bits of
    positions (Luby and Rackoff, 1988), applied again to results that exceed the size (cycle
    walking; Black and Rogaway, 2002). The round function is the mixing function of splitmix64
    (Steele et al., 2014).
    """

    ROUNDS = 6
    MIN_SIZE = 2**16  # for smaller sizes a network's permutations are not uniform

    def __init__(self, size: int, seed: Sequence[int]) -> None:
        """Draw the keys of a permutation.

        Args:
            size: It permutes the numbers from 0 to `size` - 1.
            seed: Integers >= 0, on which the permutation depends.
        """
        self._size = size
        # Half the number of bits that the largest number has, rounded up.
        n_bits = (size - 1).bit_length()
        self._half_bits = np.uint64((n_bits + 1) // 2)
        rng = np.random.default_rng(seed)
        self._keys = rng.integers(2**64, size=self.ROUNDS, dtype=np.uint64)

    def __call__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Return the numbers (N,) of the permutation at positions (N,)."""
        # The network permutes the numbers below a power of 4, which may exceed the size. Numbers
        # outside are permuted again until they are inside.
        numbers = self._encrypt(positions.astype(np.uint64))
        while True:
            is_outside = numbers >= self._size
            if not is_outside.any():
                return numbers
            numbers[is_outside] = self._encrypt(numbers[is_outside])

    def _encrypt(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Apply the Feistel network, a permutation of all numbers of `2 * half_bits` bits.

        A number is split into a left and a right half of its bits. In each round, the right half
        and a key are mixed and change the left half, and then the halves change places.
        """
        mask = (np.uint64(1) << self._half_bits) - np.uint64(1)
        left = numbers >> self._half_bits
        right = numbers & mask
        for key in self._keys:
            changed_left = left ^ (_mix(right + key) & mask)
            left, right = right, changed_left
        return left << self._half_bits | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return 64-bit values whose bits are mixed by the output function of splitmix64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ values >> np.uint64(shift)) * np.uint64(factor)
    return values ^ values >> np.uint64(31)
