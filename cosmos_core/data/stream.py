"""Batches of samples in streams (`pipe:` commands and URLs), which are read from the beginning."""

import bz2
import gzip
import hashlib
import itertools
import logging
import lzma
import random
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import EIO
from typing import Any, NamedTuple

import numpy as np
import webdataset
from fsspec.core import url_to_fs
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.gopen import set_options

from cosmos_core.data import samples
from cosmos_core.data.shards import Schedule, ShardError, ShardSets, is_opened_by_fsspec
from cosmos_core.data.tar import TarError, TarReader, split_name

SHUFFLE_BUFFER = 1000  # undecoded samples: about 100 MB of photographs in each worker
# Functions that open compressed streams, by the first two bytes; the formats are webdataset's.
_DECOMPRESS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}
_log = logging.getLogger(__name__)
_FAILURES = (TarError, OSError, EOFError, zlib.error, lzma.LZMAError)


class StreamSample(NamedTuple):
    """An undecoded sample of a shard."""

    shard: str
    key: str
    raw: samples.RawSample

    def decode(self, view_maker: samples.ViewMaker) -> samples.Sample | samples.Problem:
        """Return the decoded sample, or its problem if it cannot be decoded.

        Args:
            view_maker: Decodes the sample with the captions that a training uses.
        """
        try:
            return view_maker.decode(self.raw)
        except samples.BadSampleError as error:
            return error.problem(self.shard, self.key)


