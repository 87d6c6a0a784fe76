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
    before = [p.clone() for p in teacher.parameters()]
    cosmos_core.update_teacher(teacher, student, 0.9)
    pairs = zip(before, student.parameters(), teacher.parameters(), strict=True)
    for old, own, new in pairs:
        expected = old.clone()
        expected.mul_(0.9).add_(own.detach(), alpha=1 - 0.9)
        assert torch.equal(new, expected)
        assert not new.requires_grad
        assert own.requires_grad


def test_teacher_is_a_copy_that_stays():
    student = nn.Linear(2, 2)
    teacher = cosmos_core.create_teacher(student)
    kept = teacher.weight.clone()
    with torch.no_grad():
        student.weight.add_(1)
    assert torch.equal(teacher.weight, kept)
