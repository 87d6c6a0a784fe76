"""One training step, without files, logs and loops over batches.

To save memory, a batch may be encoded in chunks and still have the gradient of the whole batch. The
gradient of the loss with respect to all features is computed once. Then it is carried back through
the model chunk by chunk, as in GradCache (arXiv 2101.06983).

The features of a batch are a NamedTuple that the training method defines. Tensors (V, B, D) have
one row per sample. Other tensors, such as logit scales, belong to the whole batch.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map_only

from cosmos_core.engine.distributed import full_tensor, mean_over_processes
from cosmos_core.engine.skipping import SkippedSteps
from cosmos_core.model.cosmos import SCALES, clamp_logit_scales, scalars, update_teacher
from cosmos_core.model.pretrained import Audit
from cosmos_core.types import Gather, LossTerms, Method, Views

Loss = Callable[[Any, Any, Gather], LossTerms]
# With a smaller scale of float16's gradient scaler, a gradient that is not finite ends the training
# (fairseq/optim/dynamic_loss_scaler.py: min_loss_scale).
MIN_SCALE = 1e-4
# The dtype of autocast by precision; in fp32 autocast is disabled.
_AUTOCAST_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The terms of a loss by name: 0-d tensors, means over all processes.
Terms = dict[str, Tensor]


def _is_sharded(module: nn.Module) -> TypeGuard[FSDPModule]:
    """Return whether FSDP shards the weights of a module over processes."""
    return isinstance(module, FSDPModule)


class StudentEncoder(nn.Module):
    """A module whose forward returns the student's features, so that DDP and FSDP can wrap it."""

    def __init__(self, method: Method, model: nn.Module) -> None:
        """Wrap a model.

        Args:
            method: The training method, which computes the features.
            model: The student's or the teacher's model.
        """
        super().__init__()
        self.method = method
        self.model = model

    def forward(self, views: Views) -> Any:
        """Return the features of a batch, as the training method defines them."""
        features = self.method.student_features(self.model, views)
        if _is_sharded(self):
            # FSDP registers a hook on the features, which gathers the weights in backward. A loss
            # that changed a feature in place would remove the hook, so copies are returned.
            return tree_map_only(Tensor, torch.clone, features)
        return features


class TeacherEncoder(StudentEncoder):
    """A module whose forward returns the teacher's features, without gradient."""

    def forward(self, views: Views) -> Any:
        """Return the features of a batch, or None if the training method needs no teacher."""
        return self.method.teacher_features(self.model, views)


@dataclass
class Training:
    """The models, the optimizer and the loss of a training. A training step changes them."""

    # The training method, such as CLIP or COSMOS.
    method: Method
    # The student's model.
    model: nn.Module
    # A StudentEncoder of `model`, which DDP wraps or FSDP shards if there are several processes.
    student_encoder: nn.Module
    # The teacher's model, a moving average of the student's.
    teacher: nn.Module
    # A TeacherEncoder of `teacher`.
    teacher_encoder: nn.Module
    optimizer: torch.optim.Optimizer
    # The gradient scaler, which is enabled only in float16.
    scaler: torch.amp.GradScaler
    # The method's loss, which may be compiled.
    loss: Loss
    # A record of the pretrained weights that were loaded at the start, or None.
    audit: Audit | None = None
    # Decides whether a step is skipped because its loss or gradient is not finite.
    skipped_steps: SkippedSteps = field(default_factory=SkippedSteps)
    # Parameters that the optimizer has, but that are frozen for the first steps.
    frozen: list[nn.Parameter] = field(default_factory=list)
    # Whether the features of a batch in chunks were checked, as the first step does.
    has_checked_chunks: bool = False