class StreamBatches(IterableDataset[samples.Item]):
    """The batches that a process reads from streams. Each is made by one of its workers.

    A worker of this data set is also called a lane. With 4 lanes, lane 0 makes the batches of steps
    0, 4, 8 and so on, and lane 1 the batches of steps 1, 5, 9. PyTorch takes batches from the
    workers in turn, which puts the steps in order.

    A resumed run continues at the `positions` of its lanes, by the number of the lane. A lane
    without a position reads all earlier samples again. Raises ShardError if a worker would have no
    shard.
    """

    def __init__(
        self,
        shards: ShardSets,
        seed: int,
        schedule: Schedule,
        lanes: int,
        view_maker: samples.ViewMaker,
        positions: Mapping[int, samples.StreamPosition] | None = None,
    ) -> None:
        """Create the batches of a process.

        Args:
            shards: The streams to read.
            seed: Decides the order of shards and samples, and the random views.
            schedule: The steps of the run that the process does, and its share of each batch.
            lanes: The number of workers that make the batches.
            view_maker: Makes the views of samples.
            positions: Where each worker continues, by its number. A worker without a position
                reads all earlier samples again.
        """
        super().__init__()
        n_shards = len(shards.shards)
        n_processes = schedule.world_size
        if shards.weights is None and n_shards < n_processes * lanes:
            raise ShardError(
                f"{n_shards} stream shards are too few for {n_processes} processes of {lanes} "
                "workers: each reads its own; lower data.workers, or give weights"
            )
        self._shards = shards
        self._seed = seed
        self._schedule = schedule
        self._n_lanes = lanes
        self.view_maker = view_maker
        self._position_by_lane = positions or {}

    def __iter__(self) -> Iterator[samples.Item]:
        """Yield the batches that this worker makes, from the first step of a resumed run on.

        With L workers, they are the batches of the steps lane, lane + L, lane + 2 L and so on.
        Without good samples, the last item is an UnreadableDataError. It is not raised here,
        because PyTorch would add the traceback of a worker to its message.
        """
        schedule = self._schedule
        worker = get_worker_info()
        worker_number = worker.id if worker else 0
        # PyTorch takes the first batch from worker 0, so worker 0 has the lane of the first step:
        # with 4 lanes and the first step 5, the workers 0, 1, 2, 3 have the lanes 1, 2, 3, 0.
        lane = (worker_number + schedule.first_step) % self._n_lanes
        has_position = lane in self._position_by_lane
        position = self._position_by_lane.get(lane, samples.StreamPosition())

        samples_per_batch = schedule.batch_size // schedule.world_size
        # The reader appends the problems of bad samples to this list.
        problems: list[samples.Problem] = []
        reader = LaneReader(self, lane, position)
        good_samples = reader.good_samples(problems)
        try:
            for step in range(lane, schedule.steps, self._n_lanes):
                is_before_first_step = step < schedule.first_step
                if is_before_first_step and has_position:
                    continue
                batch_samples = itertools.islice(good_samples, samples_per_batch)
                if is_before_first_step:
                    # Read the samples of the step, but make no batch. Samples have to be decoded,
                    # because a batch ends after a number of good samples.
                    for _ in batch_samples:
                        pass
                else:
                    views = []
                    for sample, seed in batch_samples:
                        views.append(self.view_maker.views(sample, seed, step))
                    batch = self.view_maker.batch(views, problems)
                    yield batch._replace(lane=lane, position=reader.position())
                problems.clear()
        except samples.UnreadableDataError as error:
            yield error

    def shards_of_pass(self, lane: int, pass_number: int) -> list[str]:
        """Return the shards that a worker reads in a pass over the data, in order.

        They are the worker's share of a random permutation of all shards. With weights, they are as
        many shards, drawn with replacement.

        Args:
            lane: The number of the worker in this process.
            pass_number: The number of the pass, counted from 0.

        Example:
            For shards A to F in the random order C A F B E D, and two processes of one worker each,
            the first process reads C F E, and the second one reads A B D.
        """
        shards = self._shards.shards
        rank, world_size = self._schedule.rank, self._schedule.world_size
        if self._shards.weights is None:
            # All processes draw the same permutation. Each process takes every `world_size`-th
            # shard of it, and each worker every `n_lanes`-th shard of these.
            rng = np.random.default_rng([self._seed, pass_number])
            permutation = rng.permutation(len(shards))
            process_indices = permutation[rank::world_size]
            lane_indices = process_indices[lane :: self._n_lanes]
            return [shards[i] for i in lane_indices]

        # All shards of a set have its weight. For the weights [1, 0.5] and sets of 2 and 3 shards,
        # the weights of the shards are [1, 1, 0.5, 0.5, 0.5].
        n_shards_by_set = [len(set_shards) for set_shards in self._shards.sets]
        weights = np.repeat(self._shards.weights, n_shards_by_set)
        rng = np.random.default_rng([self._seed, pass_number, rank, lane])
        n_draws = max(1, len(shards) // (world_size * self._n_lanes))
        drawn_indices = rng.choice(len(shards), n_draws, p=weights / weights.sum())
        return [shards[i] for i in drawn_indices]

    def buffer_rng(self, lane: int, pass_number: int) -> random.Random:
        """Return the random generator of a worker's shuffle buffer in a pass."""
        return random.Random(f"{self._seed} {pass_number} {self._schedule.rank} {lane}")

    def view_seed(self, pass_number: int, shard_index: int, key: str) -> tuple[int, ...]:
        """Return the seed of the random views of a sample.

        Args:
            pass_number: The number of the pass over the data.
            shard_index: The index of the sample's shard among the shards of the pass. It counts
                only with weights, since a shard can then be drawn twice in a pass.
            key: The key of the sample, such as "000123".
        """
        digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()
        key_hash = int.from_bytes(digest, "big")
        if self._shards.weights is None:
            return (self._seed, pass_number, key_hash)
        # With weights a shard can be drawn twice in a pass. Its views should then differ.
        return (self._seed, pass_number, key_hash, shard_index)


Entry = StreamSample | samples.Problem
"""A sample of a shard, or the problem of a shard that cannot be read further."""
SeededEntry = tuple[Entry, tuple[int, ...]]
"""An entry, and the seed of its views."""


class LaneReader:
    """Reads and decodes the samples of one worker (a lane), pass after pass, from a position on."""

    def __init__(self, streams: StreamBatches, lane: int, start: samples.StreamPosition) -> None:
        """Create the reader of a worker.

        Args:
            streams: The batches of the process, which know the shards of each pass.
            lane: The number of the worker.
            start: The position in the stream of samples at which the reader starts.
        """
        self._streams = streams
        self._lane = lane
        self._start = start
        # The pass that is being read, and the number of its samples that could be decoded so far.
        self._current_pass = _ShuffledPass(streams, lane, start)
        self._n_good = start.n_good

    def position(self) -> samples.StreamPosition:
        """Return the position after the sample that was yielded last."""
        return self._current_pass.position()._replace(n_good=self._n_good)

    def good_samples(
        self, problems: list[samples.Problem]
    ) -> Iterator[tuple[samples.Sample, tuple[int, ...]]]:
        """Yield decoded samples and the seeds of their views, pass after pass, without end.

        Args:
            problems: A list to which the problems of bad samples are appended.

        Raises:
            UnreadableDataError: After a pass without a good sample, and if a shard no longer has
                the samples that the position counts.
        """
        view_maker = self._streams.view_maker
        start = self._start
        last_problem: samples.Problem | None = None
        while True:
            self._current_pass = _ShuffledPass(self._streams, self._lane, start)
            self._n_good = start.n_good
            for entry, seed in self._current_pass.entries():
                decoded = entry if isinstance(entry, samples.Problem) else entry.decode(view_maker)
                if isinstance(decoded, samples.Problem):
                    problems.append(decoded)
                    last_problem = decoded
                else:
                    self._n_good += 1
                    yield decoded, seed
            if self._n_good == 0:
                detail = "" if last_problem is None else f"; the last problem: {last_problem}"
                raise samples.UnreadableDataError(
                    f"no good sample in the shards of a worker{detail}"
                )
            start = samples.StreamPosition(start.pass_number + 1)


class _ShuffledPass:
    """Reads the entries of one pass of a worker through a shuffle buffer, from a position on.

    An entry is a sample, or the problem of a shard that cannot be read further. Entries are
    numbered from 0 in the order of reading, over all shards of the pass.

    The shuffle buffer holds only the numbers of entries. The entries themselves are kept in
    `_entry_by_number` until their numbers leave the buffer. The order in which numbers leave it
    depends only on the seed and on how many have entered. So a resumed pass shuffles the numbers of
    the entries before the position without reading these entries. Then it reads only the entries
    again whose numbers are still in the buffer.

    Example:
        At the position, the entries 0 to 4 were read, and the entries 1 and 3 had left the buffer.
        To resume, the numbers 0 to 4 enter the buffer, and 1 and 3 leave it. The entries 0, 2 and 4
        are read again. From then on, the entries 5, 6 and so on are read, and enter the buffer.
    """

    def __init__(self, streams: StreamBatches, lane: int, start: samples.StreamPosition) -> None:
        """Prepare to read. Nothing is read before `entries` is iterated.

        Args:
            streams: The batches of the process, which know the shards of each pass.
            lane: The number of the worker.
            start: The position from which on entries are yielded.
        """
        self._streams = streams
        self._lane = lane
        self._start = start
        self._shards = streams.shards_of_pass(lane, start.pass_number)
        # The entries whose numbers are in the shuffle buffer.
        self._entry_by_number: dict[int, SeededEntry] = {}
        # The shard in which the start lies, after its entries before the start were read again.
        self._reopened_shard: Generator[Entry, None, None] | None = None
        # The fields of the current position; see StreamPosition.
        self._n_taken = start.n_taken
        self._finished_shard_sizes = list(start.finished_shard_sizes)
        self._n_read_of_open_shard = start.n_read_of_open_shard

    def position(self) -> samples.StreamPosition:
        """Return the position after the entry that was yielded last, without `n_good`."""
        return samples.StreamPosition(
            pass_number=self._start.pass_number,
            n_taken=self._n_taken,
            finished_shard_sizes=tuple(self._finished_shard_sizes),
            n_read_of_open_shard=self._n_read_of_open_shard,
        )

    def entries(self) -> Iterator[SeededEntry]:
        """Yield the entries in the order in which their numbers leave the shuffle buffer."""
        rng = self._streams.buffer_rng(self._lane, self._start.pass_number)
        shuffle = webdataset.shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER, rng=rng)
        shuffled_numbers = shuffle(self._numbers_of_entries())

        # Shuffle the numbers of the entries before the start again, up to the start.
        is_in_buffer = np.ones(self._start.n_entries_read, bool)
        for number in itertools.islice(shuffled_numbers, self._start.n_taken):
            is_in_buffer[number] = False
        self._read_again(set(np.flatnonzero(is_in_buffer).tolist()))

        for number in shuffled_numbers:
            self._n_taken += 1
            yield self._entry_by_number.pop(number)

    def _numbers_of_entries(self) -> Iterator[int]:
        """Yield the numbers of all entries of the pass, which is the input of the shuffle buffer.

        An entry before the start is not read. An entry after it is read when its number is yielded,
        and put into `_entry_by_number`.
        """
        n_before_start = self._start.n_entries_read
        yield from range(n_before_start)
        for number, entry in enumerate(self._entries_after_start(), start=n_before_start):
            self._entry_by_number[number] = entry
            yield number

    def _entries_after_start(self) -> Iterator[SeededEntry]:
        """Read and yield the entries after the start in the order of the shards."""
        first_shard_index = len(self._start.finished_shard_sizes)
        for shard_index in range(first_shard_index, len(self._shards)):
            # The first of these shards was opened by `_read_again` if the start lies inside it.
            entries = self._reopened_shard or read_stream(self._shards[shard_index])
            self._reopened_shard = None
            for entry in entries:
                self._n_read_of_open_shard += 1
                yield self._with_seed(entry, shard_index)
            self._finished_shard_sizes.append(self._n_read_of_open_shard)
            self._n_read_of_open_shard = 0

    def _read_again(self, numbers: set[int]) -> None:
        """Read entries before the start again, and put them into `_entry_by_number`.

        A shard that was read to its end is opened only if it has such an entry, and is read up to
        the last such entry. The shard in which the start lies is read up to the start, and left
        open for `_entries_after_start`.

        Args:
            numbers: The numbers of the entries.

        Example:
            For shards of 3, 4 and 5 entries and the numbers {1, 8}, two entries of the first shard
            and two of the third one are read.
        """
        finished_shard_sizes = self._start.finished_shard_sizes
        first_number = 0  # of the entries of the shard
        for shard_index, n_entries in enumerate(finished_shard_sizes):
            numbers_in_shard = numbers.intersection(range(first_number, first_number + n_entries))
            if numbers_in_shard:
                n_to_read = max(numbers_in_shard) - first_number + 1
                stream = self._reopen_shard(shard_index, first_number, n_to_read, numbers)
                stream.close()
            first_number += n_entries

        n_to_read = self._start.n_read_of_open_shard
        if n_to_read > 0:
            shard_index = len(finished_shard_sizes)
            stream = self._reopen_shard(shard_index, first_number, n_to_read, numbers)
            self._reopened_shard = stream

    def _reopen_shard(
        self, shard_index: int, first_number: int, n_to_read: int, numbers: set[int]
    ) -> Generator[Entry, None, None]:
        """Read the first entries of a shard again, and return the rest of the shard.

        Args:
            shard_index: The index of the shard in the pass.
            first_number: The number of the first entry of the shard.
            n_to_read: How many entries are read.
            numbers: The numbers of the entries to put into `_entry_by_number`. The others are
                dropped.
        """
        shard = self._shards[shard_index]
        stream = read_stream(shard)
        first_entries = _first_entries(stream, shard, n_to_read)
        for number, entry in enumerate(first_entries, start=first_number):
            if number in numbers:
                self._entry_by_number[number] = self._with_seed(entry, shard_index)
        return stream

    def _with_seed(self, entry: Entry, shard_index: int) -> SeededEntry:
        """Return an entry, which is in a certain shard of the pass, and the seed of its views."""
        return entry, self._streams.view_seed(self._start.pass_number, shard_index, entry.key)


