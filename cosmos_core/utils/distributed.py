"""One measurement made by several processes, each on its share of the samples. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def _alone(outcome: Any) -> list[Any]:
    return [outcome]


class Share(NamedTuple):
    """The share of the process with number `rank` among `size`.

    `gather` maps an object to those of all processes, in the order of their ranks.
    """

    rank: int = 0
    size: int = 1
    gather: Callable[[Any], list[Any]] = _alone

    def spread(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        items: Sequence[Item],
        unit: int = 1,
    ) -> list[Result]:
        """What `work` makes of all items, one result an item, in their order, in every process.

        All processes call it with the same items, and each works on every size-th run of `unit`
        of them. An error in one is raised in all, so that none waits for ever.
        """
        turns = [number // unit % self.size for number in range(len(items))]
        own = [item for item, rank in zip(items, turns, strict=True) if rank == self.rank]
        outcomes = self.gather(_attempt(lambda: work(own)))
        _raise_first(outcomes)
        results = [iter(outcome) for outcome in outcomes]
        return [next(results[rank]) for rank in turns]

    def together(self, act: Callable[[], Result]) -> Result:
        """What `act` gives in this process, once it has ended in all; it must not meet the others.

        An error in one is raised in all, so that none waits for ever.
        """
        outcome = _attempt(act)
        _raise_first(self.gather(outcome if isinstance(outcome, Exception) else None))
        assert not isinstance(outcome, Exception)  # it would have been raised
        return outcome

    def first_alone(self, act: Callable[[], None]) -> None:
        """`act` in the first process, then in all others, who may find its files."""
        for own in (self.rank == 0, self.rank > 0):
            self.together(act if own else _nothing)


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


ALONE = Share()
"""The share of a process that measures everything."""