class StepReport:
    """The loss terms, the logit scales and the gradient norm of a training step.

    A GPU may still compute the step when this object is created. The values are copied to the host
    as soon as they are ready. Reading them waits for this step, but not for later ones.
    """

    def __init__(
        self,
        terms: Terms,
        other_values: dict[str, Tensor],
        *,
        uses_gradient_scaler: bool,
        is_skipped: bool = False,
    ) -> None:
        """Start to copy the values of a step to the host.

        Args:
            terms: The loss terms by name.
            other_values: Other values of the step by name, such as "gradient_norm".
            uses_gradient_scaler: True if a gradient scaler handles gradients that are not finite.
            is_skipped: True if the step was skipped, because a value is not finite.
        """
        # Whether the step was skipped, because a value is not finite.
        self.is_skipped = is_skipped
        self._term_names = list(terms)
        self._names = [*terms, *other_values]
        # A gradient scaler handles gradients that are not finite.
        self._uses_gradient_scaler = uses_gradient_scaler

        # Stack all values to one tensor of the first one's type, and start to copy it to the host.
        first_tensor, *other_tensors = [*terms.values(), *other_values.values()]
        tensors = [first_tensor]
        for tensor in other_tensors:
            tensors.append(tensor.detach().to(first_tensor))
        values = torch.stack(tensors)
        self._values = values.to("cpu", non_blocking=True)
        self._copy_event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._copy_event = torch.cuda.Event()
            self._copy_event.record()

    def read(self) -> dict[str, float]:
        """Return all values by name, after the device has computed them.

        For example: {"clip": 6.9, "logit_scale": 14.3, "gradient_norm": 0.8}. The loss terms are
        means over all processes before the step, the scales are exponentiated after the step, and
        the norm of the gradient is the one before clipping.
        """
        if self._copy_event is not None:
            self._copy_event.synchronize()
        return dict(zip(self._names, self._values.tolist(), strict=True))

    @property
    def terms(self) -> dict[str, float]:
        """The loss terms by name, as means over all processes."""
        values = self.read()
        return {name: values[name] for name in self._term_names}

    @property
    def gradient_norm(self) -> float:
        """The norm of the gradient before clipping."""
        return self.read()["gradient_norm"]

    def check(self) -> dict[str, float]:
        """Return all values by name, as `read` does, after checking that they are finite.

        Raises:
            FloatingPointError: If a loss term is not finite in any process, or if the gradient is
                not finite and no gradient scaler is used. Every process raises it.
        """
        values = self.read()
        for name in self._term_names:
            if not math.isfinite(values[name]):
                raise FloatingPointError(f"the {name} loss is {values[name]}")
        norm = values["gradient_norm"]
        if not self._uses_gradient_scaler and not math.isfinite(norm):
            raise FloatingPointError(f"the gradient's norm is {norm}")
        return values


def require_scale(scaler: torch.amp.GradScaler, gradient_norm: float) -> None:
    """Check that a smaller scale can still make the gradient of a step finite.

    A GPU is waited for only if the gradient is not finite.

    Args:
        scaler: The gradient scaler, which halves its scale after such a step.
        gradient_norm: The norm of the gradient of the step.

    Raises:
        FloatingPointError: If the gradient is not finite, and the scale is below MIN_SCALE. Every
            process raises it.
    """
    if not scaler.is_enabled() or math.isfinite(gradient_norm):
        return
    scale = scaler.get_scale()
    if scale < MIN_SCALE:
        raise FloatingPointError(
            f"the gradient's norm is {gradient_norm}, although the gradient scaler has lowered its "
            f"scale to {scale:.2g}; start again with compute.precision=bf16 or a lower optim.lr"
        )


def normalise(views: Views, mean: Tensor, std: Tensor) -> Views:
    """Convert the uint8 images of a batch to float32, and normalise them.

    Args:
        views: The views of a batch, whose images have values from 0 to 255.
        mean: The mean of each colour channel (3,), on the scale from 0 to 1.
        std: The standard deviation of each colour channel (3,), on the same scale.
    """
    # (3,) -> (3, 1, 1), to match images (..., 3, H, W).
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
    n_chunks: int = 1,
    clip_norm: float = 0.0,
) -> StepReport:
    """Train the student on one batch, and move the teacher towards the student.

    The order is the published one: forward, backward, update of the teacher, step of the
    optimizer, clamping of the logit scales. If a gradient scaler is enabled and the gradient is not
    finite, the optimizer skips the step, and the scaler halves its scale.

    Args:
        training: The models, the optimizer and the loss, which are changed.
        views: The batch of this process, with normalised images. If the captions are on the host,
            this function does not wait for the GPU.
        gather: Collects the features of all processes for the loss.
        momentum: The momentum of the teacher's moving average.
        precision: "fp32", "bf16" or "fp16".
        n_chunks: The number of chunks in which the batch is encoded to save memory.
        clip_norm: The largest norm of the gradient. 0 means that it is not clipped.

    Returns:
        The values of the step. Its method `check` states whether they are finite.
    """
    training.skipped_steps.remember(training.teacher.buffers())

    # Compute the gradient. Only the models run under autocast, not the loss and the backward pass.
    training.optimizer.zero_grad(set_to_none=True)
    autocast = torch.autocast(
        views.global_images.device.type,
        _AUTOCAST_DTYPES[precision],
        enabled=precision != "fp32",
    )
    if n_chunks == 1:
        with autocast:
            student_features = training.student_encoder(views)
            teacher_features = training.teacher_encoder(views)
        terms = _backward_from_loss(training, student_features, teacher_features, gather)
    else:
        terms = _backward_in_chunks(training, views, gather, autocast, n_chunks)

    # Clip the gradient.
    training.scaler.unscale_(training.optimizer)
    max_norm = clip_norm if clip_norm > 0 else math.inf
    gradient_norm = full_tensor(nn.utils.clip_grad_norm_(training.model.parameters(), max_norm))

    is_skipped = _should_skip(training, terms, gradient_norm)
    if is_skipped:
        training.skipped_steps.skip()
    else:
        _update_models(training, momentum)
    training.scaler.update()
    other_values = {**_scales(training.model), "gradient_norm": gradient_norm}
    uses_scaler = training.scaler.is_enabled()
    return StepReport(terms, other_values, uses_gradient_scaler=uses_scaler, is_skipped=is_skipped)


