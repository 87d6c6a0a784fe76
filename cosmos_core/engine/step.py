"""One training step, free of files, logs and loops. A batch may be encoded in parts and still have
the gradient of the whole: the gradient of the loss in all features, computed once, is carried back
through the model part by part (as in GradCache, arXiv 2101.06983). Features are a method's
NamedTuple: (V, B, D) tensors have one row per sample, others (scales, the centre of prototypes)
belong to the whole batch."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

from cosmos_core.engine.distributed import mean_over_processes, whole
from cosmos_core.model.cosmos import SCALES, clamp_logit_scales, scalars, update_teacher
from cosmos_core.model.pretrained import Audit
from cosmos_core.types import Gather, LossTerms, Method, Views

Loss = Callable[[Any, Any, Gather], LossTerms]
Terms = dict[str, Tensor]  # loss terms by name, 0-d, means over all processes


def _is_sharded(module: nn.Module) -> TypeGuard[FSDPModule]:
    return isinstance(module, FSDPModule)


class Student(nn.Module):
    """The student as one module whose forward returns the features: what DDP wraps."""

    def __init__(self, method: Method, model: nn.Module) -> None:
        super().__init__()
        self.method, self.model = method, model

    def forward(self, views: Views) -> Any:
        features = self.method.student_features(self.model, views)
        # A view that a loss changed in place would lose the hook that gathers weights in backward.
        return tree_map_only(Tensor, torch.clone, features) if _is_sharded(self) else features


class Teacher(Student):
    """The teacher as one module whose forward returns its features, without gradient."""

    def forward(self, views: Views) -> Any:
        return self.method.teacher_features(self.model, views)


@dataclass
class Training:
    """What a step changes. `student` is `model` as `Student`, under DDP or sharded with several
    processes; `averaged` is `teacher` as `Teacher`; `loss` is the method's; `audit` tells which
    pretrained weights the model started from, if any."""

    method: Method
    model: nn.Module
    student: nn.Module
    teacher: nn.Module
    averaged: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    loss: Loss
    audit: Audit | None = None


class StepReport:
    """What a step found. The values are copied to the host as the device computes them; reading
    them waits for this step alone, not for what was started since."""

    def __init__(self, terms: Terms, others: dict[str, Tensor], *, scaled: bool) -> None:
        self._terms, self._names, self._scaled = [*terms], [*terms, *others], scaled
        first, *rest = (*terms.values(), *others.values())
        values = torch.stack([first, *(value.detach().to(first) for value in rest)])
        self._values = values.to("cpu", non_blocking=True)
        self._copied = torch.cuda.Event() if values.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def read(self) -> dict[str, float]:
        """Return the loss terms before the step (means over all processes), the scales after it,
        exponentiated, and the norm of the gradient before clipping, by name."""
        if self._copied is not None:
            self._copied.synchronize()
        return dict(zip(self._names, self._values.tolist(), strict=True))

    @property
    def terms(self) -> dict[str, float]:
        """The loss terms of `read`."""
        values = self.read()
        return {name: values[name] for name in self._terms}

    @property
    def gradient_norm(self) -> float:
        """The norm of `read`."""
        return self.read()["gradient_norm"]

    def check(self) -> dict[str, float]:
        """Return what `read` does. Raises FloatingPointError, in every process, where a term is not
        finite in any, or the gradient, which a scaler may find too large."""
        values = self.read()
        for name in self._terms:
            if not math.isfinite(values[name]):
                raise FloatingPointError(f"the {name} loss is {values[name]}")
        norm = values["gradient_norm"]
        if not (self._scaled or math.isfinite(norm)):
            raise FloatingPointError(f"the gradient's norm is {norm}")
        return values


def normalise(views: Views, mean: Tensor, std: Tensor) -> Views:
    """Convert uint8 images to normalised float32; `mean` and `std` (3,) are on the 0-1 scale."""
    large, small = ((v.float() / 255 - mean[:, None, None]) / std[:, None, None] for v in views[:2])
    return Views(large, small, views.texts)


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
    """Run forward, backward, teacher, optimizer and clamping, in the published order. `views` hold
    normalised images of this process; captions may be on the host, which then need not wait for
    the device. `StepReport.check` says, later, whether terms and gradient were finite. With a
    scaler, a gradient that is not skips the optimizer, and the scale is halved."""
    training.optimizer.zero_grad(set_to_none=True)
    # Losses are computed outside it, and so is backward: recomputed activations restore it there.
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    device = views.global_images.device.type
    mixed = torch.autocast(device, dtype, enabled=precision != "fp32")
    backward = _backward if parts == 1 else _backward_in_parts
    terms = backward(training, views, gather, mixed, parts)
    training.scaler.unscale_(training.optimizer)
    limit = clip_norm if clip_norm > 0 else math.inf
    norm = whole(nn.utils.clip_grad_norm_(training.model.parameters(), limit))
    update_teacher(training.teacher, training.model, momentum)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    clamp_logit_scales(training.model)
    clamp_logit_scales(training.teacher)
    own = scalars(training.model, (*SCALES, "logit_bias"))
    values = {name: whole(value.detach()).squeeze() for name, value in own.items()}
    others = {name: v.exp() if name in SCALES else v for name, v in values.items()}
    others |= {"gradient_norm": norm}
    return StepReport(terms, others, scaled=training.scaler.is_enabled())


def _backward(
    training: Training, views: Views, gather: Gather, mixed: torch.autocast, parts: int
) -> Terms:
    with mixed:
        student = training.student(views)
        teacher = training.averaged(views)
    return _loss_backward(training, student, teacher, gather)


def _backward_in_parts(
    training: Training, views: Views, gather: Gather, mixed: torch.autocast, parts: int
) -> Terms:
    """Compute the whole batch's gradient with the activations of one part. Features are computed
    twice: without gradient, for the loss and its gradient in all features; then part by part, to
    carry that gradient back. Processes exchange the model's gradient once, with the last part."""
    pieces = split_views(views, parts)
    with torch.no_grad(), mixed:
        students = [as_leaves(training.student(piece)) for piece in pieces]
        teachers = [training.averaged(piece) for piece in pieces]
    terms = _loss_backward(training, join_features(students), join_features(teachers), gather)
    for number, (piece, leaves) in enumerate(zip(pieces, students, strict=True), start=1):
        with _exchanging(training.student, number == parts):
            with mixed:
                features = training.student(piece)
            carry_back(features, leaves)
    return terms


