"""Build the student, teacher and optimizer of a run, and compute its schedules."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from open_clip.transformer import PatchDropout, ResidualAttentionBlock, Transformer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cosmos_core.config import ComputeConfig, ModelConfig, OptimConfig, TrainConfig
from cosmos_core.engine import sharding
from cosmos_core.engine.distributed import World
from cosmos_core.engine.optimizers import make_optimizer
from cosmos_core.engine.skipping import SkippedSteps
from cosmos_core.engine.step import Loss, StudentEncoder, TeacherEncoder, Training
from cosmos_core.model.cosmos import create_teacher
from cosmos_core.model.pretrained import (
    Audit,
    freeze,
    initialise,
    layers_above,
    locked_keys,
    tower_of,
)
from cosmos_core.utils.text import first_of

# Parameters whose names contain one of these have no weight decay.
NO_DECAY_NAMES = ("bn", "ln", "bias", "logit_scale")
# The option of DistributedDataParallel that broadcasts buffers in each step. PyTorch 2.13 renamed
# it, and warns of the old name.
if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters:
    _SYNC_BUFFERS_OPTION = "forward_sync_buffers"
else:
    _SYNC_BUFFERS_OPTION = "broadcast_buffers"


def make_training(config: TrainConfig, world: World, *, pretrained: bool = True) -> Training:
    """Build the student, the teacher, the optimizer and the gradient scaler of a training.

    Random weights depend only on the seed. They are drawn on the CPU, so that they are the same on
    every device and in every process. Random numbers that are drawn later differ by process.

    Args:
        config: The configuration of the training.
        world: This process and its device, on which the models are built.
        pretrained: True if the pretrained weights that the configuration names are loaded. A
            training that resumes from a snapshot does not need them.

    Raises:
        ValueError: If no model can be built on the architecture, if the pretrained weights do not
            fit it, if the model has running statistics, or if a batch is encoded in chunks and the
            model has dropout.
    """
    method, compute, optim = config.method, config.compute, config.optim
    torch.manual_seed(config.seed)
    if world.device.type == "cuda":
        _set_gpu_arithmetic(compute)

    model, audit = _create_model(config, pretrained=pretrained)
    model = model.to(world.device)
    _refuse_running_statistics(model)
    if compute.accumulate > 1:
        _refuse_dropout(model)

    # Sharding changes the order of parameters. The optimizer keeps the order that they have now.
    parameter_names = [name for name, _ in model.named_parameters()]
    is_sharded = sharding.is_sharded(config, world)
    if is_sharded:
        sharding.widen_scalars(model)
    teacher = create_teacher(model)
    for module in model.modules():
        if isinstance(module, Transformer):
            module.grad_checkpointing = compute.checkpointing

    # Compile the models and the loss, and divide the weights over the processes, if configured.
    student_encoder = StudentEncoder(method, model)
    teacher_encoder = TeacherEncoder(method, teacher)
    loss: Loss = method.loss
    if compute.compile:
        loss = compile_step(loss, student_encoder, teacher_encoder, blocks=is_sharded)
    if is_sharded:
        mesh = sharding.make_mesh(world, config.parallel)
        sharding.shard_model(student_encoder, mesh)
        sharding.shard_model(teacher_encoder, mesh, reshard_after_forward=True)

    groups = param_groups(
        model,
        optim.weight_decay,
        optim.layer_decay,
        lr_factors={"image": optim.image_lr_factor, "text": optim.text_lr_factor},
        decay_factors={
            "image": optim.image_weight_decay_factor,
            "text": optim.text_weight_decay_factor,
        },
    )
    sharding.sort_parameters(groups, model, parameter_names)
    frozen = _freeze_at_first(model, config.model)
    if world.rank > 0:
        # As in OpenCLIP, patch dropout differs by process. The first process keeps its state.
        torch.manual_seed(config.seed + world.rank)
    wrapped_student = student_encoder if is_sharded else _wrap_in_ddp(student_encoder, world)
    return Training(
        method=method,
        model=model,
        student_encoder=wrapped_student,
        teacher=teacher,
        teacher_encoder=teacher_encoder,
        optimizer=make_optimizer(groups, model, optim),
        scaler=torch.amp.GradScaler(world.device.type, enabled=compute.precision == "fp16"),
        loss=loss,
        skipped_steps=SkippedSteps(optim.max_skipped),
        audit=audit,
        frozen=frozen,
    )


def choose_precision(config: TrainConfig, world: World) -> TrainConfig:
    """Return a configuration whose precision is not "auto" any more.

    Without instructions for it, CPUs compute in bfloat16 up to a hundred times slower than in
    float32. PyTorch's fast functions need AVX-512.

    Args:
        config: The configuration of the training.
        world: The processes of the training, which all call this function. The device of the first
            one decides.
    """
    if config.compute.precision != "auto":
        return config
    if world.device.type == "cuda":
        # NVIDIA's GPUs have such instructions since Ampere, compute capability 8.0.
        has_bf16 = torch.cuda.get_device_capability(world.device) >= (8, 0)
    else:
        has_bf16 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    precision: Literal["bf16", "fp32"] = world.gather("bf16" if has_bf16 else "fp32")[0]
    return replace(config, compute=replace(config.compute, precision=precision))


def _create_model(config: TrainConfig, *, pretrained: bool) -> tuple[nn.Module, Audit | None]:
    """Create the student's model, load pretrained weights, and freeze a tower to the end.

    Args:
        config: The configuration, which names the architecture, the weights and the tower.
        pretrained: False if the weights stay random, although the configuration names others.

    Returns:
        The model, and a record of the weights that were loaded, or None if none were.

    Raises:
        ValueError: If the weights do not fit the model, or do not cover what is frozen.
    """
    model = create_student(config)
    audit = None
    if config.model.init and pretrained:
        audit = initialise(
            model, config.architecture, config.model.init, partial=config.model.partial
        )
        _require_loaded_towers(model, audit, config.model)
    if not config.model.freeze_steps:
        freeze(model, config.model.freeze, config.model.unlocked_groups)
    return model, audit


def _require_loaded_towers(model: nn.Module, audit: Audit, options: ModelConfig) -> None:
    """Check that no parameter of a tower is random and frozen, to the end or at first.

    Args:
        model: The student's model. Its method may have frozen a tower, as LiT does.
        audit: The record of the weights that were loaded.
        options: The options that name another tower to freeze.

    Raises:
        ValueError: If there is one. The error names the first ones.
    """
    parameters = dict(model.named_parameters())
    frozen = set(locked_keys(parameters, options.freeze, options.unlocked_groups))
    for key, parameter in parameters.items():
        if tower_of(key) is not None and not parameter.requires_grad:
            frozen.add(key)
    random_keys = [key for key in audit.new if key in frozen]
    if random_keys:
        raise ValueError(
            f"model.init={options.init}: the frozen tower would stay random, without "
            f"{first_of(random_keys)}; name weights that have them, or train this tower"
        )


def _freeze_at_first(model: nn.Module, options: ModelConfig) -> list[nn.Parameter]:
    """Freeze a tower that is trained later, and return the parameters that were frozen.

    The optimizer must have them already. Until they are trained it leaves them as they are, since
    they have no gradient.

    Args:
        model: The student's model, whose weights may be sharded.
        options: The options that name the tower and state how long it is frozen.
    """
    if not options.freeze_steps:
        return []
    return freeze(model, options.freeze, options.unlocked_groups)


def unfreeze(training: Training, world: World) -> None:
    """Train all parameters that were frozen at first, from the next step on.

    Args:
        training: The models and the optimizer, which has these parameters already.
        world: The processes of the training.
    """
    for parameter in training.frozen:
        parameter.requires_grad_(True)
    training.frozen = []
    encoder = training.student_encoder
    if isinstance(encoder, DistributedDataParallel):
        # DDP exchanges the gradients of the parameters that were trained when it was created.
        training.student_encoder = _wrap_in_ddp(encoder.module, world)


def create_student(config: TrainConfig) -> nn.Module:
    """Create the student's model with random weights and the configured patch dropout."""
    model = config.method.create_student(config.architecture)
    if config.model.patch_dropout > 0:
        visual = model.get_submodule("visual")
        visual.patch_dropout = PatchDropout(config.model.patch_dropout)
    return model