def _scales(model: nn.Module) -> dict[str, Tensor]:
    """Return the exponentiated logit scales of a model, and its logit bias if it has one."""
    values = {}
    for name, parameter in scalars(model, (*SCALES, "logit_bias")).items():
        value = full_tensor(parameter.detach()).squeeze()
        values[name] = value.exp() if name in SCALES else value
    return values


def _should_skip(training: Training, terms: Terms, gradient_norm: Tensor) -> bool:
    """Return whether a step is skipped, because its loss or its gradient is not finite.

    All processes return the same, since they have the same values. A gradient scaler handles
    gradients that are not finite in its own way.
    """
    values = [*terms.values()]
    if not training.scaler.is_enabled():
        values.append(gradient_norm)
    return training.skipped_steps.should_skip(values)


def _update_models(training: Training, momentum: float) -> None:
    """Move the teacher towards the student, and the student by its gradient.

    Args:
        training: The models, the optimizer and the gradient scaler.
        momentum: The momentum of the teacher's moving average.
    """
    update_teacher(training.teacher, training.model, momentum)
    training.scaler.step(training.optimizer)
    clamp_logit_scales(training.model)
    clamp_logit_scales(training.teacher)


def _backward_in_chunks(
    training: Training, views: Views, gather: Gather, autocast: torch.autocast, n_chunks: int
) -> Terms:
    """Compute the gradient of a whole batch, with the memory for the activations of one chunk.

    The student encodes each chunk twice. The first time is without gradient: from the features of
    all chunks follow the loss and its gradient with respect to the features. The second time
    carries this gradient back to the weights (GradCache, arXiv 2101.06983).

    Args:
        training: The models and the loss.
        views: The whole batch of this process.
        gather: Collects the features of all processes for the loss.
        autocast: The context in which the models run.
        n_chunks: The number of chunks.

    Returns:
        The loss terms of the whole batch.

    Raises:
        ValueError: In the first step, if features of samples do not have the shape (V, B, D).
    """
    # Compute the features of the batch, and the gradient of the loss with respect to them. It is
    # stored in the `grad` of the student's features.
    view_chunks = split_views(views, n_chunks)
    student_chunks, teacher_chunks, random_states = [], [], []
    with torch.no_grad(), autocast:
        for chunk in view_chunks:
            random_states.append(torch.get_rng_state())
            student_chunks.append(as_leaves(training.student_encoder(chunk)))
            teacher_chunks.append(training.teacher_encoder(chunk))
    if not training.has_checked_chunks:
        require_rows_per_sample(student_chunks)
        require_rows_per_sample(teacher_chunks)
        training.has_checked_chunks = True
    student_features = join_features(student_chunks)
    teacher_features = join_features(teacher_chunks)
    terms = _backward_from_loss(training, student_features, teacher_features, gather)

    # Carry the gradient of each chunk back to the weights, which add up the gradients of chunks.
    for index, (chunk, leaves) in enumerate(zip(view_chunks, student_chunks, strict=True)):
        # Processes exchange their gradients only once, after the last chunk.
        is_last_chunk = index == n_chunks - 1
        with _gradient_exchange(training.student_encoder, enabled=is_last_chunk):
            # Patch dropout, which draws on the CPU, drops the same patches as the first time.
            torch.set_rng_state(random_states[index])
            with autocast:
                features = training.student_encoder(chunk)
            carry_back(features, leaves)
    return terms


