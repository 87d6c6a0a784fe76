"""Measurements shared by several processes, for which threads stand."""

from __future__ import annotations

from typing import Any

import pytest
from support.sharing import together

from cosmos_core.utils.distributed import SINGLE_PROCESS, Distributed
from cosmos_eval.types import UsageError


def test_items_are_dealt_in_runs_and_results_come_back_in_order():
    dealt: dict[int, list[str]] = {}

    def act(distributed: Distributed) -> list[str]:
        def work(own: Any) -> list[str]:
            dealt[distributed.rank] = list(own)
            return [item.upper() for item in own]

        return distributed.map_sharded(work, list("abcdefg"), unit=2)

    assert together(2, act) == [list("ABCDEFG")] * 2
    assert dealt == {0: list("abef"), 1: list("cdg")}


@pytest.mark.parametrize("size", [1, 3, 5])
def test_more_processes_than_items(size):
    def act(distributed: Distributed) -> list[int]:
        return distributed.map_sharded(lambda own: [n * n for n in own], [1, 2, 3, 4])

    assert together(size, act) == [[1, 4, 9, 16]] * size


def test_alone_everything_is_own():
    results = SINGLE_PROCESS.map_sharded(lambda own: [-n for n in own], [3, 1, 2], unit=2)
    assert results == [-3, -1, -2]


def test_an_error_in_one_process_is_raised_in_all():
    def act(distributed: Distributed) -> list[int]:
        def work(own: Any) -> list[int]:
            if 3 in own:
                raise UsageError("cannot decode image 3")
            return list(own)

        return distributed.map_sharded(work, [1, 2, 3])

    errors = together(2, act)
    assert [type(error) for error in errors] == [UsageError] * 2
    assert {str(error) for error in errors} == {"cannot decode image 3"}


def test_an_act_of_all_gives_each_its_own_and_an_error_to_all():
    ranks = together(3, lambda distributed: distributed.synchronized(lambda: distributed.rank))
    assert ranks == [0, 1, 2]

    def act(distributed: Distributed) -> None:
        distributed.synchronized(lambda: None if distributed.rank != 1 else int("x"))

    assert [type(error) for error in together(3, act)] == [ValueError] * 3


def test_each_process_passes_its_own_arguments():
    def act(distributed: Distributed) -> tuple[int, int | None, list[str]]:
        calls: list[str] = []
        number = distributed.synchronized(int, str(distributed.rank), base=8)
        main_number = distributed.main_process_only(int, "11", base=8)
        distributed.main_process_first(calls.append, f"by {distributed.rank}")
        return number, main_number, calls

    assert together(2, act) == [(0, 9, ["by 0"]), (1, None, ["by 1"])]


def test_the_first_process_acts_before_the_others():
    acted: list[int] = []
    together(3, lambda one: one.main_process_first(lambda: acted.append(one.rank)))
    assert acted[0] == 0
    assert sorted(acted) == [0, 1, 2]
