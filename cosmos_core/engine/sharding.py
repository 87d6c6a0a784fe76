"""Divide weights, gradients and optimizer states over processes, by PyTorch's `fully_shard`.

With FSDP each process holds a shard of the weights, and the weights of a block are gathered when
the block is computed. With HSDP weights are sharded within a machine, and all machines hold the
same weights. FSDP cannot shard 0-d parameters, such as logit scales. They are stored in the shape
(1,), and read as 0-d tensors. Snapshots have the names and shapes of an unsharded training.
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
from cosmos_core.engine.optimizers import MuonWithAdamW
from cosmos_core.model.sharded import MODELS, read_shards, read_tensor_metadata


class _Scalar(nn.Module):
    """A parametrization that stores a parameter in the shape (1,) and reads it as a 0-d tensor."""

    def forward(self, stored_value: Tensor) -> Tensor:
        """Return the 0-d value of a stored tensor (1,)."""
        return stored_value[0]

    def right_inverse(self, value: Tensor) -> Tensor:
        """Return the tensor (1,) that stores a 0-d value."""
        return value[None]


def widen_scalars(model: nn.Module) -> None:
    """Store the 0-d parameters of a model in the shape (1,), in place, so that FSDP can shard them.

    Parameters of submodules are left as they are. The model still reads 0-d values.
    """
    for name, parameter in list(model.named_parameters(recurse=False)):
        if parameter.ndim == 0:
            parametrize.register_parametrization(model, name, _Scalar())
            stored_parameter = model.get_parameter(f"parametrizations.{name}.original")
            stored_parameter.requires_grad_(parameter.requires_grad)


def unsharded_name(name: str) -> str:
    """Return the name that a parameter of a sharded model has in an unsharded training.

    It differs only for scalars: "parametrizations.logit_scale.original" -> "logit_scale".
    """
    return name.removeprefix("parametrizations.").removesuffix(".original")


def is_sharded(config: TrainConfig, world: World) -> bool:
    """Return whether each process holds only a shard of the weights."""
    return config.parallel != "ddp" and world.world_size > 1


def make_mesh(world: World, parallel: str) -> DeviceMesh:
    """Return the mesh of processes over which weights are sharded.

    Args:
        world: The processes.
        parallel: "fsdp" shards the weights over all processes. "hsdp" shards them over the
            processes of each machine: its mesh has a row for each machine. For example, two
            machines of four processes have a mesh of the shape (2, 4).

    Raises:
        ValueError: If `parallel` is "hsdp", and the machines do not have the same number of
            processes, or if torchrun did not state the number.
    """
    if parallel == "fsdp":
        return init_device_mesh(world.device.type, (world.world_size,))

    # The number of processes on this machine, or 0 if torchrun did not state it.
    processes_per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if processes_per_machine == 0 or world.world_size % processes_per_machine != 0:
        raise ValueError(
            "parallel=hsdp needs equally many processes on every machine, and there are "
            f"{world.world_size} in all and {processes_per_machine} here (LOCAL_WORLD_SIZE, which "
            "torchrun sets)"
        )
    n_machines = world.world_size // processes_per_machine
    return init_device_mesh(
        world.device.type,
        (n_machines, processes_per_machine),
        mesh_dim_names=("replicate", "shard"),
    )


def shard_model(
    encoder: nn.Module, mesh: DeviceMesh, *, reshard_after_forward: bool | None = None
) -> None:
    """Shard the weights of a model over a mesh of processes, in place.

    Each transformer block is gathered separately, and all other weights are gathered together.

    Args:
        encoder: The module that holds the model, and whose forward runs it.
        mesh: The processes.
        reshard_after_forward: True if the weights outside blocks are freed after forward. This
            suits a teacher, which has no backward pass. None is the default of `fully_shard`.
    """
    for module in encoder.modules():
        if isinstance(module, ResidualAttentionBlock):
            fully_shard(module, mesh=mesh)
    fully_shard(encoder, mesh=mesh, reshard_after_forward=reshard_after_forward)


def sort_parameters(
    groups: list[dict[str, Any]], model: nn.Module, parameter_names: Sequence[str]
) -> None:
    """Sort the parameters in each parameter group of an optimizer, in place.

    An optimizer numbers its states by the order of parameters. If the order is the same in sharded
    and unsharded trainings, their snapshots have the same numbers.

    Args:
        groups: The parameter groups, which have a list of parameters under "params".
        model: The model, which may be sharded.
        parameter_names: The names of the parameters of the unsharded model, in the order to use.
    """
    position_by_name = {name: position for position, name in enumerate(parameter_names)}
    # The groups hold parameters without their names, so find the position of each by its identity.
    position_by_id = {}
    for name, parameter in model.named_parameters():
        position_by_id[id(parameter)] = position_by_name[unsharded_name(name)]
    for group in groups:
        group["params"].sort(key=lambda parameter: position_by_id[id(parameter)])


def split_state(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a training state into tensors and other values, for the files of a sharded snapshot.

    Args:
        state: The state of a training, with the state dicts of both models ("student", "teacher")
            and of the optimizer ("optimizer").

    Returns:
        The tensors of the models and the optimizer, which may be shards, by their keys in the
        snapshot, such as "student.visual.proj". All other values by name, with the shape of each
        weight in the place of the weight.
    """
    tensors = _flatten_tensors(state, state["optimizer"]["state"])

    other_values = dict(state)
    other_values["optimizer"] = {"param_groups": state["optimizer"]["param_groups"]}
    for model_name in MODELS:
        shapes: dict[str, list[int]] = {}
        for key, tensor in state[model_name].items():
            # Only scalars have another name in a sharded training. They are stored as (1,).
            is_scalar = key != unsharded_name(key)
            shapes[unsharded_name(key)] = [] if is_scalar else list(tensor.shape)
        other_values[model_name] = shapes
    return tensors, other_values


