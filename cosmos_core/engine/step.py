"""One training step, free of files, logs and loops.

A batch may be encoded in parts and still have the gradient of the whole batch. The gradient of the
loss in all features is computed once, and carried back through the model part by part, as in
GradCache (arXiv 2101.06983).

Features are a method's NamedTuple. Tensors (V, B, D) have one row per sample. Other tensors, such
as scales or the centre of prototypes, belong to the whole batch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

from cosmos_core.engine.distributed import full_tensor, mean_over_processes
from cosmos_core.model.cosmos import SCALES, clamp_logit_scales, scalars, update_teacher
from cosmos_core.model.pretrained import Audit
from cosmos_core.types import Gather, LossTerms, Method, Views

Loss = Callable[[Any, Any, Gather], LossTerms]
Terms = dict[str, Tensor]  # loss terms by name: 0-d tensors, means over all processes


def _is_sharded(module: nn.Module) -> TypeGuard[FSDPModule]:
    return isinstance(module, FSDPModule)


class Student(nn.Module):
    """The student as a module whose forward returns the features; DDP wraps it."""

    def __init__(self, method: Method, model: nn.Module) -> None:
        super().__init__()
        self.method, self.model = method, model

    def forward(self, views: Views) -> Any:
        features = self.method.student_features(self.model, views)
        if _is_sharded(self):
            # If a loss changed a feature in place, FSDP's hook on it, which gathers weights in
            # backward, would be lost.
            return tree_map_only(Tensor, torch.clone, features)
        return features


class Teacher(Student):
    """The teacher as a module whose forward returns its features, without gradient."""

    def forward(self, views: Views) -> Any:
        return self.method.teacher_features(self.model, views)


@dataclass
class Training:
    """The state that a training step changes."""

    method: Method
    # The student's model.
    model: nn.Module
    # `model` as `Student`, which is under DDP or sharded if there are several processes.
    student: nn.Module
    # The teacher's model.
    teacher: nn.Module
    # `teacher` as `Teacher`.
    averaged: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    # The method's loss, which may be compiled.
    loss: Loss
    # The pretrained weights that the model started from, or None.
    audit: Audit | None = None


class StepReport:
    """The loss terms, scales and gradient norm of a step.

    The values are copied to the host as the device computes them. Reading them waits for this step,
    and not for work that was started since.
    """

    def __init__(self, terms: Terms, other_values: dict[str, Tensor], *, scaled: bool) -> None:
        self._term_names = list(terms)
        self._names = [*terms, *other_values]
        # Whether a gradient scaler is used: it handles gradients that are not finite.
        self._scaled = scaled
        tensors = [*terms.values(), *other_values.values()]
        first = tensors[0]
        values = torch.stack([first, *[tensor.detach().to(first) for tensor in tensors[1:]]])
        self._values = values.to("cpu", non_blocking=True)
        self._copied: torch.cuda.Event | None = None
        if values.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> dict[str, float]:
        """Return all values by name.

        These are the loss terms before the step, as means over all processes, the exponentiated
        scales after the step, and `gradient_norm`, the norm of the gradient before clipping.
        """
        if self._copied is not None:
            self._copied.synchronize()
        return dict(zip(self._names, self._values.tolist(), strict=True))

    @property
    def terms(self) -> dict[str, float]:
        """The loss terms by name."""
        values = self.read()
        return {name: values[name] for name in self._term_names}

    @property
    def gradient_norm(self) -> float:
        """The norm of the gradient before clipping."""
        return self.read()["gradient_norm"]

    def check(self) -> dict[str, float]:
        """Return all values by name, as `read` does.

        Raises FloatingPointError, in every process, if a loss term is not finite in any process.
        Raises it also if the gradient is not finite, unless a gradient scaler is used.
        """
        values = self.read()
        for name in self._term_names:
            if not math.isfinite(values[name]):
                raise FloatingPointError(f"the {name} loss is {values[name]}")
        norm = values["gradient_norm"]
        if not self._scaled and not math.isfinite(norm):
            raise FloatingPointError(f"the gradient's norm is {norm}")
        return values


def normalise(views: Views, mean: Tensor, std: Tensor) -> Views:
    """Convert uint8 images to normalised float32; `mean` and `std` (3,) are on the 0-1 scale."""
    mean, std = mean[:, None, None], std[:, None, None]
    return Views(
        global_images=(views.global_images.float() / 255 - mean) / std,
        local_images=(views.local_images.float() / 255 - mean) / std,
        texts=views.texts,
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
    """Run forward, backward, teacher, optimizer and clamping, in the published order.

    `views` hold normalised images of this process. Captions may be on the host: then nothing waits
    for the device. The batch is encoded in `parts` parts. `StepReport.check` says, later, whether
    loss terms and gradient were finite. With a gradient scaler, the optimizer skips a gradient that
    is not finite, and the scaler halves its scale.
    """
    training.optimizer.zero_grad(set_to_none=True)
    # Only the models run under autocast; losses and backward do not. Recomputed activations restore
    # it in backward.
    autocast = torch.autocast(
        views.global_images.device.type,
        torch.float16 if precision == "fp16" else torch.bfloat16,
        enabled=precision != "fp32",
    )
    if parts == 1:
        terms = _backward(training, views, gather, autocast)
    else:
        terms = _backward_in_parts(training, views, gather, autocast, parts)
    training.scaler.unscale_(training.optimizer)
    max_norm = clip_norm if clip_norm > 0 else math.inf
    norm = full_tensor(nn.utils.clip_grad_norm_(training.model.parameters(), max_norm))
    update_teacher(training.teacher, training.model, momentum)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    clamp_logit_scales(training.model)
    clamp_logit_scales(training.teacher)

    other_values = {}
    for name, parameter in scalars(training.model, (*SCALES, "logit_bias")).items():
        value = full_tensor(parameter.detach()).squeeze()
        other_values[name] = value.exp() if name in SCALES else value
    other_values["gradient_norm"] = norm
    return StepReport(terms, other_values, scaled=training.scaler.is_enabled())


def _backward(training: Training, views: Views, gather: Gather, autocast: torch.autocast) -> Terms:
    """Compute the gradient of a batch at once; return the loss terms."""
    with autocast:
        student = training.student(views)
        teacher = training.averaged(views)
    return _loss_backward(training, student, teacher, gather)


def _backward_in_parts(
    training: Training, views: Views, gather: Gather, autocast: torch.autocast, parts: int
) -> Terms:
    """Compute the gradient of the whole batch with the activations of one part; return the terms.

    Student features are computed twice: first without gradient, for the loss and its gradient in
    all features, then part by part, to carry that gradient back. Processes exchange the model's
    gradient once, with the last part.
    """
    view_chunks = split_views(views, parts)
    with torch.no_grad(), autocast:
        student_leaves = [as_leaves(training.student(chunk)) for chunk in view_chunks]
        teacher_features = [training.averaged(chunk) for chunk in view_chunks]
    terms = _loss_backward(
        training, join_features(student_leaves), join_features(teacher_features), gather
    )
    for number, (chunk, leaves) in enumerate(zip(view_chunks, student_leaves, strict=True), 1):
        with _gradient_exchange(training.student, enabled=number == parts):
            with autocast:
                features = training.student(chunk)
            carry_back(features, leaves)
    return terms


@contextmanager
def _gradient_exchange(student: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Let processes exchange gradients in the backward pass of the block, or keep their own."""
    if _is_sharded(student):
        student.set_requires_gradient_sync(enabled)
    if isinstance(student, DistributedDataParallel) and not enabled:
        with student.no_sync():
            yield
    else:
        yield


