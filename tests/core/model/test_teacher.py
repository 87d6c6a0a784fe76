"""The teacher against a loop over its parameters."""

import torch
from torch import nn

import cosmos_core


def test_update_equals_the_loop_bit_for_bit():
    torch.manual_seed(1)
    student = nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5))
    teacher = cosmos_core.create_teacher(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    expected_weights = []
    for weight, student_weight in zip(teacher.parameters(), student.parameters(), strict=True):
        expected = weight.clone()
        expected.mul_(0.9).add_(student_weight.detach(), alpha=1 - 0.9)
        expected_weights.append(expected)
    cosmos_core.update_teacher(teacher, student, 0.9)
    for weight, expected in zip(teacher.parameters(), expected_weights, strict=True):
        assert torch.equal(weight, expected)
        assert not weight.requires_grad
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_a_teacher_does_not_share_the_weights_of_its_student():
    student = nn.Linear(2, 2)
    teacher = cosmos_core.create_teacher(student)
    first_weight = teacher.weight.clone()
    with torch.no_grad():
        student.weight.add_(1)
    assert torch.equal(teacher.weight, first_weight)
