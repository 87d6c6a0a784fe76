"""What a run trains, built from its configuration, and its schedules."""

import inspect
import math
from typing import Any

import torch
from open_clip.transformer import PatchDropout, ResidualAttentionBlock, Transformer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cosmos_core.config import ComputeConfig, OptimConfig, TrainConfig
from cosmos_core.engine import sharding
from cosmos_core.engine.distributed import World
from cosmos_core.engine.step import Loss, Student, Teacher, Training
from cosmos_core.model.cosmos import create_teacher
from cosmos_core.model.pretrained import freeze, initialise, layers_above

NO_DECAY_NAMES = ("bn", "ln", "bias", "logit_scale")
# PyTorch 2.13 warns of the old name.
_BUFFERS_EACH_STEP = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


def make_training(config: TrainConfig, world: World, *, pretrained: bool = True) -> Training:
    """Build student, teacher, optimizer and scaler on this process's device, from the seed. Weights
    are drawn on the CPU, whatever the device, and `pretrained` ones of the configuration loaded;
    what is drawn later differs by process. Raises ValueError for an unknown or unfit architecture,
    for unfit pretrained weights, and for dropout where a batch is encoded in parts."""
    torch.manual_seed(config.seed)
    compute, method, optim, start = config.compute, config.method, config.optim, config.model
    if world.device.type == "cuda":
        _set_rounding(compute)
    model, audit = method.create_student(config.architecture), None
    if start.init and pretrained:
        audit = initialise(model, config.architecture, start.init, partial=start.partial)
    freeze(model, start.freeze)
    model = model.to(world.device)
    if compute.accumulate > 1:
        _refuse_dropout(model)
    names = [name for name, _ in model.named_parameters()]
    if sharded := sharding.is_sharded(config, world):
        sharding.widen_scalars(model)
    teacher = create_teacher(model)
    for module in model.modules():
        if isinstance(module, Transformer):
            module.grad_checkpointing = compute.checkpointing
    student, averaged = Student(method, model), Teacher(method, teacher)
    loss: Loss = method.loss
    if compute.compile:
        loss = compile_step(loss, student, averaged, blocks=sharded)
    if sharded:
        mesh = sharding.make_mesh(world, config.parallel)
        sharding.shard(student, mesh)
        sharding.shard(averaged, mesh, reshard=True)
    groups = param_groups(model, optim.weight_decay, optim.layer_decay)
    sharding.sort_parameters(groups, model, names)
    if world.rank:
        torch.manual_seed(config.seed + world.rank)  # as OpenCLIP: each drops other patches
    return Training(
        method,
        model,
        student if sharded else _distributed(student, world),
        teacher,
        averaged,
        torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True),
        torch.amp.GradScaler(world.device.type, enabled=compute.precision == "fp16"),
        loss,
        audit,
    )


def _set_rounding(compute: ComputeConfig) -> None:
    torch.set_float32_matmul_precision("high" if compute.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = compute.tf32
    torch.backends.cudnn.benchmark = compute.cudnn_benchmark


def param_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Return groups for `torch.optim.AdamW`: without weight decay (NO_DECAY_NAMES and parameters of
    fewer than two dimensions, as in github.com/ExplainableML/cosmos, after OpenCLIP), and with. The
    learning rate of a group is multiplied by `lr_scale`, which is `layer_decay` to the power of
    `layers_above`."""
    names = dict(model.named_parameters())
    above = layers_above(names) if layer_decay < 1 else dict.fromkeys(names, 0)
    groups: dict[int, list[dict[str, Any]]] = {}
    for name, parameter in names.items():
        if parameter.requires_grad:
            rates = {"lr_scale": layer_decay ** above[name]}
            pair = [{"params": [], "weight_decay": d, **rates} for d in (0.0, weight_decay)]
            decayed = parameter.ndim >= 2 and not any(part in name for part in NO_DECAY_NAMES)
            groups.setdefault(above[name], pair)[decayed]["params"].append(parameter)
    return [group for layer in sorted(groups) for group in groups[layer]]


def learning_rate(step: int, optim: OptimConfig) -> float:
    """Return a linear warm-up to `optim.lr`, then a half cosine to zero; `step` counts from 0."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done)) * optim.lr


def teacher_momentum(step: int, optim: OptimConfig) -> float:
    """Return the teacher's momentum: fixed, or raised to 1 by a half cosine over the run."""
    if not optim.momentum_ramp:
        return optim.momentum
    return 1 - (1 - optim.momentum) * 0.5 * (1 + math.cos(math.pi * step / optim.steps))


def compile_step(loss: Loss, *models: nn.Module, blocks: bool, backend: str = "inductor") -> Loss:
    """Compile models in place, with the state-dict keys they have, or their blocks alone, between
    which sharded weights are gathered; return the compiled loss."""
    torch._dynamo.config.capture_dynamic_output_shape_ops = True  # of `pack_texts`
    torch._dynamo.config.cache_size_limit = 16  # graphs of a block; after 8 PyTorch gives up
    for module in (part for model in models for part in model.modules()):
        if isinstance(module, ResidualAttentionBlock) if blocks else module in models:
            module.compile(backend=backend)
    return torch.compile(loss, backend=backend)


def _distributed(student: Student, world: World) -> Student | DistributedDataParallel:
    if world.world_size == 1:
        return student
    buffers: dict[str, Any] = {_BUFFERS_EACH_STEP: False}  # the student's are constants
    return DistributedDataParallel(
        student,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **buffers,
    )


def _refuse_dropout(model: nn.Module) -> None:
    for name, module in model.named_modules():
        patches = isinstance(module, PatchDropout) and module.prob > 0
        if patches or (isinstance(module, nn.Dropout) and module.p > 0):
            raise ValueError(f"a batch in parts needs a model without dropout, and {name} has it")
