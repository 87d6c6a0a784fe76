"""What a run trains, built from its configuration."""

from __future__ import annotations

import inspect
from typing import Any

import open_clip
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cosmos_core.config import TrainConfig
from cosmos_core.engine.distributed import World
from cosmos_core.engine.optim import param_groups
from cosmos_core.engine.step import Student, Training
from cosmos_core.model.teacher import create_teacher

GRAPHS = 16  # of a block; COSMOS in parts needs 10, and PyTorch gives up after 8
# PyTorch 2.13 warns of the old name.
_BUFFERS_EACH_STEP = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


def make_training(config: TrainConfig, world: World) -> Training:
    """Student, teacher, optimizer and scaler on this process's device, from the seed.

    Weights are drawn on the CPU, so that they depend on neither the device nor the number of
    processes. Raises ValueError for an unknown or unfit architecture, and where a batch in parts
    would meet dropout.
    """
    torch.manual_seed(config.seed)
    compute, method = config.compute, config.method
    model = method.create_student(config.architecture).to(world.device)
    if compute.accumulate > 1:
        _refuse_dropout(model)
    teacher = create_teacher(model)
    if compute.checkpointing:
        checkpoint_blocks(model)
    if compute.compile:
        compile_blocks(model)
        compile_blocks(teacher)
    return Training(
        method,
        model,
        _distributed(Student(method, model), world),
        teacher,
        make_optimizer(model, config),
        torch.amp.GradScaler(world.device.type, enabled=compute.precision == "fp16"),
    )


def make_optimizer(student: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW with the recipe's constants, over the parameters that are trained."""
    optim = config.optim
    groups = param_groups(student, optim.weight_decay)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def checkpoint_blocks(model: nn.Module) -> None:
    """Keep only what enters the transformer blocks of both towers; backward runs them again."""
    for module in model.modules():
        if isinstance(module, open_clip.transformer.Transformer):
            module.grad_checkpointing = True


def compile_blocks(model: nn.Module, backend: str = "inductor") -> None:
    """Compile the transformer blocks of both towers, in place: state-dict keys stay.

    Blocks are alike, so that one graph serves all of a tower; but there is one for each tower,
    image size or caption length, and for passes with and without gradient.
    """
    torch._dynamo.config.cache_size_limit = GRAPHS
    for module in model.modules():
        if isinstance(module, open_clip.transformer.ResidualAttentionBlock):
            module.compile(backend=backend)


def _distributed(student: Student, world: World) -> Student | DistributedDataParallel:
    """The student whose gradients are means over processes; itself in a world of one.

    Buffers are not broadcast: those of the student are constants.
    """
    if world.size == 1:
        return student
    buffers: dict[str, Any] = {_BUFFERS_EACH_STEP: False}
    return DistributedDataParallel(
        student,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **buffers,
    )


def _refuse_dropout(model: nn.Module) -> None:
    """Parts are encoded twice, and must come out the same."""
    for name, module in model.named_modules():
        patches = isinstance(module, open_clip.transformer.PatchDropout) and module.prob > 0
        if patches or (isinstance(module, nn.Dropout) and module.p > 0):
            raise ValueError(f"a batch in parts needs a model without dropout, and {name} has it")
