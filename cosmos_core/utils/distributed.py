"""Processes that torchrun started together. In a single process nothing here imports torch."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from typing import Any, NoReturn, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# A process waits as long as another one has work to do. If one dies, torchrun ends the others.
_TIMEOUT = timedelta(days=7)


def _gather_in_single_process(item: Any) -> list[Any]:
    """Return a list of the item: the items of all processes if there is only one process."""
    return [item]


@dataclass(frozen=True)
class Distributed:
    """This process as one of several that work together.

    The defaults are for a single process.
    """

    # The number of this process, from 0, and the number of processes.
    rank: int = 0
    world_size: int = 1
    # Takes an object of this process, and returns a list of the objects of all processes, by rank.
    # All processes call it together.
    gather: Callable[[Any], list[Any]] = _gather_in_single_process

    def map_sharded(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        items: Sequence[Item],
        unit: int = 1,
    ) -> list[Result]:
        """Return the results of `work` for all items, in their order, in every process.

        `work` takes some of the items, and returns one result per item. All processes call this
        with the same items. They take chunks of `unit` items in turn: for `unit` 2 and two
        processes, the first process has items 0, 1, 4, 5, and the second has items 2, 3, 6, 7. An
        error in one process is raised in all of them, so that none waits for ever.
        """
        rank_by_item = [number // unit % self.world_size for number in range(len(items))]
        my_items = []
        for item, rank in zip(items, rank_by_item, strict=True):
            if rank == self.rank:
                my_items.append(item)
        outcome: Any
        try:
            outcome = work(my_items)
        except Exception as error:
            outcome = error
        outcome_by_rank = self.gather(outcome)
        _raise_first_error(outcome_by_rank)

        # The results of a process are in the order of its items, so they are taken in turn.
        results_by_rank = [iter(results) for results in outcome_by_rank]
        return [next(results_by_rank[rank]) for rank in rank_by_item]

    def synchronized(self, act: Callable[[], Result]) -> Result:
        """Call `act` in every process, wait until all have ended, and return this one's result.

        `act` must not communicate with other processes. An error in one process is raised in all.
        """
        error = None
        try:
            result = act()
        except Exception as raised_error:
            error = raised_error
        # If `act` has failed here or in another process, this raises the error.
        _raise_first_error(self.gather(error))
        return result

    def main_process_only(self, act: Callable[[], Result]) -> Result | None:
        """Call `act` in the first process while the others wait.

        Return its result in the first process, and None in the others.
        """
        return self.synchronized(act if self.rank == 0 else _do_nothing)

    def main_process_first(self, act: Callable[[], None]) -> None:
        """Call `act` in the first process, and then in all others.

        So the others find the files that the first process has written, such as a download.
        """
        self.main_process_only(act)
        self.synchronized(act if self.rank > 0 else _do_nothing)


def _do_nothing() -> None:
    """Do nothing, in a process that waits for another one."""


SINGLE_PROCESS = Distributed()  # a process that is not one of several


def is_main_process() -> bool:
    """Return whether this process is the first of those that torchrun started, or the only one.

    The first process prints and writes files for all.
    """
    return os.environ.get("RANK", "0") == "0"


def restarts() -> int:
    """Return how many times torchrun has started the processes again after a failure.

    It does so up to `--max-restarts` times. The number is 0 in a process that it did not start.
    """
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def process_group(
    backend: str = "gloo", timeout: timedelta | None = _TIMEOUT, device_id: Any = None
) -> Iterator[Distributed]:
    """Join the processes that torchrun started during the block, and yield this one's place.

    Yields SINGLE_PROCESS if torchrun did not start several processes. The arguments are passed to
    `torch.distributed.init_process_group`. The backend "gloo" exchanges Python objects, whether the
    processes compute on CPUs or on GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SINGLE_PROCESS
        return
    import torch.distributed as dist

    options: dict[str, Any] = {}
    restart_count = restarts()
    if restart_count:
        # In PyTorch 2.13 the store still has the addresses of the processes that died.
        store, rank, world_size = next(dist.rendezvous("env://"))
        options = {
            "rank": rank,
            "world_size": world_size,
            "store": dist.PrefixStore(f"restart {restart_count}", store),
        }
    dist.init_process_group(backend, timeout=timeout, device_id=device_id, **options)
    try:
        yield Distributed(dist.get_rank(), dist.get_world_size(), gather_objects)
    finally:
        dist.destroy_process_group()


def end_process(status: int) -> NoReturn:
    """End this process with an exit status.

    If it is one of several processes, the interpreter does not clean up. Threads that a process
    group leaves behind sometimes abort the interpreter at its exit, with another status ("terminate
    called without an active exception", PyTorch 2.13).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def own_device(device: str) -> str:
    """Return the device on which this process computes, such as `cpu`, `cuda` or `cuda:1`.

    "auto" is a GPU if there is one, else the CPU. With several processes on a machine, "auto" and
    "cuda" give each process a GPU in turn: with two GPUs, its fourth process has `cuda:1`. Other
    names of devices are returned as they are.
    """
    if device not in ("auto", "cuda"):
        return device
    if device == "auto" and version("torch").endswith("+cpu"):  # built without GPUs
        return "cpu"
    import torch

    n_gpus = torch.cuda.device_count()
    if n_gpus == 0:
        return "cpu" if device == "auto" else device
    local_rank = os.environ.get("LOCAL_RANK")  # the number of the process on this machine
    if local_rank is None:
        return "cuda"
    return f"cuda:{int(local_rank) % n_gpus}"


def gather_objects(item: Any, group: Any = None) -> list[Any]:
    """Return a list of the objects of all processes, in the order of their ranks.

    All processes of the process group call this together, each with its own `item`. The default
    `group` is the one of all processes.
    """
    import torch.distributed as dist

    items: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(items, item, group=group)
    return items


def _raise_first_error(outcomes: Sequence[Any]) -> None:
    """Raise the first exception in a list of results and exceptions, if there is one."""
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
