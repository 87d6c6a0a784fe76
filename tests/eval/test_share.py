"""Measurements shared by several processes, for which threads stand."""

from __future__ import annotations

from typing import Any

import pytest
from support.sharing import together

from cosmos_core.utils.distributed import ALONE, Share
from cosmos_eval.types import UsageError


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


def test_an_act_of_all_gives_each_its_own_and_an_error_to_all():
    assert together(3, lambda share: share.together(lambda: share.rank)) == [0, 1, 2]

    def act(share: Share) -> None:
        share.together(lambda: None if share.rank != 1 else int("x"))

    assert [type(error) for error in together(3, act)] == [ValueError] * 3


def test_the_first_process_acts_before_the_others():
    acted: list[int] = []
    together(3, lambda share: share.first_alone(lambda: acted.append(share.rank)))
    assert acted[0] == 0
    assert sorted(acted) == [0, 1, 2]
