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
from cosmos_core.data.cache import CachedTokenizer, decode_samples
from cosmos_core.data.index import SampleIndex, index_shards
from cosmos_core.data.shards import BatchOrder, Draw, Schedule, ShardSets, parse_shards
from cosmos_core.data.stream import StreamBatches
from cosmos_core.data.workers import worker_lifetime

MAX_SUBSTITUTES = 100  # how many samples are tried in place of one bad sample


class OpenedData(NamedTuple):
    """The opened training data of a process."""

    # This process's share of each batch.
    batches: Iterator[samples.Batch]
    # The index of local tars; None for streams.
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
    """Return the batches of `open_data`, which takes the same arguments and raises the same errors.

    Raises:
        UnreadableDataError: While batches are read, if no sample is good.
        ChildProcessError: While batches are read, if a worker died.
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
    """Open the training data of a process: its batches, from step `first_step` to the last one.

    The batches of local tars depend only on the seed and the step. Those of streams depend on the
    numbers of processes and workers too. No global random generator is used.

    Args:
        config: The configuration of the training, which names the shards.
        tokenizer: Turns N captions into token ids (N, S).
        rank: The number of this process.
        world_size: The number of processes, which share each batch.
        first_step: The first training step, which is later than 0 if a run is resumed.
        positions: Where the workers of this process continue to read streams, by the number of the
            worker. A worker without a position reads all samples before `first_step` again.

    Returns:
        The batches of uint8 views, and the index of local tars.

    Raises:
        ValueError: If the shards or the numbers do not fit the configuration.
    """
    batch_size = config.optim.batch_size
    if batch_size % world_size != 0:
        raise ValueError(
            f"optim.batch_size={batch_size} cannot be dealt to {world_size} processes evenly; "
            "give a multiple"
        )

    shards = parse_shards(config.data)
    if config.data.cache_gb:
        tokenizer = CachedTokenizer(tokenizer)
    view_maker = samples.ViewMaker(config, tokenizer)
    schedule = Schedule(batch_size, config.optim.steps, first_step, rank, world_size)
    if shards.streams:
        # Streams are read from their beginnings, in an order of their own.
        workers = stream_workers(config)
        streams = StreamBatches(shards, config.seed, schedule, workers, view_maker, positions)
        return OpenedData(_load(config, streams, None, workers), None)

    # Samples of local tars are read in a random order, by their numbers in an index.
    workers = config.data.workers
    index = index_shards(shards.shards, workers=workers, rank=rank, world_size=world_size)
    order = BatchOrder(
        _count_samples_by_set(shards, index),
        shards.weights,
        config.seed,
        schedule,
        keyed=config.data.keyed_order,
    )
    decoded_samples = decode_samples(index, view_maker, config.data.cache_gb)
    dataset = LocalBatches(index, view_maker, decoded_samples)
    batches = _load(config, dataset, order, workers)
    return OpenedData(batches, index)


def _count_samples_by_set(shards: ShardSets, index: SampleIndex) -> list[int]:
    """Return the number of samples in each set of shards.

    Args:
        shards: The sets of shards.
        index: The index of all samples. It has the shards of all sets, one set after the other.

    Example:
        For a set of two shards with 10 and 20 samples, and a set of one shard with 30 samples, the
        numbers are [30, 30].
    """
    n_samples_by_set = []
    first_shard = 0
    for set_shards in shards.sets:
        end_shard = first_shard + len(set_shards)
        # The samples in all shards before the end of the set, without those before its beginning.
        n_samples = index.count_samples(end_shard) - index.count_samples(first_shard)
        n_samples_by_set.append(n_samples)
        first_shard = end_shard
    return n_samples_by_set


def stream_workers(config: TrainConfig) -> int:
    """Return the number of worker processes with which a process reads streams.

    It is `data.workers`, but at least 1. A command such as `pipe:curl URL` can stall. The processes
    that it started can only be ended if they belong to the process group of a worker.
    """
    return max(1, config.data.workers)


class LocalBatches(Dataset[samples.Item]):
    """The batches of local tars as a PyTorch data set, whose items are whole batches.

    The index of an item is the list of draws of the batch. A bad sample is replaced by a random
    other one, up to MAX_SUBSTITUTES times. The draw's seed decides which one.
    """

    def __init__(
        self,
        index: SampleIndex,
        view_maker: samples.ViewMaker,
        decoded_samples: Mapping[int, samples.Sample],
    ) -> None:
        """Describe the batches.

        Args:
            index: The index of all samples.
            view_maker: Makes the views of samples.
            decoded_samples: Samples that need not be read again, by their numbers.
        """
        self._index = index
        self._view_maker = view_maker
        self._decoded_samples = decoded_samples

    def __getitem__(self, draws: Sequence[Draw]) -> samples.Item:
        """Return the batch of drawn samples.

        Args:
            draws: The numbers of the samples, the seeds of their views, and their step.

        Returns:
            The batch, or an UnreadableDataError if too many samples are bad. It is not raised here,
            because PyTorch would add the traceback of a worker to its message.
        """
        problems: list[samples.Problem] = []
        try:
            views = [self._views(draw, problems) for draw in draws]
            return self._view_maker.batch(views, problems)
        except samples.UnreadableDataError as error:
            return error

    def _views(self, draw: Draw, problems: list[samples.Problem]) -> samples.SampleViews:
        """Return the views of a drawn sample, or of a random other sample if it is bad.

        Args:
            draw: The number of the sample, and the seed and the step of its views.
            problems: A list to which the problems of bad samples are appended.

        Raises:
            UnreadableDataError: After MAX_SUBSTITUTES bad samples in a row.
        """
        sample_number = draw.number
        for attempt in range(1, MAX_SUBSTITUTES + 1):
            try:
                sample = self._read(sample_number)
            except samples.BadSampleError as error:
                shard, key = self._index.shard_and_key(sample_number)
                problems.append(error.problem(shard, key))
                rng = np.random.default_rng((*draw.seed, attempt))
                sample_number = int(rng.integers(len(self._index)))
            else:
                return self._view_maker.views(sample, draw.seed, draw.step)
        raise samples.UnreadableDataError(
            f"{MAX_SUBSTITUTES} samples in a row could not be read, the last one {problems[-1]}"
        )

    def _read(self, sample_number: int) -> samples.Sample:
        """Return a sample, which is decoded unless it is in memory.

        Raises:
            BadSampleError: If it is bad.
        """
        if sample_number in self._decoded_samples:
            return self._decoded_samples[sample_number]
        return self._view_maker.decode(self._index.read(sample_number))


def _load(
    config: TrainConfig, dataset: Dataset[samples.Item], order: BatchOrder | None, workers: int
) -> Iterator[samples.Batch]:
    """Yield the batches of a data set, which worker processes make.

    Args:
        config: The configuration of the training.
        dataset: The data set, whose items are whole batches.
        order: The draws of each batch of local tars. None for streams, which have an order of
            their own.
        workers: The number of worker processes. With 0, this process makes the batches.

    Raises:
        UnreadableDataError: If a worker returns it, because no sample is good.
        ChildProcessError: If a worker died.
    """
    is_stream = order is None
    try:
        with worker_lifetime(commands=is_stream) as init_worker:
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
                # This starts the workers. It is inside the lifetime, so that they end before the
                # loader waits for their end.
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
    """Use a single OpenCV thread in the block, and the former number of threads after it.

    Workers are forked in the block: a fork of a process that has OpenCV's threads may hang.
    """
    former_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(former_threads)


def _init_worker(init_worker: Callable[[int], None], worker_number: int) -> None:
    """Prepare a worker of the DataLoader: it uses one OpenCV thread, and ends with its parent.

    Args:
        init_worker: The function that `worker_lifetime` yields.
        worker_number: The number of the worker, which PyTorch passes.
    """
    if cv2.getNumThreads() != 1:  # in a worker that was spawned, not forked
        cv2.setNumThreads(1)
    init_worker(worker_number)