def _set_gpu_arithmetic(compute: ComputeConfig) -> None:
    """Configure whether a GPU rounds float32 products to TF32, and benchmarks convolutions."""
    torch.set_float32_matmul_precision("high" if compute.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = compute.tf32
    torch.backends.cudnn.benchmark = compute.cudnn_benchmark


def param_groups(
    model: nn.Module,
    weight_decay: float,
    layer_decay: float = 1.0,
    *,
    lr_factors: Mapping[str | None, float] | None = None,
    decay_factors: Mapping[str | None, float] | None = None,
) -> list[dict[str, Any]]:
    """Return parameter groups for an optimizer.

    As in github.com/ExplainableML/cosmos, after OpenCLIP, weight decay does not apply to parameters
    with fewer than two dimensions, and to those whose names contain one of NO_DECAY_NAMES. Frozen
    parameters are left out.

    Args:
        model: The model.
        weight_decay: The weight decay of all other parameters.
        layer_decay: The factor from the learning rate of a layer to the one of the layer below. 1
            means that all layers have the same learning rate.
        lr_factors: Factors of the learning rates of the towers "image" and "text". A tower without
            a factor, and parameters outside the towers, have 1.
        decay_factors: Factors of the weight decay of the towers, in the same way.

    Returns:
        Two groups for each layer: first its parameters without weight decay, then those with it.
        With `layer_decay` 1 there are only two groups for the whole model. A layer of towers with
        other factors has two groups for each pair of factors. The caller multiplies the learning
        rate of a group by its "lr_scale", which is `layer_decay` to the power of the number of
        layers above, times the factor of the tower.
    """
    lr_factors, decay_factors = lr_factors or {}, decay_factors or {}
    parameters = dict(model.named_parameters())
    n_layers_above = dict.fromkeys(parameters, 0)
    if layer_decay < 1:
        n_layers_above = layers_above(parameters)

    # Collect the parameters without and with weight decay by the number of layers above them and
    # by the factors of their tower.
    not_decayed: dict[tuple[int, float, float], list[nn.Parameter]] = {}
    decayed: dict[tuple[int, float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        if not parameter.requires_grad:
            continue
        tower = tower_of(name)
        key = (n_layers_above[name], lr_factors.get(tower, 1.0), decay_factors.get(tower, 1.0))
        is_exempt = parameter.ndim < 2 or any(pattern in name for pattern in NO_DECAY_NAMES)
        parameters_by_key = not_decayed if is_exempt else decayed
        parameters_by_key.setdefault(key, []).append(parameter)

    groups: list[dict[str, Any]] = []
    for key in sorted(not_decayed.keys() | decayed.keys()):
        n_layers, lr_factor, decay_factor = key
        lr_scale = layer_decay**n_layers * lr_factor
        groups.append(
            {
                "params": not_decayed.get(key, []),
                "weight_decay": 0.0,
                "lr_scale": lr_scale,
            }
        )
        groups.append(
            {
                "params": decayed.get(key, []),
                "weight_decay": weight_decay * decay_factor,
                "lr_scale": lr_scale,
            }
        )
    return groups


def learning_rate(step: int, optim: OptimConfig) -> float:
    """Return the learning rate of a training step, where steps are counted from 0.

    It rises linearly to `optim.lr` during the warm-up. Then it falls along a half cosine to zero
    ("cosine"), or stays ("constant"). With the schedule "wsd" (MiniCPM, arXiv 2404.06395) it stays,
    and falls to zero in the last N = `optim.cooldown_steps` steps: after n of them it is 1 -
    sqrt(n / N) of `optim.lr`. Hägele et al. (arXiv 2405.18392) found this shape to be better than a
    line.
    """
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return optim.lr
    if optim.schedule == "wsd":
        n_cooldown_steps_done = max(0, step - (optim.steps - optim.cooldown_steps))
        return optim.lr * (1 - math.sqrt(n_cooldown_steps_done / optim.cooldown_steps))
    # The fraction of the steps after the warm-up, from 0 to 1.
    progress = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress)) * optim.lr


def phase_start(step: int, config: TrainConfig) -> int:
    """Return the first step of the phase that a step is in, both counted from 0.

    A new phase begins when a frozen tower is trained, and when global views get their final size.
    All steps of a phase take the same number of operations per sample.
    """
    starts = (0, config.model.freeze_steps, config.image.first_steps)
    return max(start for start in starts if start <= step)


def teacher_momentum(step: int, optim: OptimConfig) -> float:
    """Return the momentum with which the teacher is updated after a step, counted from 0.

    It is `optim.momentum` in all steps. With `optim.momentum_ramp` it rises from there to 1 along a
    half cosine.
    """
    if not optim.momentum_ramp:
        return optim.momentum
    return 1 - (1 - optim.momentum) * 0.5 * (1 + math.cos(math.pi * step / optim.steps))


def compile_step(loss: Loss, *models: nn.Module, blocks: bool, backend: str = "inductor") -> Loss:
    """Compile models in place, and return the compiled loss.

    The keys of state dicts stay.

    Args:
        loss: The loss function.
        *models: The models to compile.
        blocks: True to compile each transformer block of the models, and not the whole models. This
            is for sharded weights, which are gathered between the blocks.
        backend: An argument of `torch.compile`.
    """
    # The custom operator that concatenates captions has outputs whose size depends on data.
    torch._dynamo.config.capture_dynamic_output_shape_ops = True
    # A block may be compiled for so many kinds of inputs. PyTorch's default is 8.
    torch._dynamo.config.cache_size_limit = 16
    for model in models:
        if not blocks:
            model.compile(backend=backend)
            continue
        for module in model.modules():
            if isinstance(module, ResidualAttentionBlock):
                module.compile(backend=backend)
    return torch.compile(loss, backend=backend)


def _wrap_in_ddp(
    student_encoder: StudentEncoder, world: World
) -> StudentEncoder | DistributedDataParallel:
    """Wrap the student in DDP, so that processes exchange its gradients.

    Args:
        student_encoder: The student, whose weights are not sharded.
        world: The processes. If there is only one, the student is returned as it is.
    """
    if world.world_size == 1:
        return student_encoder
    # Buffers need not be broadcast in each step, because the student's are constant.
    options: dict[str, Any] = {_SYNC_BUFFERS_OPTION: False}
    return DistributedDataParallel(
        student_encoder,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **options,
    )


def _refuse_running_statistics(model: nn.Module) -> None:
    """Raise ValueError if a batch normalisation of the model keeps running statistics.

    The teacher averages parameters only, a step that is skipped restores no buffers of the student,
    and processes do not exchange them.
    """
    for name, module in model.named_modules():
        if getattr(module, "running_mean", None) is not None:
            raise ValueError(
                f"{name} keeps running statistics, which the teacher does not average: take a norm "
                "without them, such as LayerNorm"
            )


def _refuse_dropout(model: nn.Module) -> None:
    """Raise ValueError if a module of the model drops units at random.

    If a batch is encoded in chunks, each chunk is encoded twice, and must give the same features.
    Dropped patches are drawn again, but not units, whose random numbers are drawn on the GPU.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            raise ValueError(f"a batch in parts needs a model without dropout, and {name} has it")