def _first_entries(stream: Iterator[Entry], shard: str, count: int) -> Iterator[Entry]:
    """Yield the first entries of an opened shard, which stays open.

    Args:
        stream: The samples and problems that are read from the shard.
        shard: The name of the shard, for errors.
        count: The number of entries to yield.

    Raises:
        UnreadableDataError: If the shard has fewer entries. If the last one is a problem, such as
            the one of a connection that failed, the error states it.
    """
    n_entries = 0
    problem: samples.Problem | None = None
    for entry in itertools.islice(stream, count):
        n_entries += 1
        if isinstance(entry, samples.Problem):
            problem = entry
        yield entry
    if n_entries < count:
        if problem is not None:
            raise samples.UnreadableDataError(
                f"{problem.detail} ({problem.kind}), and the snapshot has read {count} samples or "
                "more of it; go on by --resume when it can be read"
            )
        raise samples.UnreadableDataError(
            f"{shard} has {n_entries} samples, and had {count} or more when the snapshot was "
            "written"
        )


def pack_positions(
    positions_by_rank: Sequence[Mapping[int, samples.StreamPosition]], lanes: int
) -> dict[str, Any]:
    """Return the positions of the workers of all processes as lists and numbers for a snapshot.

    Args:
        positions_by_rank: For each process, the positions of its workers by their numbers (the
            lanes).
        lanes: The number of workers of each process.

    Returns:
        The number of workers, and for each process a list of positions. A position is packed as the
        number of its worker, followed by the fields of StreamPosition.

    Example:
        One process of two workers, of which only the first one has begun: `{"lanes": 2,
        "positions": [[[0, 1, 5, 5, (3, 2), 1]]]}`.
    """
    packed_by_rank = []
    for position_by_lane in positions_by_rank:
        packed_positions = [[lane, *position] for lane, position in position_by_lane.items()]
        packed_by_rank.append(packed_positions)
    return {"lanes": lanes, "positions": packed_by_rank}


