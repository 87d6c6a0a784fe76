"""Weights, gradients and optimizer states sharded over processes, by PyTorch's `fully_shard`.

FSDP gathers the weights of a block when the block is computed. HSDP shards weights within a
machine, and all machines hold the same weights. 0-d parameters cannot be sharded: scales are stored
in the shape (1,), and are 0-d wherever a model or a state is read. Snapshots have the names and
shapes of an unsharded training.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import parametrize

from cosmos_core.config import TrainConfig
from cosmos_core.engine.distributed import World
from cosmos_core.model.sharded import MODELS, read_parts, stored_tensors


class _Scalar(nn.Module):
    """A parameter of shape (1,) that is read as 0-d."""

    def forward(self, stored: Tensor) -> Tensor:
        return stored[0]

    def right_inverse(self, value: Tensor) -> Tensor:
        return value[None]


def widen_scalars(model: nn.Module) -> None:
    """Store the model's own 0-d parameters in the shape (1,)."""
    for name, parameter in list(model.named_parameters(recurse=False)):
        if parameter.ndim == 0:
            parametrize.register_parametrization(model, name, _Scalar())
            stored = model.get_parameter(f"parametrizations.{name}.original")
            stored.requires_grad_(parameter.requires_grad)


def public_name(name: str) -> str:
    """Return the name that a parameter has in an unsharded training."""
    return name.removeprefix("parametrizations.").removesuffix(".original")


def is_sharded(config: TrainConfig, world: World) -> bool:
    """Return whether each process holds only a part of the weights."""
    return config.parallel != "ddp" and world.world_size > 1


def make_mesh(world: World, parallel: str) -> DeviceMesh:
    """Return the mesh of processes over which weights are sharded; `parallel` is fsdp or hsdp.

    For "hsdp" raises ValueError if the number of processes of a machine is unknown or differs.
    """
    if parallel == "fsdp":
        return init_device_mesh(world.device.type, (world.world_size,))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if not local_size or world.world_size % local_size:
        raise ValueError(
            "parallel=hsdp needs equally many processes on every machine, and there are "
            f"{world.world_size} in all and {local_size} here (LOCAL_WORLD_SIZE, which torchrun "
            "sets)"
        )
    return init_device_mesh(
        world.device.type,
        (world.world_size // local_size, local_size),
        mesh_dim_names=("replicate", "shard"),
    )


def shard(wrapper: nn.Module, mesh: DeviceMesh, *, reshard: bool | None = None) -> None:
    """Shard the transformer blocks of a model one by one, and all other weights together.

    `wrapper` is the module whose forward runs the model. With `reshard` the weights outside blocks
    are freed after forward as well, for a teacher, which has no backward pass.
    """
    for module in wrapper.modules():
        if isinstance(module, ResidualAttentionBlock):
            fully_shard(module, mesh=mesh)
    fully_shard(wrapper, mesh=mesh, reshard_after_forward=reshard)


def sort_parameters(groups: list[dict[str, Any]], model: nn.Module, order: Sequence[str]) -> None:
    """Sort the parameters of an optimizer's groups by the order of names in an unsharded training.

    Optimizer states are numbered by this order.
    """
    positions = {name: number for number, name in enumerate(order)}
    parameter_positions = {}
    for name, parameter in model.named_parameters():
        parameter_positions[id(parameter)] = positions[public_name(name)]
    for group in groups:
        group["params"].sort(key=lambda parameter: parameter_positions[id(parameter)])


def divide(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a state into the tensors of models and optimizer, and all other values.

    The tensors, of which this process may hold shards, have keys of an unsharded training. In the
    other values, the shapes of weights replace the weights.
    """
    other_values = dict(state)
    other_values["optimizer"] = {"param_groups": state["optimizer"]["param_groups"]}
    for name in MODELS:
        shapes = {}
        for key, tensor in state[name].items():
            is_scalar = key != public_name(key)  # stored as (1,)
            shapes[public_name(key)] = [] if is_scalar else list(tensor.shape)
        other_values[name] = shapes
    return _flat_tensors(state, state["optimizer"]["state"]), other_values


def load_state(
    state: Mapping[str, Any], models: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> None:
    """Load a snapshot into the models and the optimizer, of which this process may hold shards.

    The snapshot may be from any number of processes. Processes do not communicate. Raises
    ValueError, or another error, if the snapshot does not fit.
    """
    folder = Path(state["folder"]) if "folder" in state else None
    stored: Mapping[str, Any]
    if folder is None:
        stored = _flat_tensors(state, state["optimizer"]["state"])
    else:
        stored = stored_tensors(folder)
    moments = _empty_moments(stored, optimizer)
    weights = {name: model.state_dict() for name, model in models.items()}
    tensors = _flat_tensors(weights, moments)
    unmatched_keys = stored.keys() ^ tensors.keys()
    if unmatched_keys:
        raise ValueError(
            f"{len(unmatched_keys)} missing or unexpected keys, first: {min(unmatched_keys)}"
        )
    if folder is None:
        for key, tensor in tensors.items():
            tensor.copy_(_shard_like(stored[key], tensor))
    else:
        read_parts(folder, tensors)
    param_groups = state["optimizer"]["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": param_groups})


def _empty_moments(
    stored_keys: Iterable[str], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """Return tensors for the moments that a snapshot has, by the number of the parameter."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key in stored_keys:
        if not key.startswith("optimizer."):
            continue
        _, number, name = key.split(".")
        parameter = parameters[int(number)]
        tensor = torch.zeros(()) if name == "step" else torch.zeros_like(parameter)
        moments.setdefault(int(number), {})[name] = tensor
    return moments


def require_finite(models: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError, with the first key, if weights or moments held here are not finite."""
    tensors = {}
    for name, model in models.items():
        for key, parameter in model.named_parameters():
            tensors[f"{name}.{public_name(key)}"] = parameter.detach()
    for number, moments in optimizer.state_dict()["state"].items():
        for key, moment in moments.items():
            tensors[f"optimizer.{number}.{key}"] = moment
    for key, tensor in tensors.items():
        local_tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if not local_tensor.isfinite().all():
            raise ValueError(f"{key} has values that are NaN or infinite")


def _flat_tensors(
    weights: Mapping[str, Mapping[str, Tensor]], moments: Mapping[int, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return tensors by their keys in a folder: `student.KEY`, `optimizer.NUMBER.KEY`."""
    tensors = {}
    for name in MODELS:
        for key, weight in weights[name].items():
            tensors[f"{name}.{public_name(key)}"] = weight
    for number, parameter_moments in moments.items():
        for key, moment in parameter_moments.items():
            tensors[f"optimizer.{number}.{public_name(key)}"] = moment
    return tensors


def _shard_like(full_value: Tensor, like: Tensor) -> Tensor:
    """Return the shard of a full tensor that this process holds of `like`."""
    if not isinstance(like, DTensor):
        if full_value.shape != like.shape:  # `copy_` would repeat values to fill the shape
            raise ValueError(f"{tuple(full_value.shape)} does not fit {tuple(like.shape)}")
        return full_value
    full_value = full_value.reshape(like.shape).to(like.device)
    return distribute_tensor(full_value, like.device_mesh, like.placements, src_data_rank=None)
