"""The teacher: an exponential moving average of the student."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def create_teacher(student: Model) -> Model:
    """A copy of the student that takes no gradients."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, over all parameters, in place.

    Called after backward and before the optimizer's step. The foreach form is bitwise equal to a
    loop over the tensors; `lerp` is not.
    """
    targets = [parameter.data for parameter in teacher.parameters()]
    torch._foreach_mul_(targets, momentum)
    torch._foreach_add_(targets, [p.data for p in student.parameters()], alpha=1 - momentum)