def resumed_positions(
    stored: Mapping[str, Any], *, rank: int, world_size: int, lanes: int
) -> dict[int, samples.StreamPosition]:
    """Return the positions in their streams at which the workers of a process continue.

    If the number of processes or of workers has changed since the snapshot, all workers continue at
    the beginning of the first pass that no worker has begun. The process of rank 0 logs a warning
    then.

    Args:
        stored: The value of `pack_positions` in a snapshot.
        rank: The number of the process.
        world_size: The number of processes now.
        lanes: The number of workers of each process now.

    Returns:
        A position for each worker that has begun, by the number of the worker.
    """
    # Unpack the positions.
    positions_by_rank = []
    for packed_positions in stored["positions"]:
        position_by_lane = {
            lane: samples.StreamPosition(*fields) for lane, *fields in packed_positions
        }
        positions_by_rank.append(position_by_lane)
    stored_world_size, stored_lanes = len(positions_by_rank), stored["lanes"]
    if (world_size, lanes) == (stored_world_size, stored_lanes):
        return positions_by_rank[rank]

    next_pass = 0
    for position_by_lane in positions_by_rank:
        for position in position_by_lane.values():
            next_pass = max(next_pass, position.pass_number + 1)
    if rank == 0:
        _log.warning(
            f"the streams go on at the beginning of pass {next_pass + 1}: "
            f"{stored_world_size} processes of {stored_lanes} workers wrote the snapshot, and "
            f"this run has {world_size} of {lanes}; with the same numbers it goes on at the next "
            "sample"
        )
    return {lane: samples.StreamPosition(next_pass) for lane in range(lanes)}


