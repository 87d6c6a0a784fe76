"""One training step, free of files, logs and loops."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cosmos_core.engine.accumulate import (
    as_leaves,
    carry_back,
    join_features,
    part_gradients,
    split_views,
)
from cosmos_core.engine.distributed import mean_over_processes
from cosmos_core.engine.precision import Precision
from cosmos_core.model.cosmos import clamp_logit_scales
from cosmos_core.model.teacher import update_teacher
from cosmos_core.types import Gather, LossTerms, Method, Views


class Student(nn.Module):
    """The student as one module whose forward gives the features: what DDP wraps."""

    def __init__(self, method: Method, model: nn.Module) -> None:
        super().__init__()
        self.method, self.model = method, model

    def forward(self, views: Views) -> Any:
        """The method's student features."""
        return self.method.student_features(self.model, views)


@dataclass
class Training:
    """What a step changes. `student` is `model` as `Student`, wrapped by DDP where there are
    several processes."""

    method: Method
    model: nn.Module
    student: Student | DistributedDataParallel
    teacher: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


class StepReport(NamedTuple):
    """The loss terms before the step, means over all processes, and the norm of the gradient."""

    terms: dict[str, float]
    gradient_norm: float


def normalise(views: Views, mean: Tensor, std: Tensor) -> Views:
    """uint8 images of a batch -> float32, normalised; `mean` and `std` (3,) on the 0-1 scale."""

    def convert(images: Tensor) -> Tensor:
        return (images.float() / 255 - mean[:, None, None]) / std[:, None, None]

    return views._replace(
        global_images=convert(views.global_images), local_images=convert(views.local_images)
    )


def train_step(
    training: Training,
    views: Views,
    gather: Gather,
    *,
    momentum: float,
    precision: str = "fp32",
    parts: int = 1,
    clip_norm: float = 0.0,
) -> StepReport:
    """Forward, backward, teacher, optimizer, clamping, in the published order.

    `views` hold normalised images of this process. Raises FloatingPointError, naming the term,
    where one is not finite in any process, or the gradient is not: before any weight is updated,
    and in every process. With a scaler, a gradient that is not finite skips the optimizer instead,
    and the scale is halved.
    """
    training.optimizer.zero_grad(set_to_none=True)
    mixed = Precision(views.global_images.device.type, precision)
    if parts == 1:
        terms = _backward_whole(training, views, gather, mixed)
    else:
        terms = _backward_in_parts(training, views, gather, mixed, parts)
    norm = _gradient_norm(training, clip_norm)
    update_teacher(training.teacher, training.model, momentum)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    clamp_logit_scales(training.model)
    clamp_logit_scales(training.teacher)
    return StepReport(terms, norm)


def _backward_whole(
    training: Training, views: Views, gather: Gather, mixed: Precision
) -> dict[str, float]:
    with mixed.forward():
        student = training.student(views)
        teacher = training.method.teacher_features(training.teacher, views)
    terms = training.method.loss(student, teacher, gather)
    figures = finite_terms(terms)
    training.scaler.scale(terms.total).backward()
    return figures


def _backward_in_parts(
    training: Training, views: Views, gather: Gather, mixed: Precision, parts: int
) -> dict[str, float]:
    """The gradient of the loss over the whole batch, with the activations of one part at a time.

    Features are computed twice: first without gradient, for the loss and its gradient in the
    features of all parts; then part by part, to carry that gradient on into the model. Processes
    exchange the model's gradient once, with the last part.
    """
    method, pieces = training.method, split_views(views, parts)
    with torch.no_grad(), mixed.forward():
        students = [method.student_features(training.model, piece) for piece in pieces]
        teachers = [method.teacher_features(training.teacher, piece) for piece in pieces]
    student = as_leaves(join_features(students))
    terms = method.loss(student, join_features(teachers), gather)
    figures = finite_terms(terms)
    training.scaler.scale(terms.total).backward()
    gradients = part_gradients(student, parts)
    for number, (piece, gradient) in enumerate(zip(pieces, gradients, strict=True)):
        with _synchronised(training.student, number == parts - 1):
            with mixed.forward():
                features = training.student(piece)
            carry_back(features, gradient)
    return figures


def finite_terms(terms: LossTerms) -> dict[str, float]:
    """The terms' means over all processes; FloatingPointError names one that is not finite."""
    clip = terms.clip.detach()
    values = torch.stack([torch.as_tensor(term).detach().to(clip) for term in terms])
    figures = dict(zip(terms._fields, mean_over_processes(values).tolist(), strict=True))
    for name, value in figures.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"the {name} loss is {value}")
    return figures


def _gradient_norm(training: Training, clip_norm: float) -> float:
    """The norm over all gradients; they are then clipped to `clip_norm` where that is positive."""
    training.scaler.unscale_(training.optimizer)
    limit = clip_norm if clip_norm > 0 else math.inf
    norm = float(nn.utils.clip_grad_norm_(training.model.parameters(), limit))
    if not (math.isfinite(norm) or training.scaler.is_enabled()):
        raise FloatingPointError(f"the gradient's norm is {norm}")
    return norm


def _synchronised(student: nn.Module, last: bool) -> AbstractContextManager[object]:
    """Gradients are exchanged in the backward of the last part alone."""
    if isinstance(student, DistributedDataParallel) and not last:
        return student.no_sync()
    return nullcontext()
