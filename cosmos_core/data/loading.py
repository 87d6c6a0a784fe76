"""The batches of a training run: from a configuration to uint8 views."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cosmos_core.config import TrainConfig
from cosmos_core.data import samples
from cosmos_core.data.index import SampleIndex, index_shards
from cosmos_core.data.shards import BatchOrder, Draw, Schedule, ShardSets, parse_shards
from cosmos_core.data.stream import StreamBatches
from cosmos_core.data.workers import worker_lifetime

MAX_SUBSTITUTES = 100  # for one sample


class OpenedData(NamedTuple):
    """The batches of a process, and the index of local tars, which is None for streams."""

    batches: Iterator[samples.Batch]
    sample_index: SampleIndex | None


def make_loader(
    config: TrainConfig,
    tokenizer: samples.Tokenizer,
    *,
    rank: int = 0,
    world_size: int = 1,
    first_step: int = 0,
    positions: Mapping[int, samples.StreamPosition] | None = None,
) -> Iterator[samples.Batch]:
    """Return this process's batches of uint8 views, from a global step to the last of the run.

    The batches of local tars depend only on the seed and the step. Those of streams depend on the
    numbers of processes and workers too. They go on at `positions` of this process's workers, by
    lane; a lane without a position reads all samples that come before. No global random generator
    is used. Raises ValueError at once for unfit shards or numbers, and later UnreadableDataError if
    there is no good sample, and ChildProcessError for a worker that died.
    """
    data = open_data(
        config,
        tokenizer,
        rank=rank,
        world_size=world_size,
        first_step=first_step,
        positions=positions,
    )
    return data.batches


def open_data(
    config: TrainConfig,
    tokenizer: samples.Tokenizer,
    *,
    rank: int = 0,
    world_size: int = 1,
    first_step: int = 0,
    positions: Mapping[int, samples.StreamPosition] | None = None,
) -> OpenedData:
    """Return the batches of `make_loader`, and the index of local tars."""
    batch_size = config.optim.batch_size
    if batch_size % world_size:
        raise ValueError(
            f"optim.batch_size={batch_size} cannot be dealt to {world_size} processes evenly; "
            "give a multiple"
        )
    shards = parse_shards(config.data)
    view_maker = samples.ViewMaker(config, tokenizer)
    schedule = Schedule(batch_size, config.optim.steps, first_step, rank, world_size)
    if shards.streams:
        workers = stream_workers(config)
        streams = StreamBatches(shards, config.seed, schedule, workers, view_maker, positions)
        return OpenedData(_load(config, streams, None, workers), None)
    workers = config.data.workers
    index = index_shards(shards.shards, workers=workers, rank=rank, world_size=world_size)
    order = BatchOrder(
        _set_sizes(shards, index),
        shards.weights,
        config.seed,
        schedule,
        keyed=config.data.keyed_order,
    )
    batches = _load(config, LocalBatches(index, view_maker), order, workers)
    return OpenedData(batches, index)


def _set_sizes(shards: ShardSets, index: SampleIndex) -> list[int]:
    """Return the number of samples in each set of shards."""
    sizes = []
    first_shard = 0
    for set_shards in shards.sets:
        end_shard = first_shard + len(set_shards)
        sizes.append(index.start(end_shard) - index.start(first_shard))
        first_shard = end_shard
    return sizes


def stream_workers(config: TrainConfig) -> int:
    """Return the number of workers of a process that read streams.

    There is at least one: a command can stall, and the processes that it started can only be ended
    if they have a process group of their own.
    """
    return max(1, config.data.workers)


class LocalBatches(Dataset[samples.Item]):
    """A data set whose items are whole batches; its indices are lists of draws.

    A bad sample is replaced by another, which the draw's seed chooses, up to MAX_SUBSTITUTES times.
    """

    def __init__(self, index: SampleIndex, maker: samples.ViewMaker) -> None:
        self._index, self._view_maker = index, maker

    def __getitem__(self, draws: Sequence[Draw]) -> samples.Item:
        problems = list[samples.Problem]()
        try:
            views = [self._views(draw, problems) for draw in draws]
            return self._view_maker.batch(views, problems)
        except samples.UnreadableDataError as error:
            return error

    def _views(self, draw: Draw, problems: list[samples.Problem]) -> samples.SampleViews:
        """Return the views of a draw's sample or its substitute; append bad ones to `problems`."""
        number = draw.number
        for substitute in range(1, MAX_SUBSTITUTES + 1):
            try:
                sample = samples.decode_sample(self._index.read(number))
            except samples.BadSampleError as bad:
                problems.append(bad.problem(*self._index.name(number)))
                rng = np.random.default_rng((*draw.seed, substitute))
                number = int(rng.integers(len(self._index)))
            else:
                return self._view_maker.views(sample, draw.seed)
        raise samples.UnreadableDataError(
            f"{MAX_SUBSTITUTES} samples in a row could not be read, the last one {problems[-1]}"
        )


def _load(
    config: TrainConfig, dataset: Dataset[samples.Item], order: BatchOrder | None, workers: int
) -> Iterator[samples.Batch]:
    """Yield the batches of a data set, in the given order, or in its own order for streams."""
    reads_streams = order is None
    try:
        with worker_lifetime(commands=reads_streams) as init_worker:
            loader = DataLoader(
                dataset,
                batch_size=None,  # an item is a batch
                sampler=order,
                num_workers=workers,
                pin_memory=config.compute.device != "cpu" and torch.cuda.is_available(),
                worker_init_fn=partial(_init_worker, init_worker),
                generator=torch.Generator(),  # else a seed is drawn from the global generator
            )
            with _one_opencv_thread():
                # Inside the lifetime, so that workers end before the loader waits for their end.
                items = iter(loader)
            for item in items:
                if isinstance(item, samples.UnreadableDataError):
                    raise item
                # The loader turns the tuple of problems into a list.
                yield item._replace(problems=tuple(item.problems))
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise ChildProcessError(
            f"a data worker died ({' '.join(str(error).split())}); "
            "if memory ran out, lower data.workers or optim.batch_size"
        ) from error


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Stop OpenCV's threads while workers are forked; a fork of a process with them may hang."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _init_worker(init_worker: Callable[[int], None], number: int) -> None:
    if cv2.getNumThreads() != 1:  # in a worker that was spawned, not forked
        cv2.setNumThreads(1)
    init_worker(number)
