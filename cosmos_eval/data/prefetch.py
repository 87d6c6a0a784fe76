"""Work done by threads ahead of the one that needs its results. Imports no torch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    items: Iterable[Item], work: Callable[[Item], Result], *, workers: int, window: int = 0
) -> Iterator[Result]:
    """Yield results of `work` in order, up to `window` items ahead; 0 is four for each worker."""
    if workers < 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Result]] = deque()
    wait = True
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > (window or 4 * workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except GeneratorExit:
        # A reader that gave up. The garbage collector may do this late, in a thread of the pool,
        # which cannot wait for itself.
        wait = False
        raise
    finally:
        pool.shutdown(wait=wait, cancel_futures=True)
