"""The batches of a training run: from a configuration to uint8 views."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from cosmos_core.config import TrainConfig
from cosmos_core.data.index import as_is, index_shards
from cosmos_core.data.local import LocalBatches
from cosmos_core.data.order import BatchOrder, EpochOrder, Share
from cosmos_core.data.problems import Problem, UnreadableDataError
from cosmos_core.data.samples import Batch, Failure, Tokenizer, ViewMaker
from cosmos_core.data.shards import ShardError, ShardSets, parse_shards
from cosmos_core.data.stream import StreamBatches, StreamPlan
from cosmos_core.data.workers import worker_lifetime

__all__ = ["Batch", "Problem", "ShardError", "Tokenizer", "UnreadableDataError", "make_loader"]


def make_loader(
    config: TrainConfig,
    tokenizer: Tokenizer,
    *,
    rank: int = 0,
    world_size: int = 1,
    first_step: int = 0,
) -> Iterable[Batch]:
    """This process's batches of uint8 views, from a global step on to the last of the run.

    `optim.batch_size` counts the samples of all processes, each of which gets an equal part. What
    is yielded depends on the seed and the step only; for streams also on the numbers of processes
    and of workers. The global generators of random numbers are left alone.

    Raises ValueError, before any batch, for shards or numbers that do not fit. While batches are
    drawn: UnreadableDataError where no good sample is found, ChildProcessError where a worker died.
    """
    batch_size = config.optim.batch_size
    if batch_size % world_size:
        raise ValueError(
            f"optim.batch_size={batch_size} cannot be dealt to {world_size} processes evenly; "
            "give a multiple"
        )
    shards, maker = parse_shards(config.data), ViewMaker(config, tokenizer)
    share = Share(batch_size, config.optim.steps, first_step, rank, world_size)
    if shards.streams:
        return _stream_batches(config, shards, maker, share)
    return _local_batches(config, shards, maker, share)


def _stream_batches(
    config: TrainConfig, shards: ShardSets, maker: ViewMaker, share: Share
) -> Iterable[Batch]:
    # Streams are read by a worker even where none is asked for: a command can stall, and what it
    # started can only be ended with a process group of its own.
    workers = max(1, config.data.workers)
    plan = StreamPlan(shards, config.seed, share, lanes=workers)
    return _Batches(config, StreamBatches(plan, maker), None, workers)


def _local_batches(
    config: TrainConfig, shards: ShardSets, maker: ViewMaker, share: Share
) -> Iterable[Batch]:
    index = index_shards(
        shards.shards,
        workers=config.data.workers,
        rank=share.rank,
        world_size=share.world_size,
    )
    ends = itertools.accumulate(map(len, shards.sets), initial=0)
    sizes = [index.start(end) - index.start(first) for first, end in itertools.pairwise(ends)]
    order = BatchOrder(EpochOrder(sizes, shards.weights, config.seed), share)
    return _Batches(config, LocalBatches(index, maker), order, config.data.workers)


class _Batches:
    """One pass over a loader's batches, in this process's form of failure."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset[Batch | Failure],
        order: BatchOrder | None,
        workers: int,
    ) -> None:
        self._dataset, self._order, self._workers = dataset, order, workers
        self._pin_memory = config.compute.device != "cpu" and torch.cuda.is_available()

    def __iter__(self) -> Iterator[Batch]:
        try:
            with worker_lifetime(commands=self._order is None) as start:
                with _one_opencv_thread():
                    # Here, so that workers are ended before the loader waits for them to end.
                    items = iter(self._loader(start))
                for item in items:
                    if isinstance(item, Failure):
                        raise UnreadableDataError(item.reason)
                    # Pinning makes lists of tuples.
                    yield Batch(item.views, tuple(item.problems))
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise ChildProcessError(
                f"a data worker died ({' '.join(str(error).split())}); "
                "where memory ran out, lower data.workers or optim.batch_size"
            ) from error

    def _loader(self, start: Callable[[int], None]) -> DataLoader[Batch | Failure]:
        return DataLoader(
            self._dataset,
            batch_size=None,  # an item is a batch, collated by a worker
            sampler=self._order,
            num_workers=self._workers,
            collate_fn=as_is,
            pin_memory=self._pin_memory,
            worker_init_fn=partial(_start_worker, start),
            generator=torch.Generator(),  # else a seed for workers is drawn from the global one
        )


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """While workers are forked: a copy of a process whose OpenCV has threads at work may hang, and
    each worker is to have one thread anyway."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _start_worker(start: Callable[[int], None], number: int) -> None:
    """One thread of OpenCV also in a worker that is no copy."""
    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)
    start(number)
