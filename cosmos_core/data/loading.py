"""The batches of a training run: from a configuration to uint8 views."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cosmos_core.config import TrainConfig
from cosmos_core.data import samples
from cosmos_core.data.index import SampleIndex, index_shards
from cosmos_core.data.shards import BatchOrder, Draw, Schedule, parse_shards
from cosmos_core.data.stream import StreamBatches
from cosmos_core.data.workers import worker_lifetime

MOST_SUBSTITUTES = 100  # for one sample


def make_loader(
    config: TrainConfig,
    tokenizer: samples.Tokenizer,
    *,
    rank: int = 0,
    world_size: int = 1,
    first_step: int = 0,
    positions: Mapping[int, samples.StreamPosition] | None = None,
    indexed: Callable[[SampleIndex], None] = lambda _: None,
) -> Iterator[samples.Batch]:
    """Return this process's batches of uint8 views, from a global step to the last of the run. They
    depend on the seed and the step only; those of streams also on the numbers of processes and of
    workers, and go on at `positions` of these workers, by lane, or read all that comes before. No
    global random generator is used. `indexed` is called with the index of local tars.
    Raises ValueError at once for unfit shards or numbers; later UnreadableDataError without a good
    sample, ChildProcessError for a dead worker."""
    batch_size = config.optim.batch_size
    if batch_size % world_size:
        raise ValueError(
            f"optim.batch_size={batch_size} cannot be dealt to {world_size} processes evenly; "
            "give a multiple"
        )
    shards, maker = parse_shards(config.data), samples.ViewMaker(config, tokenizer)
    schedule = Schedule(batch_size, config.optim.steps, first_step, rank, world_size)
    workers = config.data.workers
    if shards.streams:
        # Streams are read by a worker even where none is configured: a command can stall, and what
        # it started can only be ended with a process group of its own.
        workers = stream_workers(config)
        streams = StreamBatches(shards, config.seed, schedule, workers, maker, positions)
        return _load(config, streams, None, workers)
    index = index_shards(shards.shards, workers=workers, rank=rank, world_size=world_size)
    indexed(index)
    ends = itertools.accumulate(map(len, shards.sets), initial=0)
    sizes = np.diff([index.start(end) for end in ends])
    keyed = config.data.keyed_order
    order = BatchOrder(sizes.tolist(), shards.weights, config.seed, schedule, keyed=keyed)
    return _load(config, LocalBatches(index, maker), order, workers)


def stream_workers(config: TrainConfig) -> int:
    """Return the number of workers of a process that read streams."""
    return max(1, config.data.workers)


class LocalBatches(Dataset[samples.Item]):
    """A data set whose items are whole batches, indexed by their draws. A bad sample is replaced by
    another, which its seed chooses, up to MOST_SUBSTITUTES times."""

    def __init__(self, index: SampleIndex, maker: samples.ViewMaker) -> None:
        self._index, self._maker = index, maker

    def __getitem__(self, draws: Sequence[Draw]) -> samples.Item:
        problems = list[samples.Problem]()
        try:
            return self._maker.batch([self._views(draw, problems) for draw in draws], problems)
        except samples.UnreadableDataError as error:
            return error

    def _views(self, draw: Draw, problems: list[samples.Problem]) -> samples.SampleViews:
        number = draw.number
        for substitute in range(1, MOST_SUBSTITUTES + 1):
            try:
                sample = samples.decode_sample(self._index.read(number))
            except samples.BadSampleError as bad:
                problems.append(bad.problem(*self._index.name(number)))
                rng = np.random.default_rng((*draw.seed, substitute))
                number = int(rng.integers(len(self._index)))
            else:
                return self._maker.views(sample, draw.seed)
        raise samples.UnreadableDataError(
            f"{MOST_SUBSTITUTES} samples in a row could not be read, the last one {problems[-1]}"
        )


def _load(
    config: TrainConfig, dataset: Dataset[samples.Item], order: BatchOrder | None, workers: int
) -> Iterator[samples.Batch]:
    try:
        with worker_lifetime(commands=order is None) as start:
            loader = DataLoader(
                dataset,
                batch_size=None,  # an item is a batch
                sampler=order,
                num_workers=workers,
                pin_memory=config.compute.device != "cpu" and torch.cuda.is_available(),
                worker_init_fn=partial(_start_worker, start),
                generator=torch.Generator(),  # else a seed is drawn from the global one
            )
            with _one_opencv_thread():
                # Here, so that workers are ended before the loader waits for them to end.
                items = iter(loader)
            for item in items:
                if isinstance(item, samples.UnreadableDataError):
                    raise item
                # The loader turns the tuple into a list.
                yield item._replace(problems=tuple(item.problems))
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise ChildProcessError(
            f"a data worker died ({' '.join(str(error).split())}); "
            "where memory ran out, lower data.workers or optim.batch_size"
        ) from error


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Stop OpenCV's threads while workers are forked: a copy of a process with some may hang."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _start_worker(start: Callable[[int], None], number: int) -> None:
    if cv2.getNumThreads() != 1:  # spawned, not forked
        cv2.setNumThreads(1)
    start(number)
