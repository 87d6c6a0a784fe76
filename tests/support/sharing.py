"""Threads that stand for the processes of one measurement; they meet at a barrier."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cosmos_core.utils.distributed import Distributed


def together(size: int, act: Callable[[Distributed], Any]) -> list[Any]:
    """What `act` gives in each of `size` threads; exceptions as values."""
    barrier, slots = threading.Barrier(size, timeout=60), [None] * size

    def gather(rank: int, item: Any) -> list[Any]:
        slots[rank] = item
        barrier.wait()
        found = list(slots)
        barrier.wait()  # none writes its next item before all have read this one
        return found

    def one(rank: int) -> Any:
        return act(Distributed(rank, size, lambda item: gather(rank, item)))

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
        return [future.exception() or future.result() for future in futures]
