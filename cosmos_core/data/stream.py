"""Batches of samples in streams (`pipe:`, a URL), which are read from beginning to end."""

import bz2
import gzip
import hashlib
import itertools
import lzma
import random
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import webdataset
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.gopen import set_options

from cosmos_core.data import samples
from cosmos_core.data.shards import Schedule, ShardError, ShardSets
from cosmos_core.data.tar import TarError, TarReader, split_name

SHUFFLE_BUFFER = 1000  # undecoded samples: about 100 MB of photographs in each worker
# By their first bytes; webdataset decompresses these as well.
_DECOMPRESS: dict[bytes, Callable[[Any], Any]]
_DECOMPRESS = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
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
    reads the samples before. Raises ShardError where a worker would have no shard."""

    def __init__(
        self, shards: ShardSets, seed: int, schedule: Schedule, lanes: int, maker: samples.ViewMaker
    ) -> None:
        super().__init__()
        have, processes = len(shards.shards), schedule.world_size
        if shards.weights is None and have < processes * lanes:
            raise ShardError(
                f"{have} stream shards are too few for {processes} processes of {lanes} workers: "
                "each reads its own; lower data.workers, or give weights"
            )
        self._shards, self._seed, self._schedule = shards, seed, schedule
        self._lanes, self._maker = lanes, maker

    def __iter__(self) -> Iterator[samples.Item]:
        schedule, worker = self._schedule, get_worker_info()
        lane = ((worker.id if worker else 0) + schedule.first_step) % self._lanes
        problems = list[samples.Problem]()
        good = self._samples(lane, problems)
        try:
            for step in range(lane, schedule.steps, self._lanes):
                batch = itertools.islice(good, schedule.batch_size // schedule.world_size)
                if step >= schedule.first_step:
                    yield self._maker.batch([self._maker.views(*one) for one in batch], problems)
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

    def _samples(
        self, lane: int, problems: list[samples.Problem]
    ) -> Iterator[tuple[samples.Sample, tuple[int, ...]]]:
        """Yield good samples and their seeds for ever, and append the bad ones to `problems`.
        Raises UnreadableDataError after a pass without any good one."""
        for number in itertools.count():
            good, last = 0, ""
            rng = random.Random(f"{self._seed} {number} {self._schedule.rank} {lane}")
            shuffled = webdataset.shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER, rng=rng)
            for read, seed in shuffled(self._read(lane, number)):
                found = read if isinstance(read, samples.Problem) else read.decode()
                if isinstance(found, samples.Problem):
                    problems.append(found)
                    last = f"; the last problem: {found}"
                else:
                    good += 1
                    yield found, seed
            if not good:
                raise samples.UnreadableDataError(f"no good sample in the shards of a worker{last}")

    def _read(
        self, lane: int, number: int
    ) -> Iterator[tuple[StreamSample | samples.Problem, tuple[int, ...]]]:
        for turn, shard in enumerate(self.shards_of_pass(lane, number)):
            # A shard that is drawn twice in a pass is not augmented alike.
            twice = () if self._shards.weights is None else (turn,)
            for item in read_stream(shard):
                digest = hashlib.blake2b(item.key.encode(errors="surrogateescape"), digest_size=8)
                yield item, (self._seed, number, int.from_bytes(digest.digest(), "big"), *twice)


def read_stream(shard: str) -> Iterator[StreamSample | samples.Problem]:
    """Yield the samples of a stream up to where it fails, and then the shard's problem."""
    try:
        stream = webdataset.gopen(shard)
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