def load_state(
    state: Mapping[str, Any], models: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> None:
    """Load the training state of a snapshot into the models and the optimizer, in place.

    Any number of processes may have written the snapshot. The processes that read it do not
    communicate.

    Args:
        state: The state in the snapshot. If the snapshot is sharded, "folder" is its path, and the
            tensors have not been read yet.
        models: The models "student" and "teacher", whose weights may be sharded.
        optimizer: The optimizer of the student.

    Raises:
        ValueError: If the snapshot has other keys than the models and the optimizer.
        Exception: Other errors, if the snapshot does not fit in another way.
    """
    # The moments of other optimizers may have any shape, and their weights are never sharded.
    has_moments_like_weights = isinstance(optimizer, torch.optim.AdamW | MuonWithAdamW)

    # Find the keys of the tensors in the snapshot.
    folder = Path(state["folder"]) if "folder" in state else None
    stored_tensors: Mapping[str, Any]
    if folder is None:
        stored_moments = state["optimizer"]["state"] if has_moments_like_weights else {}
        stored_tensors = _flatten_tensors(state, stored_moments)
    else:
        stored_tensors = read_tensor_metadata(folder)

    # Collect the tensors to fill: the weights of the models, and new tensors for the moments of the
    # optimizer, such as the running means of gradients.
    moments = _allocate_moments(stored_tensors, optimizer)
    weights = {name: model.state_dict() for name, model in models.items()}
    tensors = _flatten_tensors(weights, moments)
    # These keys are only in the snapshot, or only in the models and the optimizer.
    unmatched_keys = stored_tensors.keys() ^ tensors.keys()
    if unmatched_keys:
        raise ValueError(
            f"{len(unmatched_keys)} missing or unexpected keys, first: {min(unmatched_keys)}"
        )

    # Fill them. The weights of the models are changed in place.
    if folder is None:
        for key, tensor in tensors.items():
            tensor.copy_(_take_shard(stored_tensors[key], tensor))
    else:
        read_shards(folder, tensors)
    param_groups = state["optimizer"]["param_groups"]
    if not has_moments_like_weights:
        moments = state["optimizer"]["state"]
    optimizer.load_state_dict({"state": moments, "param_groups": param_groups})


def _allocate_moments(
    stored_keys: Iterable[str], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """Allocate tensors for the optimizer's moments that a snapshot has.

    Args:
        stored_keys: The keys of all tensors in the snapshot, such as "student.visual.proj" and
            "optimizer.7.exp_avg".
        optimizer: The optimizer, whose parameters are numbered in their order.

    Returns:
        Tensors of zeros by the number of the parameter and the name of the moment. For the key
        "optimizer.7.exp_avg" it is {7: {"exp_avg": tensor}}, with a tensor of the shape of
        parameter number 7. The tensor of the moment "step" is 0-d.
    """
    parameters = []
    for group in optimizer.param_groups:
        parameters.extend(group["params"])

    moments: dict[int, dict[str, Tensor]] = {}
    for key in stored_keys:
        if not key.startswith("optimizer."):
            continue
        _, number_text, moment_name = key.split(".")
        number = int(number_text)
        moment = torch.zeros(()) if moment_name == "step" else torch.zeros_like(parameters[number])
        moments.setdefault(number, {})[moment_name] = moment
    return moments


def require_finite(models: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Check that no weight and no moment of the optimizer is NaN or infinite.

    Only the shards that this process holds are checked.

    Args:
        models: The models "student" and "teacher".
        optimizer: The optimizer of the student.

    Raises:
        ValueError: If a value is NaN or infinite. The error names the first such tensor.
    """
    tensors = {}
    for model_name, model in models.items():
        for key, parameter in model.named_parameters():
            tensors[f"{model_name}.{unsharded_name(key)}"] = parameter.detach()
    for number, moments in optimizer.state_dict()["state"].items():
        for moment_name, moment in moments.items():
            if isinstance(moment, Tensor):
                tensors[f"optimizer.{number}.{moment_name}"] = moment

    for key, tensor in tensors.items():
        local_tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if not local_tensor.isfinite().all():
            raise ValueError(f"{key} has values that are NaN or infinite")


def _flatten_tensors(
    weights: Mapping[str, Mapping[str, Tensor]], moments: Mapping[int, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the weights of models and the moments of an optimizer in one dictionary.

    Args:
        weights: The state dicts of "student" and "teacher". Other keys are ignored.
        moments: Tensors by the number of the parameter and the name of the moment.

    Returns:
        The tensors by their keys in a sharded snapshot: {"student": {"visual.proj": ...}} gives
        "student.visual.proj", and {7: {"exp_avg": ...}} gives "optimizer.7.exp_avg".
    """
    tensors = {}
    for model_name in MODELS:
        for key, weight in weights[model_name].items():
            tensors[f"{model_name}.{unsharded_name(key)}"] = weight
    for number, parameter_moments in moments.items():
        for moment_name, moment in parameter_moments.items():
            tensors[f"optimizer.{number}.{unsharded_name(moment_name)}"] = moment
    return tensors


def _take_shard(full_value: Tensor, like: Tensor) -> Tensor:
    """Return the shard of a whole tensor that this process needs.

    Args:
        full_value: The whole tensor.
        like: The tensor to fill. If it is not sharded, the whole tensor is returned.

    Raises:
        ValueError: If `like` is not sharded and has another shape.
    """
    if not isinstance(like, DTensor):
        # Without this check `copy_` would repeat values to fill a larger shape.
        if full_value.shape != like.shape:
            raise ValueError(f"{tuple(full_value.shape)} does not fit {tuple(like.shape)}")
        return full_value
    full_value = full_value.reshape(like.shape).to(like.device)
    return distribute_tensor(full_value, like.device_mesh, like.placements, src_data_rank=None)
