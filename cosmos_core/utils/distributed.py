"""Processes that torchrun started together. In a single process nothing here imports torch."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.metadata import version
from typing import Any, NoReturn, ParamSpec, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class LostProcessError(Exception):
    """The connection to another process is lost, because that process has ended."""


class OtherProcessError(Exception):
    """Another process has failed, with the error that the message states."""


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
        """Share items among the processes, and return the results of all items in every process.

        All processes call this with the same arguments. They take chunks of `unit` items in turn.
        For example, with `unit` 2 and two processes, the first process has the items 0, 1, 4 and 5,
        and the second one has the items 2, 3, 6 and 7. An error in one process is raised in all of
        them, so that none waits for ever.

        Args:
            work: A function that takes some of the items, and returns one result per item.
            items: All items.
            unit: How many neighbouring items a process takes in one turn.

        Returns:
            One result per item, in the order of `items`.
        """
        rank_by_item = [index // unit % self.world_size for index in range(len(items))]
        my_items = []
        for item, rank in zip(items, rank_by_item, strict=True):
            if rank == self.rank:
                my_items.append(item)

        # Send an error to the other processes like a result, so that all of them can raise it.
        outcome: Any
        try:
            outcome = work(my_items)
        except Exception as error:
            outcome = error
        outcome_by_rank = self.gather(outcome)
        for process_outcome in outcome_by_rank:
            if isinstance(process_outcome, Exception):
                raise process_outcome

        # The results of a process are in the order of its items. So the next result of an item's
        # process belongs to the item.
        results_by_rank = [iter(results) for results in outcome_by_rank]
        return [next(results_by_rank[rank]) for rank in rank_by_item]

    def synchronized(
        self,
        function: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Call a function in every process, and wait until it has ended in all of them.

        An error in one process is raised in all processes.

        Args:
            function: The function to call. It must not communicate with other processes.
            *args: The arguments of the function.
            **kwargs: Its keyword arguments.

        Returns:
            The result of the function in this process.

        Example:
            `distributed.synchronized(file_sha256, path)`
        """
        error = None
        try:
            result = function(*args, **kwargs)
        except Exception as raised_error:
            error = raised_error
        # If the function has failed here or in another process, raise the error.
        for process_error in self.gather(error):
            if isinstance(process_error, Exception):
                raise process_error
        return result

    def main_process_only(
        self,
        function: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result | None:
        """Call a function in the first process, while the others wait.

        An error is raised in all processes. The arguments are as in `synchronized`.

        Returns:
            The result of the function in the first process, and None in the others.
        """
        if self.rank == 0:
            return self.synchronized(function, *args, **kwargs)
        return self.synchronized(_do_nothing)

    def main_process_first(
        self,
        function: Callable[Arguments, None],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> None:
        """Call a function in the first process, and when it has ended, in all others.

        So the others find the files that the first process has written, such as a download. The
        arguments are as in `synchronized`.
        """
        self.main_process_only(function, *args, **kwargs)
        if self.rank > 0:
            self.synchronized(function, *args, **kwargs)
        else:
            self.synchronized(_do_nothing)


def _do_nothing() -> None:
    """Do nothing, in a process that waits for another one."""


@dataclass(frozen=True)
class _Failure:
    """The message of a failed process, which the others receive in place of an item."""

    message: str


class SharedErrors:
    """Raises an error of one process in the others too, at the next items that they exchange.

    Otherwise the others would wait for items that never come, or take later items for them. Errors
    in the forward pass of a sharded model, in which PyTorch exchanges weights, are not shared.

    Example:
        shared_errors = SharedErrors(distributed)
        with shared_errors.block():
            work_together(shared_errors.distributed)
    """

    def __init__(self, distributed: Distributed) -> None:
        self._gather = distributed.gather
        self._cannot_exchange = False
        # The same processes. All items that they exchange in a block must go through this record.
        self.distributed = replace(distributed, gather=self.gather)

    def gather(self, item: Any) -> list[Any]:
        """Return the items of all processes by rank, as `Distributed.gather` does.

        Raises:
            OtherProcessError: If another process has failed.
        """
        try:
            items = self._gather(item)
        except Exception:
            self._cannot_exchange = True
            raise
        for rank, other_item in enumerate(items):
            if isinstance(other_item, _Failure):
                raise OtherProcessError(f"process {rank} failed: {other_item.message}")
        return items

    @contextmanager
    def block(self) -> Iterator[None]:
        """Share the errors of a block that all processes run, and wait for all at its end."""
        try:
            yield
            self.gather("has ended the block")
        except Exception as error:
            if not isinstance(error, OtherProcessError) and not self._cannot_exchange:
                # The others get this in place of the item that they wait for. If they have failed
                # with the same error, they send theirs now.
                self._gather(_Failure(f"{type(error).__name__}: {error}"))
            raise


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
    """Connect this process with the others that torchrun started, until the end of the block.

    Args:
        backend: How the processes communicate, as in `torch.distributed.init_process_group`. "gloo"
            exchanges Python objects, whether the processes compute on CPUs or on GPUs.
        timeout: How long a process waits for another one. None is PyTorch's default.
        device_id: The device of this process, if the backend needs to know it.

    Yields:
        The rank of this process, and the functions to communicate with the others. It is
        SINGLE_PROCESS if torchrun did not start several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SINGLE_PROCESS
        return
    import torch.distributed as dist

    options: dict[str, Any] = {}
    restart_count = restarts()
    if restart_count > 0:
        # The processes find each other in a store of keys and values. In PyTorch 2.13 it still has
        # the addresses of the processes that died. A prefix separates the keys of this start.
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
    """Return the device on which this process computes, such as "cpu", "cuda" or "cuda:1".

    Several processes on a machine get its GPUs in turn. With two GPUs, the processes of the local
    ranks 0, 1, 2 and 3 get "cuda:0", "cuda:1", "cuda:0" and "cuda:1".

    Args:
        device: "auto", "cuda", or any other device, which is returned as it is. "auto" is a GPU if
            there is one, and the CPU otherwise.
    """
    if device not in ("auto", "cuda"):
        return device
    if device == "auto" and version("torch").endswith("+cpu"):
        # PyTorch is built without support of GPUs, and need not be imported to find out.
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

    All processes of the group call this together.

    Args:
        item: The object of this process. It must be possible to pickle it.
        group: A process group of `torch.distributed`. None is the group of all processes.

    Raises:
        LostProcessError: Another process has ended.
    """
    import torch.distributed as dist

    items: list[Any] = [None] * dist.get_world_size(group)
    try:
        dist.all_gather_object(items, item, group=group)
    except RuntimeError as error:
        # Gloo has no type of its own for this error. Its messages are "Connection closed by peer"
        # and "Connection reset by peer".
        if "by peer" not in str(error):
            raise
        raise LostProcessError(
            "another process of this run has ended: its own messages, or those of torchrun, say why"
        ) from error
    return items
