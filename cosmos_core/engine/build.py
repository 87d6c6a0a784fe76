"""Build the student, teacher and optimizer of a run, and compute its schedules."""

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
from cosmos_core.model.pretrained import Audit, freeze, initialise, layers_above

NO_DECAY_NAMES = ("bn", "ln", "bias", "logit_scale")
# The option of DistributedDataParallel that broadcasts buffers in each step. PyTorch 2.13 renamed
# it, and warns of the old name.
if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters:
    _SYNC_BUFFERS_OPTION = "forward_sync_buffers"
else:
    _SYNC_BUFFERS_OPTION = "broadcast_buffers"


def make_training(config: TrainConfig, world: World, *, pretrained: bool = True) -> Training:
    """Build student, teacher, optimizer and gradient scaler on this process's device.

    Random weights follow from the seed. They are drawn on the CPU, so that they are the same for
    every device. With `pretrained` the weights that the configuration names are loaded. Random
    numbers that are drawn later differ by process. Raises ValueError for an unknown or unfit
    architecture, for unfit pretrained weights, and for dropout if a batch is encoded in parts.
    """
    method, compute, optim = config.method, config.compute, config.optim
    torch.manual_seed(config.seed)
    if world.device.type == "cuda":
        _set_rounding(compute)
    model, audit = _make_student(config, pretrained=pretrained)
    model = model.to(world.device)
    if compute.accumulate > 1:
        _refuse_dropout(model)

    # Names in the order of an unsharded training, by which optimizer states are numbered.
    parameter_names = [name for name, _ in model.named_parameters()]
    is_sharded = sharding.is_sharded(config, world)
    if is_sharded:
        sharding.widen_scalars(model)
    teacher = create_teacher(model)
    for module in model.modules():
        if isinstance(module, Transformer):
            module.grad_checkpointing = compute.checkpointing

    student_module, teacher_module = Student(method, model), Teacher(method, teacher)
    loss: Loss = method.loss
    if compute.compile:
        loss = compile_step(loss, student_module, teacher_module, blocks=is_sharded)
    if is_sharded:
        mesh = sharding.make_mesh(world, config.parallel)
        sharding.shard(student_module, mesh)
        sharding.shard(teacher_module, mesh, reshard=True)
    groups = param_groups(model, optim.weight_decay, optim.layer_decay)
    sharding.sort_parameters(groups, model, parameter_names)
    if world.rank > 0:
        # As in OpenCLIP: each process drops other patches.
        torch.manual_seed(config.seed + world.rank)
    student = student_module if is_sharded else _distributed(student_module, world)
    optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)
    scaler = torch.amp.GradScaler(world.device.type, enabled=compute.precision == "fp16")
    return Training(method, model, student, teacher, teacher_module, optimizer, scaler, loss, audit)


def _make_student(config: TrainConfig, *, pretrained: bool) -> tuple[nn.Module, Audit | None]:
    """Return the model to train, with a frozen tower if configured, and what was loaded into it."""
    start = config.model
    model = config.method.create_student(config.architecture)
    audit = None
    if start.init and pretrained:
        audit = initialise(model, config.architecture, start.init, partial=start.partial)
    freeze(model, start.freeze)
    return model, audit


def _set_rounding(compute: ComputeConfig) -> None:
    """Set how a GPU rounds float32 products, and whether it measures convolutions."""
    torch.set_float32_matmul_precision("high" if compute.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = compute.tf32
    torch.backends.cudnn.benchmark = compute.cudnn_benchmark


def param_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Return parameter groups for `torch.optim.AdamW`, without and with weight decay.

    Parameters whose names contain one of NO_DECAY_NAMES, or that have fewer than two dimensions,
    are not decayed, as in github.com/ExplainableML/cosmos, after OpenCLIP. There are two groups
    for each number of `layers_above`. The learning rate of a group is to be multiplied by its
    `lr_scale`, `layer_decay ** layers_above`. Frozen parameters are left out.
    """
    parameters = dict(model.named_parameters())
    layers = dict.fromkeys(parameters, 0)
    if layer_decay < 1:
        layers = layers_above(parameters)
    not_decayed: dict[int, list[nn.Parameter]] = {}
    decayed: dict[int, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        if not parameter.requires_grad:
            continue
        exempt = parameter.ndim < 2 or any(pattern in name for pattern in NO_DECAY_NAMES)
        layer_parameters = not_decayed if exempt else decayed
        layer_parameters.setdefault(layers[name], []).append(parameter)
    groups: list[dict[str, Any]] = []
    for layer in sorted(not_decayed.keys() | decayed.keys()):
        for layer_parameters, decay in ((not_decayed, 0.0), (decayed, weight_decay)):
            groups.append(
                {
                    "params": layer_parameters.get(layer, []),
                    "weight_decay": decay,
                    "lr_scale": layer_decay**layer,
                }
            )
    return groups


def learning_rate(step: int, optim: OptimConfig) -> float:
    """Return the learning rate of a step, counted from 0.

    It rises linearly to `optim.lr` in the warm-up, then falls by a half cosine to zero.
    """
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress)) * optim.lr


def teacher_momentum(step: int, optim: OptimConfig) -> float:
    """Return the teacher's momentum: fixed, or raised to 1 by a half cosine over the run."""
    if not optim.momentum_ramp:
        return optim.momentum
    return 1 - (1 - optim.momentum) * 0.5 * (1 + math.cos(math.pi * step / optim.steps))


def compile_step(loss: Loss, *models: nn.Module, blocks: bool, backend: str = "inductor") -> Loss:
    """Compile models in place, and return the compiled loss; state-dict keys stay.

    With `blocks` only the transformer blocks of the models are compiled: sharded weights are
    gathered between them.
    """
    torch._dynamo.config.capture_dynamic_output_shape_ops = True  # for `pack_texts`
    torch._dynamo.config.cache_size_limit = 16  # graphs of a block; PyTorch's default is 8
    for model in models:
        if not blocks:
            model.compile(backend=backend)
            continue
        for module in model.modules():
            if isinstance(module, ResidualAttentionBlock):
                module.compile(backend=backend)
    return torch.compile(loss, backend=backend)


def _distributed(student: Student, world: World) -> Student | DistributedDataParallel:
    """Wrap the student so that several processes exchange its gradients."""
    if world.world_size == 1:
        return student
    # The student's buffers are constants.
    options: dict[str, Any] = {_SYNC_BUFFERS_OPTION: False}
    return DistributedDataParallel(
        student,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **options,
    )


def _refuse_dropout(model: nn.Module) -> None:
    """Raise ValueError if a module of the model drops units or patches at random."""
    for name, module in model.named_modules():
        drops_patches = isinstance(module, PatchDropout) and module.prob > 0
        drops_units = isinstance(module, nn.Dropout) and module.p > 0
        if drops_patches or drops_units:
            raise ValueError(f"a batch in parts needs a model without dropout, and {name} has it")
