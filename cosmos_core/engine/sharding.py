"""Weights, gradients and optimizer states sharded over processes, by PyTorch's `fully_shard`.
FSDP gathers the weights of a block when it is computed; HSDP shards them within a machine and keeps
machines alike. No 0-d parameters can be sharded: scales have the shape (1,) inside, and 0-d
wherever a model or a state is read. Whole states have the names and shapes of an unsharded
training."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import parametrize

from cosmos_core.engine.distributed import World, whole


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


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state dict as that of an unsharded one, in all processes."""
    return {
        public_name(key): whole(value) if key == public_name(key) else whole(value)[0]
        for key, value in model.state_dict().items()
    }


def load_weights(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `whole_weights` returned, of any number of processes. Raises as PyTorch does."""
    own = model.state_dict()
    names = {public_name(key): key for key in own}
    known = {names.get(key, key): value for key, value in state.items()}
    model.load_state_dict({k: _placed(v, own[k]) if k in own else v for k, v in known.items()})


def whole_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """Return an optimizer's state dict as that of an unsharded training, in all processes."""
    state, parameters = optimizer.state_dict(), _parameters(optimizer)
    scalars = {id(p) for name, p in model.named_parameters() if name != public_name(name)}
    shapes = [() if id(p) in scalars else p.shape for p in parameters]
    states = {
        number: {
            name: value if name == "step" else whole(value).reshape(shapes[number])
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return {**state, "state": states}


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load what `whole_optimizer` returned, of any number of processes."""
    parameters = _parameters(optimizer)
    placed = {
        number: {
            name: value if name == "step" else _placed(value, parameters[number])
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": placed})


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _placed(value: Tensor, like: Tensor) -> Tensor:
    """Return the part of a whole tensor that this process holds of `like`."""
    if not isinstance(like, DTensor):
        return value
    value = value.reshape(like.shape).to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
