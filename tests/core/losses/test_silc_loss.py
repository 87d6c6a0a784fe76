"""SILC's loss against the loop of its docstring, and its center by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from cosmos_core.losses import move_center, silc_loss


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_silc_equals_the_loops():
    student, teacher, center = draw(3, 4, 7), draw(2, 4, 7, seed=1), draw(7, seed=2)
    expected = 0.0
    for local in student:
        for target in teacher:
            targets = F.softmax((target - center) / 0.04, dim=-1)
            logs = F.log_softmax(local / 0.1, dim=-1)
            expected += -(targets * logs).sum(-1).mean().item() / 6
    assert silc_loss(student, teacher, center).item() == pytest.approx(expected, rel=1e-12)


def test_silc_of_two_prototypes_by_hand():
    """The target is certain of the first prototype; the student gives it 3 of 4."""
    student = torch.tensor([[[0.1 * math.log(3), 0.0]]])
    teacher = torch.tensor([[[9.0, 0.0]]])
    loss = silc_loss(student, teacher, torch.zeros(2))
    assert loss.item() == pytest.approx(-math.log(3 / 4))


def test_the_center_moves_by_a_tenth_towards_the_mean_over_views_and_samples():
    center = torch.tensor([1.0, 0.0])
    teacher = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])  # mean (4, 5)
    move_center(center, teacher, torch.tensor(1.0))
    assert center.tolist() == pytest.approx([0.9 * 1 + 0.1 * 4, 0.1 * 5])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_center_stays_where_something_is_not_finite(value):
    center, teacher = torch.ones(2), torch.zeros(2, 3, 2)
    move_center(center, teacher, torch.tensor(value))
    teacher[0, 0, 0] = value
    move_center(center, teacher, torch.tensor(1.0))
    assert center.tolist() == [1, 1]
