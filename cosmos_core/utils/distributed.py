"""Processes that torchrun started together. Without it nothing here imports torch."""

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

# No process may give up on one that has more to do; torchrun ends the others where one dies.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Distributed:
    """Process `rank` of `world_size`. `gather` maps an object to those of all processes by rank."""

    rank: int = 0
    world_size: int = 1
    gather: Callable[[Any], list[Any]] = lambda item: [item]

    def map_sharded(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        items: Sequence[Item],
        unit: int = 1,
    ) -> list[Result]:
        """Return what `work` makes of all items, one result per item, in order, in every process.
        All processes call it with the same items, and each works on every `world_size`-th run of
        `unit` of them. An error in one is raised in all, so that none waits for ever."""
        turns = [number // unit % self.world_size for number in range(len(items))]
        own = [item for item, rank in zip(items, turns, strict=True) if rank == self.rank]
        outcomes = self.gather(_attempt(lambda: work(own)))
        _raise_first(outcomes)
        results = [iter(outcome) for outcome in outcomes]
        return [next(results[rank]) for rank in turns]

    def synchronized(self, act: Callable[[], Result]) -> Result:
        """Return the result of `act` in this process, once it has ended in all. `act` must not
        communicate. An error in one process is raised in all."""
        outcome = _attempt(act)
        _raise_first(self.gather(outcome if isinstance(outcome, Exception) else None))
        assert not isinstance(outcome, Exception)  # it would have been raised
        return outcome

    def main_process_only(self, act: Callable[[], Result]) -> Result | None:
        """Run `act` in the first process while the others wait; they return None."""
        return self.synchronized(act if self.rank == 0 else lambda: None)

    def main_process_first(self, act: Callable[[], None]) -> None:
        """Run `act` in the first process, then in all others, who may find its files."""
        self.main_process_only(act)
        self.synchronized(act if self.rank > 0 else lambda: None)


SINGLE_PROCESS = Distributed()  # a process that works alone


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes for all."""
    return os.environ.get("RANK", "0") == "0"


def restarts() -> int:
    """Return how many times torchrun has started the processes again (`--max-restarts`)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def process_group(
    backend: str = "gloo", timeout: timedelta | None = _PATIENCE, device_id: Any = None
) -> Iterator[Distributed]:
    """Join the processes that torchrun started, and leave them; outside it, SINGLE_PROCESS. Gloo
    also serves GPUs, for Python objects. Arguments: `torch.distributed.init_process_group`."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SINGLE_PROCESS
        return
    import torch.distributed as dist

    where: dict[str, Any] = {}
    if count := restarts():  # whose store, in PyTorch 2.13, still has the addresses of the dead
        store, *numbers = next(dist.rendezvous("env://"))
        where = dict(zip(("rank", "world_size"), numbers, strict=True))
        where["store"] = dist.PrefixStore(f"restart {count}", store)
    dist.init_process_group(backend, timeout=timeout, device_id=device_id, **where)
    try:
        yield Distributed(dist.get_rank(), dist.get_world_size(), gather_objects)
    finally:
        dist.destroy_process_group()


def end_process(status: int) -> NoReturn:
    """End this process with a status; one of several at once. Threads left by a process group now
    and then abort the interpreter at its exit ("terminate called without an active exception",
    PyTorch 2.13), and another status would be reported."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def own_device(device: str) -> str:
    """Resolve `auto`, and `cuda` where a machine has several processes, to this process's device.
    Processes take the GPUs in turn, by their number on the machine."""
    if device not in ("auto", "cuda"):
        return device
    if device == "auto" and version("torch").endswith("+cpu"):  # built without GPUs
        return "cpu"
    import torch

    gpus = torch.cuda.device_count()
    if not gpus:
        return "cpu" if device == "auto" else device
    number = os.environ.get("LOCAL_RANK")
    return "cuda" if number is None else f"cuda:{int(number) % gpus}"


def gather_objects(item: Any, group: Any = None) -> list[Any]:
    """Return an object of every process by rank; all of a group, by default of all, call it."""
    import torch.distributed as dist

    items: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(items, item, group=group)
    return items


def _attempt(act: Callable[[], Result]) -> Result | Exception:
    try:
        return act()
    except Exception as error:
        return error


def _raise_first(outcomes: Sequence[Any]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
