"""The Pareto front of costs and values."""

from collections.abc import Sequence


def pareto_front(
    costs: Sequence[float], values: Sequence[float], *, higher_is_better: bool = True
) -> list[int]:
    """Return the indices of the points that no other point dominates, by rising cost.

    A point dominates another point if neither its cost nor its value is worse, and one of them is
    better. Equal points do not dominate each other.
    """
    sign = 1 if higher_is_better else -1
    front: list[int] = []
    indices = range(len(costs))
    for index in sorted(indices, key=lambda index: (costs[index], -sign * values[index])):
        if not front:
            front.append(index)
            continue
        last = front[-1]
        is_equal = (costs[index], values[index]) == (costs[last], values[last])
        is_better = sign * values[index] > sign * values[last]
        if is_equal or is_better:
            front.append(index)
    return front
