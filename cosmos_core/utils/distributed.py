"""Processes that make one measurement together. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def _alone(outcome: Any) -> list[Any]:
    return [outcome]


class Distributed(NamedTuple):
    """Process `rank` of `world_size`.

    `gather` maps an object to those of all processes, in the order of their ranks.
    """

    rank: int = 0
    world_size: int = 1
    gather: Callable[[Any], list[Any]] = _alone

    def map_sharded(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        items: Sequence[Item],
        unit: int = 1,
    ) -> list[Result]:
        """What `work` makes of all items, one result an item, in their order, in every process.

        All processes call it with the same items, and each works on every `world_size`-th run of
        `unit` of them. An error in one is raised in all, so that none waits for ever.
        """
        turns = [number // unit % self.world_size for number in range(len(items))]
        own = [item for item, rank in zip(items, turns, strict=True) if rank == self.rank]
        outcomes = self.gather(_attempt(lambda: work(own)))
        _raise_first(outcomes)
        results = [iter(outcome) for outcome in outcomes]
        return [next(results[rank]) for rank in turns]

    def synchronized(self, act: Callable[[], Result]) -> Result:
        """What `act` gives in this process, once it has ended in all; it must not meet the others.

        An error in one is raised in all, so that none waits for ever.
        """
        outcome = _attempt(act)
        _raise_first(self.gather(outcome if isinstance(outcome, Exception) else None))
        assert not isinstance(outcome, Exception)  # it would have been raised
        return outcome

    def main_process_first(self, act: Callable[[], None]) -> None:
        """`act` in the first process, then in all others, who may find its files."""
        for own in (self.rank == 0, self.rank > 0):
            self.synchronized(act if own else _nothing)


def _attempt(act: Callable[[], Result]) -> Result | Exception:
    try:
        return act()
    except Exception as error:
        return error


def _raise_first(outcomes: Sequence[Any]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


def _nothing() -> None:
    """The part of a process whose turn it is not."""


SINGLE_PROCESS = Distributed()
"""A process that measures everything by itself."""
