"""The Pareto front of costs and values."""

from collections.abc import Sequence


def pareto_front(
    costs: Sequence[float], values: Sequence[float], *, higher_is_better: bool = True
) -> list[int]:
    """Return the indices of the points that no other point dominates, by rising cost.

    A point dominates another point if neither its cost nor its value is worse, and one of them is
    better. Equal points do not dominate each other.

    Args:
        costs: The cost of each point. Lower costs are better.
        values: The value of each point.
        higher_is_better: True if higher values are better, and not lower ones.

    Example:
        The costs [1, 2, 3] and the values [0.5, 0.4, 0.9] give [0, 2]: the second point costs more
        than the first and has a lower value.
    """
    scores = list(values) if higher_is_better else [-value for value in values]
    # Sort by cost, and equal costs by falling score. A point belongs to the front if it is better
    # than the last point of the front, whose cost is not higher.
    by_cost = sorted(range(len(costs)), key=lambda index: (costs[index], -scores[index]))
    front: list[int] = []
    for index in by_cost:
        if not front:
            front.append(index)
            continue
        last = front[-1]
        is_equal = costs[index] == costs[last] and scores[index] == scores[last]
        is_better = scores[index] > scores[last]
        if is_equal or is_better:
            front.append(index)
    return front
