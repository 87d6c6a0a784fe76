"""Weights, gradients and optimizer states sharded over processes, by PyTorch's `fully_shard`.
FSDP gathers the weights of a block when it is computed; HSDP shards them within a machine and keeps
machines alike. No 0-d parameters can be sharded: scales have the shape (1,) inside, and 0-d
wherever a model or a state is read. Snapshots have the names and shapes of an unsharded training.
"""

import os
from collections.abc import Mapping, Sequence
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
    """Return the name of a parameter in an unsharded training."""
    return name.removeprefix("parametrizations.").removesuffix(".original")


def is_sharded(config: TrainConfig, world: World) -> bool:
    """Whether processes hold parts of the weights."""
    return config.parallel != "ddp" and world.world_size > 1


def make_mesh(world: World, parallel: str) -> DeviceMesh:
    """Return the processes over which weights are sharded. Raises ValueError where those of a
    machine are unknown or differ, for "hsdp"."""
    if parallel == "fsdp":
        return init_device_mesh(world.device.type, (world.world_size,))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if not local or world.world_size % local:
        raise ValueError(
            "parallel=hsdp needs equally many processes on every machine, and there are "
            f"{world.world_size} in all and {local} here (LOCAL_WORLD_SIZE, which torchrun sets)"
        )
    shape, names = (world.world_size // local, local), ("replicate", "shard")
    return init_device_mesh(world.device.type, shape, mesh_dim_names=names)


def shard(wrapper: nn.Module, mesh: DeviceMesh, *, reshard: bool | None = None) -> None:
    """Shard a model by its transformer blocks, and the rest of it by `wrapper`, whose forward runs
    it. `reshard` frees the rest after forward as well, as of a teacher without backward."""
    for module in wrapper.modules():
        if isinstance(module, ResidualAttentionBlock):
            fully_shard(module, mesh=mesh)
    fully_shard(wrapper, mesh=mesh, reshard_after_forward=reshard)


def sort_parameters(groups: list[dict[str, Any]], model: nn.Module, order: Sequence[str]) -> None:
    """Put an optimizer's groups in the order of names in an unsharded training, by which states are
    numbered."""
    places = {name: number for number, name in enumerate(order)}
    own = {id(p): places[public_name(name)] for name, p in model.named_parameters()}
    for group in groups:
        group["params"].sort(key=lambda parameter: own[id(parameter)])


def divide(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a state into the tensors of models and optimizer, of which this process may hold parts,
    by the names of an unsharded training, and the rest, with the shapes of weights by key."""
    moments = state["optimizer"]["state"]
    rest = {**state, "optimizer": {"param_groups": state["optimizer"]["param_groups"]}}
    for name in MODELS:
        rest[name] = {
            public_name(key): list(value.shape) if key == public_name(key) else []
            for key, value in state[name].items()
        }
    return _parts(state, moments), rest


def load_state(
    state: Mapping[str, Any], models: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> None:
    """Set what this process holds of models and optimizer to the state of a snapshot, of any number
    of processes. Processes do not communicate. Raises ValueError and others where it does not fit.
    """
    folder = Path(state["folder"]) if "folder" in state else None
    whole: Mapping[str, Any] = (
        stored_tensors(folder) if folder else _parts(state, state["optimizer"]["state"])
    )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key in whole:
        if key.startswith("optimizer."):
            _, number, name = key.split(".")
            own = torch.zeros(()) if name == "step" else torch.zeros_like(parameters[int(number)])
            moments.setdefault(int(number), {})[name] = own
    parts = _parts({name: model.state_dict() for name, model in models.items()}, moments)
    if other := whole.keys() ^ parts.keys():
        raise ValueError(f"{len(other)} missing or unexpected keys, first: {min(other)}")
    if folder:
        read_parts(folder, parts)
    else:
        for key, part in parts.items():
            part.copy_(_placed(whole[key], part))
    groups = state["optimizer"]["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def require_finite(models: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError, which names the first, for weights or moments of which what this process
    holds is not finite."""
    tensors = {
        f"{name}.{public_name(key)}": parameter.detach()
        for name, model in models.items()
        for key, parameter in model.named_parameters()
    }
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in moments.items()}
    for key, tensor in tensors.items():
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if not local.isfinite().all():
            raise ValueError(f"{key} has values that are NaN or infinite")


def _parts(
    weights: Mapping[str, Mapping[str, Tensor]], moments: Mapping[int, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return tensors by their keys in a folder."""
    groups: dict[str, Mapping[str, Tensor]] = {name: weights[name] for name in MODELS}
    groups |= {f"optimizer.{number}": values for number, values in moments.items()}
    return {
        f"{group}.{public_name(key)}": value
        for group, values in groups.items()
        for key, value in values.items()
    }


def _placed(value: Tensor, like: Tensor) -> Tensor:
    """Return the part of a whole tensor that this process holds of `like`."""
    if not isinstance(like, DTensor):
        if value.shape != like.shape:  # which could be filled by repetition
            raise ValueError(f"{tuple(value.shape)} does not fit {tuple(like.shape)}")
        return value
    value = value.reshape(like.shape).to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
