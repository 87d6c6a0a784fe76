"""Measurements shared by several processes; threads stand for them, which meet at a barrier."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cosmos_eval.share import ALONE, Share
from cosmos_eval.types import UsageError


def together(size: int, act: Callable[[Share], Any]) -> list[Any]:
    """What `act` gives in each of `size` threads; exceptions as values."""
    barrier, slots = threading.Barrier(size, timeout=60), [None] * size

    def gather(rank: int, item: Any) -> list[Any]:
        slots[rank] = item
        barrier.wait()
        found = list(slots)
        barrier.wait()  # none writes its next item before all have read this one
        return found

    def one(rank: int) -> Any:
        return act(Share(rank, size, lambda item: gather(rank, item)))

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
        return [future.exception() or future.result() for future in futures]


def test_items_are_dealt_in_runs_and_results_come_back_in_order():
    dealt: dict[int, list[str]] = {}

    def act(share: Share) -> list[str]:
        def work(own: Any) -> list[str]:
            dealt[share.rank] = list(own)
            return [item.upper() for item in own]

        return share.spread(work, list("abcdefg"), unit=2)

    assert together(2, act) == [list("ABCDEFG")] * 2
    assert dealt == {0: list("abef"), 1: list("cdg")}


@pytest.mark.parametrize("size", [1, 3, 5])
def test_more_processes_than_items(size):
    def act(share: Share) -> list[int]:
        return share.spread(lambda own: [n * n for n in own], [1, 2, 3, 4])

    assert together(size, act) == [[1, 4, 9, 16]] * size


def test_alone_everything_is_own():
    assert ALONE.spread(lambda own: [-n for n in own], [3, 1, 2], unit=2) == [-3, -1, -2]


def test_an_error_in_one_process_is_raised_in_all():
    def act(share: Share) -> list[int]:
        def work(own: Any) -> list[int]:
            if 3 in own:
                raise UsageError("cannot decode image 3")
            return list(own)

        return share.spread(work, [1, 2, 3])

    errors = together(2, act)
    assert [type(error) for error in errors] == [UsageError] * 2
    assert {str(error) for error in errors} == {"cannot decode image 3"}
