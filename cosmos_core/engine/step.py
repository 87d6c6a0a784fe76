"""Mixed precision of a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cosmos_core.engine.distributed import mean_over_processes
from cosmos_core.model.cosmos import clamp_logit_scales, update_teacher
from cosmos_core.types import Gather, LossTerms, Method, Views


class Precision(NamedTuple):
    """Mixed precision on a device; `precision` "fp32", "bf16" or "fp16"."""

    device: str
    precision: str

    def forward(self) -> torch.autocast:
        """The context of the encoders' forward passes.

        Losses are computed outside it, and so is backward: what computes activations again there
        restores it.
        """
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device, dtype, enabled=self.precision != "fp32")


def split_views(views: Views, parts: int) -> list[Views]:
    """The samples of a batch in `parts` batches, in order; ValueError where they do not divide."""
    samples = views.texts.shape[1]
    if samples % parts:
        raise ValueError(f"{samples} samples of a process cannot be split in {parts} equal parts")
    return [Views(*pieces) for pieces in zip(*(v.chunk(parts, dim=1) for v in views), strict=True)]


def join_features(parts: Sequence[Any]) -> Any:
    """Features of all parts as those of the batch; None where a method has none."""
    first = parts[0]
    if first is None:
        return None
    joined = [
        torch.cat(list(fields), dim=1) if _per_sample(fields[0]) else fields[0]
        for fields in zip(*parts, strict=True)
    ]
    return type(first)(*joined)


def as_leaves(features: Any) -> Any:
    """Copies whose gradient a backward pass collects."""
    return type(features)(
        *(None if field is None else field.detach().requires_grad_() for field in features)
    )


def part_gradients(leaves: Any, parts: int) -> list[list[Tensor | None]]:
    """For every part, the gradient of each field; of fields of the whole batch, with the last."""
    gradients: list[list[Tensor | None]] = [[] for _ in range(parts)]
    for field in leaves:
        gradient = None if field is None else field.grad
        if gradient is not None and _per_sample(field):
            pieces: Sequence[Tensor | None] = gradient.chunk(parts, dim=1)
        else:
            pieces = [None] * (parts - 1) + [gradient]
        for part, piece in zip(gradients, pieces, strict=True):
            part.append(piece)
    return gradients


def carry_back(features: Any, gradients: Sequence[Tensor | None]) -> None:
    """Backward from features whose gradient is known; those without one are left out."""
    known = [
        (field, gradient)
        for field, gradient in zip(features, gradients, strict=True)
        if gradient is not None and field.requires_grad
    ]
    torch.autograd.backward([field for field, _ in known], [gradient for _, gradient in known])


def _per_sample(field: Any) -> bool:
    return isinstance(field, Tensor) and field.ndim == 3


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
