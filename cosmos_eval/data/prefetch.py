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

    It gives the same results as `map(work, items)`. `workers` is the number of threads; if it is 0,
    the caller's thread does the work. The threads are at most `window` items ahead of the caller
    (0: four items for each thread), so that memory stays bounded.
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
