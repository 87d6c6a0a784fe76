"""The Pareto front, solved by hand and by its definition."""

import random

import pytest

from cosmos_eval.stats.pareto import pareto_front


@pytest.mark.parametrize(
    ("points", "higher", "lower"),
    [
        ([], [], []),
        ([(1, 1)], [0], [0]),
        ([(3, 3), (1, 1), (2, 2)], [1, 2, 0], [1]),
        ([(1, 3), (2, 2), (3, 1)], [0], [0, 1, 2]),
        # Of one cost the better value alone; of one value the lower cost alone.
        ([(1, 1), (1, 2), (2, 2), (3, 5), (3, 4)], [1, 3], [0]),
        # Equal points do not dominate each other.
        ([(2, 4), (1, 3), (2, 4), (1, 3)], [1, 3, 0, 2], [1, 3]),
        ([(5, 1), (4, 1), (4, 1)], [1, 2], [1, 2]),
    ],
)
def test_solved_by_hand(points, higher, lower):
    costs, values = [cost for cost, _ in points], [value for _, value in points]
    assert pareto_front(costs, values) == higher
    assert pareto_front(costs, values, higher_is_better=False) == lower


@pytest.mark.parametrize("higher", [True, False])
def test_no_point_of_the_front_is_dominated_and_every_other_is(higher):
    draw, sign = random.Random(0), 1 if higher else -1

    def dominates(a, b):
        (cost, value), (other, than) = a, b
        return cost <= other and sign * value >= sign * than and a != b

    for _ in range(200):
        points = [(draw.randrange(5), draw.randrange(5)) for _ in range(draw.randrange(9))]
        expected = [
            index
            for index, point in enumerate(points)
            if not any(dominates(other, point) for other in points)
        ]
        front = pareto_front(
            *([p[axis] for p in points] for axis in (0, 1)), higher_is_better=higher
        )
        assert sorted(front) == expected
        assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)