@contextmanager
def _gradient_exchange(student_encoder: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Return a context that decides whether processes exchange gradients in a backward pass.

    Args:
        student_encoder: The student, which DDP may wrap and FSDP may shard.
        enabled: True if the processes exchange gradients. Otherwise each process adds its own
            gradients to the ones that it already has.
    """
    if _is_sharded(student_encoder):
        student_encoder.set_requires_gradient_sync(enabled)
    if isinstance(student_encoder, DistributedDataParallel) and not enabled:
        with student_encoder.no_sync():
            yield
    else:
        yield


def _backward_from_loss(
    training: Training, student_features: Any, teacher_features: Any, gather: Gather
) -> Terms:
    """Compute the loss of features, and run backward from it.

    Args:
        training: The loss, the training method and the gradient scaler.
        student_features: The student's features, as the method defines them.
        teacher_features: The teacher's features, or None if the method needs no teacher.
        gather: Collects the features of all processes for the loss.

    Returns:
        The loss terms by name, as means over all processes, without gradient.

    Raises:
        ValueError: If the loss does not return the terms that the method names.
    """
    terms = training.loss(student_features, teacher_features, gather)
    term_names = training.method.terms
    if set(terms) != set(term_names):
        raise ValueError(f"the method has the terms {term_names}, and its loss returned {[*terms]}")
    values = torch.stack([terms[name].detach() for name in term_names])
    mean_terms = dict(zip(term_names, mean_over_processes(values), strict=True))
    training.scaler.scale(terms.total).backward()
    return mean_terms


def split_views(views: Views, n_chunks: int) -> list[Views]:
    """Split a batch of B samples into batches of B / n_chunks samples, in order.

    Args:
        views: The images (G, B, 3, H, W) and (L, B, 3, h, w), and the texts (T, B, S).
        n_chunks: The number of batches to return.

    Raises:
        ValueError: If B is not a multiple of `n_chunks`.
    """
    n_samples = views.texts.shape[1]
    if n_samples % n_chunks != 0:
        raise ValueError(
            f"{n_samples} samples of a process cannot be split in {n_chunks} equal parts"
        )
    # The second dimension of images and texts is the batch.
    global_images = views.global_images.chunk(n_chunks, dim=1)
    local_images = views.local_images.chunk(n_chunks, dim=1)
    texts = views.texts.chunk(n_chunks, dim=1)
    return [Views(*tensors) for tensors in zip(global_images, local_images, texts, strict=True)]


def join_features(feature_chunks: Sequence[Any]) -> Any:
    """Concatenate the features of chunks of a batch to the features of the batch.

    Args:
        feature_chunks: A NamedTuple of tensors for each chunk, or None for each chunk if the method
            needs no features.

    Returns:
        A NamedTuple of the same class, or None. Tensors (V, B, D) are concatenated along B. Other
        values, such as a logit scale, belong to the whole batch. They are taken from the last
        chunk, with which DDP exchanges gradients.
    """
    if feature_chunks[0] is None:
        return None
    joined_values = []
    # Take one field of the NamedTuple at a time, from all chunks.
    for chunk_values in zip(*feature_chunks, strict=True):
        has_row_per_sample = chunk_values[0] is not None and chunk_values[0].ndim == 3
        if has_row_per_sample:
            joined_values.append(torch.cat(chunk_values, dim=1))
        else:
            joined_values.append(chunk_values[-1])
    features_class = type(feature_chunks[0])
    return features_class(*joined_values)


def require_rows_per_sample(feature_chunks: Sequence[Any]) -> None:
    """Check that features which differ between chunks of a batch have a row per sample.

    Otherwise `join_features` would take the features of the last chunk for the whole batch. A GPU
    must compute the features first.

    Args:
        feature_chunks: The features of each chunk, as `join_features` takes them.

    Raises:
        ValueError: If a tensor that differs is not (V, B, D). The error names its field.
    """
    if feature_chunks[0] is None:
        return
    field_names = type(feature_chunks[0])._fields
    for name, chunk_values in zip(field_names, zip(*feature_chunks, strict=True), strict=True):
        first = chunk_values[0]
        if first is None or first.ndim == 3:
            continue
        if not all(torch.equal(value, first) for value in chunk_values):
            raise ValueError(
                f"the feature {name} of the method has the shape {tuple(first.shape)} in each part "
                "of a batch, and differs: return rows of samples as (V, B, D), or set "
                "compute.accumulate=1"
            )


def as_leaves(features: Any) -> Any:
    """Return features as leaf tensors, in whose `grad` a backward pass stores their gradients.

    Args:
        features: A NamedTuple of tensors and None.

    Returns:
        A NamedTuple of the same class. None stays.
    """
    leaves = []
    for tensor in features:
        leaves.append(None if tensor is None else tensor.detach().requires_grad_())
    features_class = type(features)
    return features_class(*leaves)


def carry_back(features: Any, leaves: Any) -> None:
    """Carry the gradients of features back to the weights of the model that has computed them.

    Args:
        features: A NamedTuple of tensors and None, which belong to the graph of the model.
        leaves: The same features from `as_leaves`, with their gradients in `grad`.
    """
    tensors, gradients = [], []
    for tensor, leaf in zip(features, leaves, strict=True):
        if tensor is not None and tensor.requires_grad and leaf.grad is not None:
            tensors.append(tensor)
            gradients.append(leaf.grad)
    torch.autograd.backward(tensors, gradients)
