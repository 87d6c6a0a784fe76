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
    """Return what `gather` returns if there is only one process."""
    return [item]


@dataclass(frozen=True)
class Distributed:
    """This process as one of several."""

    # The number of this process, and the number of processes.
    rank: int = 0
    world_size: int = 1
    # Returns an object of every process by rank; all processes call it.
    gather: Callable[[Any], list[Any]] = _gather_in_single_process

    def map_sharded(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        items: Sequence[Item],
        unit: int = 1,
    ) -> list[Result]:
        """Return the results of `work` for all items, in their order, in every process.

        `work` returns one result per item. All processes call this with the same items, and each
        works on its share: groups of `unit` items are dealt to the processes in turn. For `unit` 2
        and two processes, items 0, 1, 4, 5 are the first process's. An error in one process is
        raised in all of them, so that none waits for ever.
        """
        rank_by_item = [number // unit % self.world_size for number in range(len(items))]
        my_items = [
            item for item, rank in zip(items, rank_by_item, strict=True) if rank == self.rank
        ]
        outcome_by_rank = self.gather(_result_or_error(lambda: work(my_items)))
        _raise_first_error(outcome_by_rank)
        # The results of a process are in the order of its items, so they are taken in turn.
        remaining_results_by_rank = [iter(results) for results in outcome_by_rank]
        return [next(remaining_results_by_rank[rank]) for rank in rank_by_item]

    def synchronized(self, act: Callable[[], Result]) -> Result:
        """Call `act` in all processes, and return its result in this one when all have ended.

        `act` must not communicate with other processes. An error in one process is raised in all.
        """
        outcome = _result_or_error(act)
        error = outcome if isinstance(outcome, Exception) else None
        _raise_first_error(self.gather(error))
        assert not isinstance(outcome, Exception)  # it would have been raised
        return outcome

    def main_process_only(self, act: Callable[[], Result]) -> Result | None:
        """Run `act` in the first process while the others wait; they return None."""
        return self.synchronized(act if self.rank == 0 else _do_nothing)

    def main_process_first(self, act: Callable[[], None]) -> None:
        """Run `act` in the first process, then in all others, which may find its files."""
        self.main_process_only(act)
        self.synchronized(act if self.rank > 0 else _do_nothing)


def _do_nothing() -> None:
    pass


SINGLE_PROCESS = Distributed()  # a process that is not one of several


def is_main_process() -> bool:
    """Return whether this process is the first, which prints and writes for all."""
    return os.environ.get("RANK", "0") == "0"


def restarts() -> int:
    """Return how many times torchrun has started the processes again (`--max-restarts`)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def process_group(
    backend: str = "gloo", timeout: timedelta | None = _TIMEOUT, device_id: Any = None
) -> Iterator[Distributed]:
    """Join the processes that torchrun started, and leave them at the end of the block.

    Yields SINGLE_PROCESS if torchrun started no others. Gloo exchanges Python objects for GPUs too.
    The arguments are passed to `torch.distributed.init_process_group`.
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
    """End this process with a status; if it is one of several, without the interpreter's clean-up.

    Threads that a process group leaves behind sometimes abort the interpreter at its exit
    ("terminate called without an active exception", PyTorch 2.13), with another status.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def own_device(device: str) -> str:
    """Return the device of this process for `auto`, and for `cuda` if there are several processes.

    Processes take the GPUs in turn, by their number on the machine.
    """
    if device not in ("auto", "cuda"):
        return device
    if device == "auto" and version("torch").endswith("+cpu"):  # built without GPUs
        return "cpu"
    import torch

    gpus = torch.cuda.device_count()
    if not gpus:
        return "cpu" if device == "auto" else device
    local_rank = os.environ.get("LOCAL_RANK")
    return "cuda" if local_rank is None else f"cuda:{int(local_rank) % gpus}"


def gather_objects(item: Any, group: Any = None) -> list[Any]:
    """Return an object of every process of a group by rank; all of them call it.

    The default group has all processes.
    """
    import torch.distributed as dist

    items: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(items, item, group=group)
    return items


def _result_or_error(act: Callable[[], Result]) -> Result | Exception:
    """Call `act`, and return its result, or the exception that it raises."""
    try:
        return act()
    except Exception as error:
        return error


def _raise_first_error(outcomes: Sequence[Any]) -> None:
    """Raise the first exception among results and exceptions, if there is one."""
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
