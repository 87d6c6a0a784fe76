"""Work done by threads ahead of the one that needs its results. Imports no torch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_ITEMS_PER_WORKER = 4  # how far threads work ahead by default

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    items: Iterable[Item], work: Callable[[Item], Result], *, workers: int, window: int = 0
) -> Iterator[Result]:
    """Yield `work(item)` for every item, in the order of the items, while threads work ahead.

    It gives the same results as `map(work, items)`.

    Args:
        items: The items, which are taken one by one.
        work: The function that threads call for each item.
        workers: The number of threads. If it is 0, the caller's thread does the work.
        window: How many items the threads are at most ahead of the caller, so that memory stays
            bounded. By default (0), these are four items for each thread.
    """
    if workers < 1:
        yield from map(work, items)
        return

    max_pending = window or _ITEMS_PER_WORKER * workers
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Result]] = deque()
    wait_for_threads = True
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > max_pending:
                # Wait for the oldest item, which is the next one in order.
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except GeneratorExit:
        # The caller gave up. The garbage collector may close this generator late, in a thread of
        # the pool, which cannot wait for itself.
        wait_for_threads = False
        raise
    finally:
        pool.shutdown(wait=wait_for_threads, cancel_futures=True)
