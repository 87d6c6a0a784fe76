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
    """An undecoded sample."""

    shard: str
    key: str
    raw: samples.RawSample

    def decode(self) -> samples.Sample | samples.Problem:
        """Decode the sample, or describe its problem."""
        try:
            return samples.decode_sample(self.raw)
        except samples.BadSampleError as bad:
            return bad.problem(self.shard, self.key)


class StreamBatches(IterableDataset[samples.Item]):
    """The batches of a process, each of which is made by one of its workers.

    Of L workers, also called lanes, lane i makes the batches of the steps i, i + L, i + 2 L and so
    on. PyTorch takes batches from the workers in turn, which puts the steps in order. A resumed run
    continues at the `positions` of its lanes. A lane without a position reads all earlier samples
    again. Raises ShardError if a worker would have no shard.
    """

    def __init__(
        self,
        shards: ShardSets,
        seed: int,
        schedule: Schedule,
        lanes: int,
        maker: samples.ViewMaker,
        positions: Mapping[int, samples.StreamPosition] | None = None,
    ) -> None:
        super().__init__()
        n_shards, n_processes = len(shards.shards), schedule.world_size
        if shards.weights is None and n_shards < n_processes * lanes:
            raise ShardError(
                f"{n_shards} stream shards are too few for {n_processes} processes of {lanes} "
                "workers: each reads its own; lower data.workers, or give weights"
            )
        self._shards = shards
        self._seed = seed
        self._schedule = schedule
        self._lanes = lanes
        self._view_maker = maker
        self._positions = positions or {}

    def __iter__(self) -> Iterator[samples.Item]:
        schedule = self._schedule
        worker = get_worker_info()
        worker_number = worker.id if worker else 0
        # PyTorch takes the first batch from worker 0, so this is the lane of the first step.
        lane = (worker_number + schedule.first_step) % self._lanes
        samples_per_batch = schedule.batch_size // schedule.world_size
        problems = list[samples.Problem]()
        reader = LaneReader(self, lane, self._positions.get(lane, samples.StreamPosition()))
        good_samples = reader.good_samples(problems)
        try:
            for step in range(lane, schedule.steps, self._lanes):
                is_past = step < schedule.first_step
                if is_past and lane in self._positions:
                    continue
                batch_samples = itertools.islice(good_samples, samples_per_batch)
                if is_past:
                    # Samples are decoded although no batch is made: a batch ends after a number of
                    # good samples.
                    for _ in batch_samples:
                        pass
                else:
                    views = [self._view_maker.views(sample, seed) for sample, seed in batch_samples]
                    batch = self._view_maker.batch(views, problems)
                    yield batch._replace(lane=lane, position=reader.position())
                problems.clear()
        except samples.UnreadableDataError as error:
            yield error

    def shards_of_pass(self, lane: int, number: int) -> list[str]:
        """Return the shards that a worker reads in the pass with a number.

        They are the worker's share of a permutation of all shards. With weights, they are as many
        shards, drawn with replacement.
        """
        shards = self._shards.shards
        rank, world_size = self._schedule.rank, self._schedule.world_size
        if self._shards.weights is None:
            order = np.random.default_rng([self._seed, number]).permutation(len(shards))
            process_order = order[rank::world_size]
            return [shards[i] for i in process_order[lane :: self._lanes]]
        set_sizes = [len(set_shards) for set_shards in self._shards.sets]
        weights = np.repeat(self._shards.weights, set_sizes)
        rng = np.random.default_rng([self._seed, number, rank, lane])
        n_draws = max(1, len(shards) // (world_size * self._lanes))
        drawn_shards = rng.choice(len(shards), n_draws, p=weights / weights.sum())
        return [shards[i] for i in drawn_shards]

    def shuffle_order(self, lane: int, number: int) -> random.Random:
        """Return the random generator of a worker's shuffle buffer in a pass."""
        return random.Random(f"{self._seed} {number} {self._schedule.rank} {lane}")

    def view_seed(self, number: int, turn: int, key: str) -> tuple[int, ...]:
        """Return the seed of a sample's views.

        It depends on the number of the pass and the sample's key and, with weights, on the turn of
        its shard in the pass.
        """
        digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()
        seed = (self._seed, number, int.from_bytes(digest, "big"))
        if self._shards.weights is None:
            return seed
        # With weights a shard can be drawn twice in a pass; its views should then differ.
        return (*seed, turn)


Entry = StreamSample | samples.Problem
"""A sample of a shard, or the problem of a shard that cannot be read further."""
SeededEntry = tuple[Entry, tuple[int, ...]]
"""An entry, and the seed of its views."""


class LaneReader:
    """Reads the samples of one worker, from a position on, through its shuffle buffer.

    An entry is a sample, or the problem of a shard. The place of an entry is its number in a pass,
    counted over the shards of the pass. The turn of a shard is its number in the pass.
    """

    def __init__(self, streams: StreamBatches, lane: int, start: samples.StreamPosition) -> None:
        self._streams = streams
        self._lane = lane
        self._start = start
        # The fields of the current position; see StreamPosition.
        self._pass_number = start.number
        self._taken = 0
        self._good = 0
        self._whole_shards = list[int]()
        self._begun = 0
        # The shard in which a resumed pass goes on.
        self._open_shard: Generator[Entry, None, None] | None = None

    def position(self) -> samples.StreamPosition:
        """Return the position after the last sample."""
        return samples.StreamPosition(
            self._pass_number, self._taken, self._good, tuple(self._whole_shards), self._begun
        )

    def good_samples(
        self, problems: list[samples.Problem]
    ) -> Iterator[tuple[samples.Sample, tuple[int, ...]]]:
        """Yield good samples and their seeds without end, and append bad samples to `problems`.

        Raises UnreadableDataError after a pass without a good sample, and if a shard no longer has
        the samples that the position names.
        """
        start = self._start
        last_problem: samples.Problem | None = None
        while True:
            self._good = start.good
            for entry, seed in self._shuffled_entries(start):
                self._taken += 1
                decoded = entry if isinstance(entry, samples.Problem) else entry.decode()
                if isinstance(decoded, samples.Problem):
                    problems.append(decoded)
                    last_problem = decoded
                else:
                    self._good += 1
                    yield decoded, seed
            if self._good == 0:
                detail = "" if last_problem is None else f"; the last problem: {last_problem}"
                raise samples.UnreadableDataError(
                    f"no good sample in the shards of a worker{detail}"
                )
            self._pass_number += 1
            start = samples.StreamPosition(self._pass_number)

    def _shuffled_entries(self, start: samples.StreamPosition) -> Iterator[SeededEntry]:
        """Yield the entries of a pass in the order of the shuffle buffer, from a position on.

        The order depends only on the seed and on the number of entries, not on their content. So
        the entries before the position are replayed by their places in the pass, without reading
        them. The places that leave the buffer before the position are dropped. Only the entries
        whose places are still in the buffer then are read again.
        """
        rng = self._streams.shuffle_order(self._lane, self._pass_number)
        shuffle = webdataset.shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER, rng=rng)
        shuffled_items = shuffle(self._places_and_entries(start))
        is_in_buffer = np.ones(start.n_entries_read, bool)
        for place in itertools.islice(shuffled_items, start.taken):
            is_in_buffer[place] = False
        self._taken = start.taken
        buffered_places = set(np.flatnonzero(is_in_buffer).tolist())
        buffered_entries = self._read_again(start, buffered_places)
        for item in shuffled_items:
            if isinstance(item, int):  # a place
                yield buffered_entries.pop(item)
            else:
                yield item

    def _places_and_entries(self, start: samples.StreamPosition) -> Iterator[int | SeededEntry]:
        """Yield the places of the entries before a position, then the entries after it.

        The position of this reader moves with the entries.
        """
        self._whole_shards = list(start.whole)
        self._begun = start.begun
        yield from range(start.n_entries_read)
        shards = self._streams.shards_of_pass(self._lane, self._pass_number)
        for turn in range(len(start.whole), len(shards)):
            entries = self._open_shard or read_stream(shards[turn])
            self._open_shard = None
            for entry in entries:
                self._begun += 1
                yield self._with_seed(entry, turn)
            self._whole_shards.append(self._begun)
            self._begun = 0

    def _read_again(
        self, start: samples.StreamPosition, places: set[int]
    ) -> dict[int, SeededEntry]:
        """Return the entries at some places before a position, by place.

        Of the shards that were read to their end, those without such an entry are not opened, and
        the others are read up to the last such entry. The shard in which the position is stays
        open: `_places_and_entries` goes on reading it.
        """
        shards = self._streams.shards_of_pass(self._lane, self._pass_number)
        entry_by_place: dict[int, SeededEntry] = {}
        first_place = 0  # of the shard
        for turn, n_entries in enumerate(start.whole):
            shard_places = places.intersection(range(first_place, first_place + n_entries))
            if shard_places:
                stream = read_stream(shards[turn])
                n_to_read = max(shard_places) - first_place + 1
                entries = _first_entries(stream, shards[turn], n_to_read)
                for place, entry in enumerate(entries, start=first_place):
                    if place in shard_places:
                        entry_by_place[place] = self._with_seed(entry, turn)
                stream.close()
            first_place += n_entries
        if start.begun > 0:
            turn = len(start.whole)
            stream = read_stream(shards[turn])
            entries = _first_entries(stream, shards[turn], start.begun)
            for place, entry in enumerate(entries, start=first_place):
                if place in places:
                    entry_by_place[place] = self._with_seed(entry, turn)
            self._open_shard = stream
        return entry_by_place

    def _with_seed(self, entry: Entry, turn: int) -> SeededEntry:
        """Return an entry of the shard that is read in a `turn` of the pass, with its seed."""
        return entry, self._streams.view_seed(self._pass_number, turn, entry.key)


