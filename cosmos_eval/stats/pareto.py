"""The Pareto front of costs and values."""

from collections.abc import Sequence


def pareto_front(
    costs: Sequence[float], values: Sequence[float], *, higher_is_better: bool = True
) -> list[int]:
    """Return the indices of points that no other dominates, by rising cost. One dominates another
    where neither its cost nor its value is worse, and one of both is better; of equal points all
    are returned."""
    sign = 1 if higher_is_better else -1
    front: list[int] = []
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -sign * values[i])):
        last = front[-1] if front else index
        equal = (costs[index], values[index]) == (costs[last], values[last])
        if equal or sign * values[index] > sign * values[last]:
            front.append(index)
    return front