def read_stream(shard: str) -> Generator[Entry, None, None]:
    """Yield the undecoded samples of a stream.

    If the stream cannot be opened or read to its end, the last entry is the problem of the shard.

    Args:
        shard: A command or a URL, such as `pipe:curl URL` or `s3://BUCKET/0.tar`.
    """
    try:
        stream = RemoteFile(shard) if is_opened_by_fsspec(shard) else webdataset.gopen(shard)
    except (OSError, ValueError) as error:
        yield _shard_problem(shard, 0, error)
        return
    # Otherwise webdataset may raise the error of a command before its output is read.
    set_options(stream, ignore_errors=True)
    failure: Exception | None = None
    n_samples = 0
    try:
        try:
            for key, raw_sample in _raw_samples(stream):
                yield StreamSample(shard, key, raw_sample)
                n_samples += 1
        except _FAILURES as error:
            failure = error
        # If a command failed, this is the cause of a damaged tar, and is reported in its place.
        command_failure = _close_stream(stream)
        if command_failure is not None:
            failure = command_failure
    finally:  # also if the caller stops early
        with suppress(OSError):
            stream.close()
    if failure is not None:
        yield _shard_problem(shard, n_samples, failure)


class RemoteFile:
    """A file of fsspec, such as `s3://BUCKET/00000.tar`, read from its beginning to its end.

    Every error is an OSError, since file systems raise errors of any kind.
    """

    def __init__(self, url: str) -> None:
        """Open a file for reading."""
        with _as_os_error():
            # A file system of this process: a worker must not use connections of another one.
            files, path = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
            self._file = files.open(path, "rb")

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, or fewer at the end of the file."""
        with _as_os_error():
            content: bytes = self._file.read(size)
            return content

    def close(self) -> None:
        """Close the file.

        Raises:
            OSError: If that fails.
        """
        with _as_os_error():
            self._file.close()


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Raise every error of the block as an OSError, whose message has the error's type."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            raise
        raise OSError(EIO, f"{type(error).__name__}: {error}") from error


class _StreamWithHead:
    """A stream whose first bytes, the head, have been read already.

    Its `read` returns the head first, as if nothing had been read.
    """

    def __init__(self, stream: Any, head: bytes = b"") -> None:
        """Put a stream and its first bytes, which have been read from it, together again."""
        self._stream = stream
        self._unread_head = head

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes of the head and the stream, or fewer at the end."""
        head_bytes = self._unread_head[:size]
        self._unread_head = self._unread_head[size:]
        if len(head_bytes) == size:
            return head_bytes
        return head_bytes + self._stream.read(size - len(head_bytes))