def _first_entries(stream: Iterator[Entry], shard: str, count: int) -> Iterator[Entry]:
    """Yield the first `count` entries of a shard. Raises UnreadableDataError if it has fewer."""
    n_entries = 0
    for entry in itertools.islice(stream, count):
        n_entries += 1
        yield entry
    if n_entries < count:
        raise samples.UnreadableDataError(
            f"{shard} has {n_entries} samples, and had {count} or more when the snapshot was "
            "written"
        )


def pack_positions(
    positions_by_rank: Sequence[Mapping[int, samples.StreamPosition]], lanes: int
) -> dict[str, Any]:
    """Return the positions of the workers of all processes as lists and numbers for a snapshot."""
    packed = []
    for positions in positions_by_rank:
        packed.append([[lane, *position] for lane, position in positions.items()])
    return {"lanes": lanes, "positions": packed}


def resumed_positions(
    stored: Mapping[str, Any], *, rank: int, world_size: int, lanes: int
) -> dict[int, samples.StreamPosition]:
    """Return the positions of a process's workers by lane, from the value of `pack_positions`.

    If the number of processes or of workers has changed, all workers continue at the beginning of
    the first pass that no worker has begun.
    """
    positions_by_rank = []
    for packed_positions in stored["positions"]:
        positions = {lane: samples.StreamPosition(*values) for lane, *values in packed_positions}
        positions_by_rank.append(positions)
    stored_lanes = stored["lanes"]
    if (world_size, lanes) == (len(positions_by_rank), stored_lanes):
        return positions_by_rank[rank]
    begun_passes = [
        position.number for positions in positions_by_rank for position in positions.values()
    ]
    next_pass = max(begun_passes, default=-1) + 1
    if rank == 0:
        _log.warning(
            f"the streams go on at the beginning of pass {next_pass + 1}: "
            f"{len(positions_by_rank)} processes of {stored_lanes} workers wrote the snapshot, and "
            f"this run has {world_size} of {lanes}; with the same numbers it goes on at the next "
            "sample"
        )
    return {lane: samples.StreamPosition(next_pass) for lane in range(lanes)}