@contextmanager
def _exchanging(student: nn.Module, last: bool) -> Iterator[None]:
    """Let processes exchange the gradients of a backward pass in the block, or keep their own."""
    if _is_sharded(student):
        student.set_requires_gradient_sync(last)
    ddp = student if isinstance(student, DistributedDataParallel) else None
    with ddp.no_sync() if ddp is not None and not last else nullcontext():
        yield


def _loss_backward(training: Training, student: Any, teacher: Any, gather: Gather) -> Terms:
    """Run backward from the loss of features; return the terms, means over processes."""
    terms, names = training.loss(student, teacher, gather), training.method.terms
    if {*terms} != {*names}:
        raise ValueError(f"the method has the terms {names}, and its loss returned {[*terms]}")
    values = torch.stack([terms[name].detach() for name in names])
    means = dict(zip(names, mean_over_processes(values), strict=True))
    training.scaler.scale(terms.total).backward()
    return means


def split_views(views: Views, parts: int) -> list[Views]:
    """Split a batch into `parts` batches, in order. Raises ValueError where it does not divide."""
    samples = views.texts.shape[1]
    if samples % parts:
        raise ValueError(f"{samples} samples of a process cannot be split in {parts} equal parts")
    return [Views(*pieces) for pieces in zip(*(v.chunk(parts, dim=1) for v in views), strict=True)]


def join_features(parts: Sequence[Any]) -> Any:
    """Join the features of all parts to those of the batch; None where a method has none. What
    belongs to the whole batch is the last part's, with which DDP exchanges its gradient."""
    if parts[0] is None:
        return None
    fields = zip(*parts, strict=True)
    joined = (f[-1] if f[0] is None or f[0].ndim != 3 else torch.cat(f, dim=1) for f in fields)
    return type(parts[0])(*joined)


def as_leaves(features: Any) -> Any:
    """Copy features to leaves whose gradient a backward pass collects."""
    leaves = (None if field is None else field.detach().requires_grad_() for field in features)
    return type(features)(*leaves)


def carry_back(features: Any, leaves: Any) -> None:
    """Run backward from features with the gradients of their leaves, where there are any."""
    pairs = zip(features, leaves, strict=True)
    known = [(f, leaf.grad) for f, leaf in pairs if f is not None and f.requires_grad]
    known = [(f, gradient) for f, gradient in known if gradient is not None]
    torch.autograd.backward([f for f, _ in known], [gradient for _, gradient in known])
