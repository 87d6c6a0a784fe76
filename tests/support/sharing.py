"""Threads that stand for the processes of one measurement; they meet at a barrier."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from cosmos_core.utils.distributed import Distributed


def together(size: int, act: Callable[[Distributed], Any]) -> list[Any]:
    """Call `act` in each of `size` threads as if they were processes, and return what it returned.

    An exception takes the place of a returned value.
    """
    barrier, slots = threading.Barrier(size, timeout=60), [None] * size

    def gather(rank: int, item: Any) -> list[Any]:
        slots[rank] = item
        barrier.wait()
        items = list(slots)
        barrier.wait()  # no thread writes its next item before all have read these
        return items

    def act_as(rank: int) -> Any:
        return act(Distributed(rank, size, partial(gather, rank)))

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(act_as, rank) for rank in range(size)]
        return [future.exception() or future.result() for future in futures]