def read_stream(shard: str) -> Generator[Entry, None, None]:
    """Yield the samples of a stream. If it fails, the last entry is the problem of the shard."""
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
        # A command that failed is the cause of a damaged tar.
        failure = _close(stream) or failure
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
        with _as_os_error():
            # A file system of this process: a worker must not use connections of another one.
            files, path = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
            self._file = files.open(path, "rb")

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, fewer only at the end."""
        with _as_os_error():
            content: bytes = self._file.read(size)
            return content

    def close(self) -> None:
        """Close the file."""
        with _as_os_error():
            self._file.close()


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Raise OSError for any error of the block."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            raise
        raise OSError(EIO, f"{type(error).__name__}: {error}") from error


class _StreamWithHead:
    """A stream whose first bytes, the head, have been read already."""

    def __init__(self, stream: Any, head: bytes = b"") -> None:
        self._stream, self._head = stream, head

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, or fewer at the end."""
        head, self._head = self._head[:size], self._head[size:]
        if size <= len(head):
            return head
        return head + self._stream.read(size - len(head))


def _raw_samples(stream: Any) -> Iterator[tuple[str, samples.RawSample]]:
    """Yield the key and the contents of each sample in a tar.

    Files with the same key are one sample if they follow each other in the tar. The first of
    several files with the same extension is used.
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
    """Yield the images and the records in a tar, which is decompressed if necessary."""
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


def _close(stream: Any) -> OSError | None:
    """Close a stream, and return its error, if it has one.

    The exit status of a command counts only if all of its output was read: otherwise the command is
    ended by the closed pipe.
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
    """Return the problem of a shard that failed after `count` samples."""
    kind = "truncated" if count else "unreadable"
    reason = str(error) or type(error).__name__
    bad_sample = samples.BadSampleError(kind, f"after {count} samples: {reason}")
    return bad_sample.problem(shard, shard)