def _raw_samples(stream: Any) -> Iterator[tuple[str, samples.RawSample]]:
    """Yield the key and the undecoded files of each sample in a tar.

    Files with the same key, which is the name without the extension, are one sample if they follow
    each other in the tar: `a.jpg`, `a.json` and `b.jpg` are the samples "a" and "b". The first of
    several files with the same extension is used.

    Args:
        stream: The tar, which is open for reading and may be compressed.
    """
    for key, files in itertools.groupby(_sample_files(stream), key=lambda file: file.key):
        content_by_suffix: dict[str, bytes] = {}
        for file in files:
            content_by_suffix.setdefault(file.suffix, file.content)
        image = None
        for suffix in samples.IMAGE_SUFFIXES:
            if suffix in content_by_suffix:
                image = content_by_suffix[suffix]
                break
        yield key, samples.RawSample(image, content_by_suffix.get("json"))


class _SampleFile(NamedTuple):
    """A file of a sample in a tar."""

    key: str
    # The extension in lower case, such as "jpg".
    suffix: str
    content: bytes


def _sample_files(stream: Any) -> Iterator[_SampleFile]:
    """Yield the image files and the JSON records in a tar, in their order.

    A tar that gzip, bzip2 or xz has compressed is decompressed. Other files are skipped.
    """
    # The first two bytes tell the format of a compressed stream.
    head = stream.read(2)
    tar = _StreamWithHead(stream, head)
    if head in _DECOMPRESS:
        tar = _StreamWithHead(_DECOMPRESS[head](tar))
    reader = TarReader(tar)
    for member in reader:
        key_and_suffix = split_name(member.name)
        if key_and_suffix is None:
            continue
        key, suffix = key_and_suffix
        if suffix in samples.SAMPLE_SUFFIXES:
            yield _SampleFile(key, suffix, reader.read())


def _close_stream(stream: Any) -> OSError | None:
    """Close a stream, and return the error of closing it, or None if there is none.

    For a `pipe:` command, an exit status other than 0 is an error. The status counts only if all of
    the output was read: otherwise the closed pipe has ended the command.

    Args:
        stream: A file, or a pipe of webdataset with the attribute `status`.
    """
    try:
        is_at_end = not stream.read(1)
        stream.close()
    except OSError as error:
        return error
    # Files have no status.
    status = getattr(stream, "status", 0)
    accepted_statuses = getattr(stream, "ignore_status", [0])
    if is_at_end and status not in accepted_statuses:
        return OSError(f"the command ended with status {status}")
    return None


def _shard_problem(shard: str, count: int, error: Exception) -> samples.Problem:
    """Return the problem of a shard that cannot be read to its end.

    Args:
        shard: The command or the URL of the shard.
        count: The number of samples that were read before the error.
        error: The error.
    """
    kind = "truncated" if count else "unreadable"
    reason = str(error) or type(error).__name__
    shard_error = samples.BadSampleError(kind, f"after {count} samples: {reason}")
    return shard_error.problem(shard, key=shard)
