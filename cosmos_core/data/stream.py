"""Batches of samples in streams (`pipe:`, a URL), which are read from beginning to end."""

import bz2
import gzip
import hashlib
import itertools
import logging
import lzma
import random
import zlib
from collections import deque
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
# By their first bytes; webdataset decompresses these as well.
_DECOMPRESS: dict[bytes, Callable[[Any], Any]]
_DECOMPRESS = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
_log = logging.getLogger(__name__)
_FAILURES = (TarError, OSError, EOFError, zlib.error, lzma.LZMAError)


class StreamSample(NamedTuple):
    """An undecoded sample."""

    shard: str
    key: str
    raw: samples.RawSample

    def decode(self) -> samples.Sample | samples.Problem:
        """Decode the sample, or say what is wrong with it."""
        try:
            return samples.decode_sample(self.raw)
        except samples.BadSampleError as bad:
            return bad.problem(self.shard, self.key)


class StreamBatches(IterableDataset[samples.Item]):
    """Whole batches; worker i of L, `lanes`, makes those of the steps that leave i modulo L.
    PyTorch takes turns among the workers, which puts the batches in order. A run that begins late
    goes on from the `positions` of its lanes; a lane without one reads all samples before. Raises
    ShardError if a worker would have no shard."""

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
        have, processes = len(shards.shards), schedule.world_size
        if shards.weights is None and have < processes * lanes:
            raise ShardError(
                f"{have} stream shards are too few for {processes} processes of {lanes} workers: "
                "each reads its own; lower data.workers, or give weights"
            )
        self._shards, self._seed, self._schedule = shards, seed, schedule
        self._lanes, self._maker, self._positions = lanes, maker, positions or {}

    def __iter__(self) -> Iterator[samples.Item]:
        schedule, worker = self._schedule, get_worker_info()
        number = worker.id if worker else 0
        lane = (number + schedule.first_step) % self._lanes
        problems = list[samples.Problem]()
        reader = LaneReader(self, lane, self._positions.get(lane, samples.StreamPosition()))
        good = reader.good_samples(problems)
        try:
            for step in range(lane, schedule.steps, self._lanes):
                if step < schedule.first_step and lane in self._positions:
                    continue
                batch = itertools.islice(good, schedule.batch_size // schedule.world_size)
                if step >= schedule.first_step:
                    views = [self._maker.views(*sample_and_seed) for sample_and_seed in batch]
                    made = self._maker.batch(views, problems)
                    yield made._replace(lane=lane, position=reader.position())
                else:  # decoded in any case: which are bad decides where a batch ends
                    deque(batch, maxlen=0)
                problems.clear()
        except samples.UnreadableDataError as error:
            yield error

    def shards_of_pass(self, lane: int, number: int) -> list[str]:
        """Return a worker's part of a permutation of all shards, or with weights as many draws."""
        shards, (*_, rank, world_size) = self._shards.shards, self._schedule
        if self._shards.weights is None:
            order = np.random.default_rng([self._seed, number]).permutation(len(shards))
            return [shards[i] for i in order[rank::world_size][lane :: self._lanes]]
        weights = np.repeat(self._shards.weights, [len(shards) for shards in self._shards.sets])
        rng = np.random.default_rng([self._seed, number, rank, lane])
        count = max(1, len(shards) // (world_size * self._lanes))
        return [shards[i] for i in rng.choice(len(shards), count, p=weights / weights.sum())]

    def shuffle_order(self, lane: int, number: int) -> random.Random:
        """Return the generator of a worker's shuffle buffer in a pass."""
        return random.Random(f"{self._seed} {number} {self._schedule.rank} {lane}")

    def view_seed(self, number: int, turn: int, key: str) -> tuple[int, ...]:
        """Return the seed of the views of a sample in a shard, the `turn`-th of a pass."""
        digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()
        seed = (self._seed, number, int.from_bytes(digest, "big"))
        # A shard that is drawn twice in a pass is not augmented alike.
        return seed if self._shards.weights is None else (*seed, turn)


Entry = StreamSample | samples.Problem
SeededEntry = tuple[Entry, tuple[int, ...]]  # and the seed of its views


class LaneReader:
    """Reads the samples of one worker from a position on, through its shuffle buffer."""

    def __init__(self, streams: StreamBatches, lane: int, start: samples.StreamPosition) -> None:
        self._streams, self._lane, self._start = streams, lane, start
        self._number, self._taken, self._good = start.number, 0, 0
        self._whole, self._begun = list[int](), 0
        # The shard that a resumed pass goes on in.
        self._open: Generator[Entry, None, None] | None = None

    def position(self) -> samples.StreamPosition:
        """Return the position after the last sample."""
        return samples.StreamPosition(
            self._number, self._taken, self._good, tuple(self._whole), self._begun
        )

    def good_samples(
        self, problems: list[samples.Problem]
    ) -> Iterator[tuple[samples.Sample, tuple[int, ...]]]:
        """Yield good samples and their seeds for ever, and append the bad ones to `problems`.
        Raises UnreadableDataError after a pass without any good one, and if a shard no longer has
        the samples that the position names."""
        start, last = self._start, ""
        while True:
            self._good = start.good
            for entry, seed in self._shuffled(start):
                self._taken += 1
                decoded = entry if isinstance(entry, samples.Problem) else entry.decode()
                if isinstance(decoded, samples.Problem):
                    problems.append(decoded)
                    last = f"; the last problem: {decoded}"
                else:
                    self._good += 1
                    yield decoded, seed
            if not self._good:
                raise samples.UnreadableDataError(f"no good sample in the shards of a worker{last}")
            self._number += 1
            start = samples.StreamPosition(self._number)

    def _shuffled(self, start: samples.StreamPosition) -> Iterator[SeededEntry]:
        """Yield the entries of a pass in the order of the shuffle buffer, from a position on.

        The buffer is first filled with the places of entries, numbers counted over the shards of
        the pass, of which those before the position leave it again; only then is anything read.
        """
        rng = self._streams.shuffle_order(self._lane, self._number)
        shuffle = webdataset.shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER, rng=rng)
        shuffled = shuffle(self._places_and_entries(start))
        is_in_buffer = np.ones(sum(start.whole) + start.begun, bool)
        taken = itertools.islice(shuffled, start.taken)
        is_in_buffer[np.fromiter(taken, np.int64, start.taken)] = False
        self._taken = start.taken
        buffered = self._read_again(start, set(np.flatnonzero(is_in_buffer).tolist()))
        for item in shuffled:
            yield buffered.pop(item) if isinstance(item, int) else item

    def _places_and_entries(self, start: samples.StreamPosition) -> Iterator[int | SeededEntry]:
        """Yield the places of the entries before a position, then the entries from there on."""
        self._whole, self._begun = list(start.whole), start.begun
        yield from range(sum(start.whole) + start.begun)
        shards = self._streams.shards_of_pass(self._lane, self._number)
        for turn in range(len(start.whole), len(shards)):
            stream, self._open = self._open or read_stream(shards[turn]), None
            for entry in stream:
                self._begun += 1
                yield self._seeded(entry, turn)
            self._whole.append(self._begun)
            self._begun = 0

    def _read_again(
        self, start: samples.StreamPosition, places: set[int]
    ) -> dict[int, SeededEntry]:
        """Return the entries at places before a position, and open the shard that it is in."""
        shards = self._streams.shards_of_pass(self._lane, self._number)
        entries: dict[int, SeededEntry] = {}
        first = 0  # place of the first entry of a shard
        for turn, count in enumerate([*start.whole, start.begun]):
            places_in_shard = places.intersection(range(first, first + count))
            goes_on = turn == len(start.whole) and start.begun > 0
            end = first + count if goes_on else max(places_in_shard, default=first - 1) + 1
            if end > first:
                stream, number = read_stream(shards[turn]), 0
                for number, entry in enumerate(itertools.islice(stream, end - first), start=1):
                    if first + number - 1 in places_in_shard:
                        entries[first + number - 1] = self._seeded(entry, turn)
                if number < end - first:
                    raise samples.UnreadableDataError(
                        f"{shards[turn]} has {number} samples, and had {end - first} or more when "
                        "the snapshot was written"
                    )
                if goes_on:
                    self._open = stream
                else:
                    stream.close()
            first += count
        return entries

    def _seeded(self, entry: Entry, turn: int) -> SeededEntry:
        return entry, self._streams.view_seed(self._number, turn, entry.key)


def pack_positions(
    by_rank: Sequence[Mapping[int, samples.StreamPosition]], lanes: int
) -> dict[str, Any]:
    """Return the positions of the workers of all processes, of plain types for a snapshot."""
    packed = [[[lane, *place] for lane, place in places.items()] for places in by_rank]
    return {"lanes": lanes, "positions": packed}


def resumed_positions(
    stored: Mapping[str, Any], *, rank: int, world_size: int, lanes: int
) -> dict[int, samples.StreamPosition]:
    """Return where the workers of a process go on by what `pack_positions` stored. If the numbers
    of processes or of workers are others, that is the beginning of a pass that none has begun."""
    by_rank = [
        {lane: samples.StreamPosition(*values) for lane, *values in places}
        for places in stored["positions"]
    ]
    if (world_size, lanes) == (len(by_rank), stored["lanes"]):
        return by_rank[rank]
    passes = [position.number for places in by_rank for position in places.values()]
    number = 1 + max(passes, default=-1)
    if rank == 0:
        _log.warning(
            f"the streams go on at the beginning of pass {number + 1}: {len(by_rank)} processes of "
            f"{stored['lanes']} workers wrote the snapshot, and this run has {world_size} of "
            f"{lanes}; with the same numbers it goes on at the next sample"
        )
    return {lane: samples.StreamPosition(number) for lane in range(lanes)}


def read_stream(shard: str) -> Generator[Entry, None, None]:
    """Yield the samples of a stream up to where it fails, and then the shard's problem."""
    try:
        stream = RemoteFile(shard) if is_opened_by_fsspec(shard) else webdataset.gopen(shard)
    except (OSError, ValueError) as error:
        yield _broken(shard, 0, error)
        return
    # Otherwise the output of a command that fails is lost, depending on the moment.
    set_options(stream, ignore_errors=True)
    failure, count = None, 0
    try:
        try:
            for key, raw in _samples(stream):
                yield StreamSample(shard, key, raw)
                count += 1
        except _FAILURES as error:
            failure = error
        failure = _end(stream) or failure
    finally:  # also where the caller stops early
        with suppress(OSError):
            stream.close()
    if failure is not None:
        yield _broken(shard, count, failure)


class RemoteFile:
    """A file of fsspec, such as `s3://BUCKET/00000.tar`, read from its beginning to its end. Every
    error is an OSError: file systems raise errors of any kind."""

    def __init__(self, url: str) -> None:
        with _as_os_error():
            # Not those of another process, whose connections a worker must not use.
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
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            raise
        raise OSError(EIO, f"{type(error).__name__}: {error}") from error


class _Stream:
    """A stream of which the first bytes, the head, have been read."""

    def __init__(self, stream: Any, head: bytes = b"") -> None:
        self._stream, self._head = stream, head

    def read(self, size: int, /) -> bytes:
        """Return `size` bytes, fewer only at the end."""
        head, self._head = self._head[:size], self._head[size:]
        return head + self._stream.read(size - len(head)) if size > len(head) else head


def _samples(stream: Any) -> Iterator[tuple[str, samples.RawSample]]:
    """Yield the key and the files of each sample, whose files are neighbours."""
    head = stream.read(2)
    whole = _Stream(stream, head)
    reader = TarReader(_Stream(_DECOMPRESS[head](whole)) if head in _DECOMPRESS else whole)
    names = (split_name(member.name) or ("", "") for member in reader)
    files = ((key, end, reader.read()) for key, end in names if end in samples.SAMPLE_SUFFIXES)
    for key, group in itertools.groupby(files, key=lambda file: file[0]):
        found: dict[str, bytes] = {}
        for _, suffix, content in group:
            found.setdefault(suffix, content)
        image = next((found[suffix] for suffix in samples.IMAGE_SUFFIXES if suffix in found), None)
        yield key, samples.RawSample(image, found.get("json"))


def _end(stream: Any) -> OSError | None:
    """Close a stream; return the failure of its command, if the command printed all it had to."""
    try:
        ended = not stream.read(1)
        stream.close()
    except OSError as error:
        return error
    status = getattr(stream, "status", 0)  # a command's; files have none
    if not ended or status in getattr(stream, "ignore_status", [0]):
        return None
    return OSError(f"the command ended with status {status}")


def _broken(shard: str, count: int, error: Exception) -> samples.Problem:
    reason = str(error) or type(error).__name__
    kind = "truncated" if count else "unreadable"
    return samples.BadSampleError(kind, f"after {count} samples: {reason}").problem(shard, shard)
