"""Batches of samples in streams, which are read from beginning to end."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import webdataset
from torch.utils.data import IterableDataset, get_worker_info

from cosmos_core.data.order import Share
from cosmos_core.data.problems import BadSampleError, Problem, UnreadableDataError
from cosmos_core.data.samples import (
    Batch,
    Failure,
    Sample,
    SampleViews,
    ViewMaker,
    decode_sample,
)
from cosmos_core.data.shards import ShardError, ShardSets
from cosmos_core.data.tarstream import StreamSample, read_stream

SHUFFLE_BUFFER = 1000  # samples, as read: about 100 MB of photographs in each worker


class StreamPlan(NamedTuple):
    """What decides the order of streams; `lanes` are the workers of a process, 1 without any."""

    shards: ShardSets
    seed: int
    share: Share
    lanes: int

    def check(self) -> None:
        """Raises ShardError where a worker of a process would have no shard."""
        have, readers = len(self.shards.shards), self.share.world_size * self.lanes
        if self.shards.weights is None and have < readers:
            raise ShardError(
                f"{have} stream shards are too few for {self.share.world_size} processes of "
                f"{self.lanes} workers: each reads its own; lower data.workers, or give weights"
            )

    def passage(self, lane: int, number: int) -> list[str]:
        """The shards that a worker reads in its pass `number`.

        Without weights a share of a permutation of all; with them as many as a share has, drawn
        with replacement, a shard's chance in proportion to its set's weight.
        """
        shards = self.shards.shards
        if self.shards.weights is None:
            order = np.random.default_rng([self.seed, number]).permutation(len(shards))
            return [
                shards[i]
                for i in order[self.share.rank :: self.share.world_size][lane :: self.lanes]
            ]
        sets = zip(self.shards.weights, self.shards.sets, strict=True)
        weights = np.concatenate([np.full(len(shards), weight) for weight, shards in sets])
        rng = np.random.default_rng([self.seed, number, self.share.rank, lane])
        count = max(1, len(shards) // (self.share.world_size * self.lanes))
        return [shards[i] for i in rng.choice(len(shards), count, p=weights / weights.sum())]


class _Good(NamedTuple):
    seed: tuple[int, ...]
    sample: Sample


class StreamBatches(IterableDataset["Batch | Failure"]):
    """Whole batches; worker `lane` of L makes those of the steps that leave `lane` modulo L.

    So PyTorch's turns among workers put them in order. A run that begins late reads what came
    before, without augmenting it.
    """

    def __init__(self, plan: StreamPlan, maker: ViewMaker) -> None:
        super().__init__()
        plan.check()
        self._plan, self._maker = plan, maker

    def __iter__(self) -> Iterator[Batch | Failure]:
        plan, worker = self._plan, get_worker_info()
        lane = ((worker.id if worker else 0) + plan.share.first_step) % plan.lanes
        samples = self._samples(lane)
        try:
            for step in range(lane, plan.share.steps, plan.lanes):
                if step < plan.share.first_step:
                    self._skip(samples)
                else:
                    yield self._batch(samples)
        except UnreadableDataError as error:
            yield Failure(str(error))

    def _batch(self, samples: Iterator[_Good | Problem]) -> Batch:
        views: list[SampleViews] = []
        problems: list[Problem] = []
        while len(views) < self._plan.share.part:
            item = next(samples)
            if isinstance(item, Problem):
                problems.append(item)
            else:
                views.append(self._maker.views(item.sample, item.seed))
        return self._maker.batch(views, problems)

    def _skip(self, samples: Iterator[_Good | Problem]) -> None:
        """A batch's samples are decoded all the same: which are bad decides where it ends."""
        good = 0
        while good < self._plan.share.part:
            good += isinstance(next(samples), _Good)

    def _samples(self, lane: int) -> Iterator[_Good | Problem]:
        """Decoded samples without end. Raises UnreadableDataError after a pass without any."""
        for number in itertools.count():
            good, last = 0, None
            for item in self._decoded(lane, number):
                good += isinstance(item, _Good)
                last = item if isinstance(item, Problem) else last
                yield item
            if not good:
                why = f"; the last problem: {last.key}: {last.kind}: {last.detail}" if last else ""
                raise UnreadableDataError(f"no good sample in the shards of a worker{why}")

    def _decoded(self, lane: int, number: int) -> Iterator[_Good | Problem]:
        """The samples of a pass, shuffled in a buffer."""
        rng = random.Random(f"{self._plan.seed} {number} {self._plan.share.rank} {lane}")
        shuffled = webdataset.shuffle(SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER, rng=rng)
        for item in shuffled(self._read(lane, number)):
            if isinstance(item, Problem):
                yield item
                continue
            seed, read = item
            try:
                yield _Good(seed, decode_sample(read.raw))
            except BadSampleError as bad:
                yield bad.problem(read.shard, read.key)

    def _read(
        self, lane: int, number: int
    ) -> Iterator[tuple[tuple[int, ...], StreamSample] | Problem]:
        """The samples of a pass, in the order of its shards, each with its seed."""
        for place, shard in enumerate(self._plan.passage(lane, number)):
            # A shard that is drawn twice in a pass is not augmented alike.
            twice = () if self._plan.shards.weights is None else (place,)
            for item in read_stream(shard):
                if isinstance(item, Problem):
                    yield item
                else:
                    yield (self._plan.seed, number, item.hash, *twice), item