def _loss_backward(training: Training, student: Any, teacher: Any, gather: Gather) -> Terms:
    """Run backward from the loss of features; return the loss terms, as means over processes."""
    terms = training.loss(student, teacher, gather)
    names = training.method.terms
    if set(terms) != set(names):
        raise ValueError(f"the method has the terms {names}, and its loss returned {[*terms]}")
    values = torch.stack([terms[name].detach() for name in names])
    means = dict(zip(names, mean_over_processes(values), strict=True))
    training.scaler.scale(terms.total).backward()
    return means


def split_views(views: Views, parts: int) -> list[Views]:
    """Split a batch into `parts` batches, in order. Raises ValueError if it does not divide."""
    samples = views.texts.shape[1]
    if samples % parts:
        raise ValueError(f"{samples} samples of a process cannot be split in {parts} equal parts")
    chunks = [tensor.chunk(parts, dim=1) for tensor in views]
    return [Views(*tensors) for tensors in zip(*chunks, strict=True)]


def join_features(parts: Sequence[Any]) -> Any:
    """Join the features of all parts of a batch.

    Return None if the method has no features. Tensors that belong to the whole batch are taken from
    the last part, with which DDP exchanges their gradients.
    """
    if parts[0] is None:
        return None
    joined = []
    for tensors in zip(*parts, strict=True):
        has_rows = tensors[0] is not None and tensors[0].ndim == 3
        joined.append(torch.cat(tensors, dim=1) if has_rows else tensors[-1])
    return type(parts[0])(*joined)


def as_leaves(features: Any) -> Any:
    """Copy features to leaf tensors whose gradients a backward pass collects."""
    leaves = [None if tensor is None else tensor.detach().requires_grad_() for tensor in features]
    return type(features)(*leaves)


def carry_back(features: Any, leaves: Any) -> None:
    """Run backward from features, with the gradients that their leaves have collected."""
    tensors, gradients = [], []
    for tensor, leaf in zip(features, leaves, strict=True):
        if tensor is not None and tensor.requires_grad and leaf.grad is not None:
            tensors.append(tensor)
            gradients.append(leaf.grad)
    torch.autograd.backward(tensors, gradients)
