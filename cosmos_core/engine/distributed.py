"""The processes of a training, and the tensors that they exchange."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from cosmos_core.engine.presence import Presence
from cosmos_core.losses import gather_locally
from cosmos_core.types import Gather, Gathered
from cosmos_core.utils.distributed import Distributed, gather_objects, process_group

# PyTorch 2.13 renamed these functions, and warns of the old names.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

# PyTorch's default timeout for GPUs, in seconds.
NCCL_TIMEOUT = 600.0
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class World(Distributed):
    """This process as one of the processes of a training, and how it communicates with them."""

    # The device of this process.
    device: torch.device = _CPU
    # The process group, or None for PyTorch's default group.
    group: Any = None
    # Finds processes that no longer answer, or None if there is only one process.
    presence: Presence | None = None

    def in_background(self) -> "World":
        """Return a World of the same processes for a background thread of each process.

        It has a new process group, so that the threads can exchange objects while the training goes
        on. All processes must call this method.
        """
        group = dist.new_group(backend="gloo")
        return replace(
            self, gather=partial(gather_objects, group=group), group=group, presence=None
        )


@contextmanager
def join_world(device: str, timeout: float = 0) -> Iterator[World]:
    """Join the processes that torchrun has started, and leave them at the end of the block.

    Tensors on the host are exchanged by Gloo, and tensors on GPUs by NCCL.

    Args:
        device: "auto", "cpu" or "cuda".
        timeout: The seconds after which a process that does not answer is lost. 0 means PyTorch's
            default.

    Yields:
        This process as one of them. A process that torchrun did not start is a single one.

    Raises:
        ValueError: If `device` is "cuda", and there are fewer GPUs than processes.
        LostProcessError: At the end of the block, if a process did not answer.
    """
    process_device = _select_device(device)
    on_gpu = process_device.type == "cuda"
    with process_group(
        backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        timeout=timedelta(seconds=timeout) if timeout else None,
        device_id=process_device if on_gpu else None,
    ) as processes:
        if processes.world_size == 1:
            yield World(device=process_device)
            return
        if not timeout:
            timeout = NCCL_TIMEOUT if on_gpu else default_pg_timeout.total_seconds()
        with Presence(processes, timeout, reports=on_gpu) as presence:
            yield World(
                rank=processes.rank,
                world_size=processes.world_size,
                gather=presence.gather,
                device=process_device,
                presence=presence,
            )


def _select_device(device: str) -> torch.device:
    """Return the device of this process.

    Each process of a machine takes the GPU of its number, which becomes PyTorch's current device.

    Args:
        device: "cpu", "cuda", or "auto", which is "cuda" if there is a GPU and "cpu" otherwise.

    Raises:
        ValueError: If there are fewer GPUs than processes, or if "cuda" is asked for without GPUs.
    """
    n_gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if device == "cuda" and n_gpus == 0:
        raise ValueError("this recipe needs a GPU, and there is none; --set compute.device=cpu")
    if n_gpus == 0:
        return _CPU
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= n_gpus:
        raise ValueError(f"process {local_rank} of this machine has no GPU: there are {n_gpus}")
    gpu = torch.device("cuda", local_rank)
    torch.cuda.set_device(gpu)
    return gpu


def make_gather(world: World, gradient: str, *, narrow: bool = False) -> Gather:
    """Return the object by which a loss gathers features from all processes.

    Args:
        world: The processes.
        gradient: The option `optim.gradient`. With "true" features have the gradient of the loss.
            With "published" it is divided by the number of processes, as in the published training.
        narrow: True if features and their gradients are rounded to bfloat16 before the exchange.
    """
    if world.world_size == 1:
        return gather_locally
    gradient_factor = 1.0 if gradient == "true" else 1.0 / world.world_size
    return _GatherFromAll(world, gradient_factor, narrow)


def mean_over_processes(values: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, by one all-reduce."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def broadcast(world: World, state: Any) -> Any:
    """Return the nested state of the first process in all processes.

    Tensors are sent one by one, so that the device holds only one at a time.

    Args:
        world: The processes. All of them call this function together.
        state: Dictionaries and lists of tensors and plain values. Only the state of the first
            process counts.

    Returns:
        The state, with its tensors on the CPU.
    """
    if world.world_size == 1:
        return state

    # Send the state without the content of tensors: meta tensors have only a shape and a dtype.
    meta_state = tree_map_only(Tensor, _without_content, state)
    first_meta_state = world.gather(meta_state)[0]
    leaves, structure = tree_flatten(first_meta_state)

    # Send the content of the tensors. The first process has it, and others allocate memory for it.
    local_leaves = tree_leaves(state) if world.rank == 0 else leaves
    for index, leaf in enumerate(local_leaves):
        if not isinstance(leaf, Tensor):
            continue
        if leaf.is_meta:
            leaf = torch.empty_like(leaf, device=world.device)
        tensor = leaf.to(world.device).contiguous()
        dist.broadcast(tensor, src=0)
        leaves[index] = tensor.to(_CPU)
    return tree_unflatten(leaves, structure)


def _without_content(tensor: Tensor) -> Tensor:
    """Return a meta tensor, which has the shape and the dtype of a tensor but no content."""
    return tensor.to("meta")


def require_agreement(world: World, step: int, *models: nn.Module) -> None:
    """Check that all processes are at the same training step and have the same weights.

    Args:
        world: The processes. All of them call this function together.
        step: The number of training steps of this process so far.
        *models: The models of this process. They are compared by a checksum of their bits.

    Raises:
        RuntimeError: If a process differs from the first one. All processes raise it.
    """
    tensor_checksums = []
    for model in models:
        for tensor in model.state_dict().values():
            tensor_checksums.append(_checksum(tensor))
    checksum = int(torch.stack(tensor_checksums).sum()) % 2**64
    steps_and_checksums = world.gather((step, checksum))
    first_step, first_checksum = steps_and_checksums[0]
    for rank, (other_step, other_checksum) in enumerate(steps_and_checksums):
        if (other_step, other_checksum) != (first_step, first_checksum):
            raise RuntimeError(
                f"processes would train different models: process 0 is at step {first_step} with "
                f"weights {first_checksum:016x}, process {rank} at step {other_step} with weights "
                f"{other_checksum:016x}; use the same packages on all machines"
            )


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the whole tensor if this process holds a shard of it; otherwise the tensor itself.

    All processes must call this function.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _checksum(tensor: Tensor) -> Tensor:
    """Return a checksum of a tensor, 0-d: its bits are read as integers, which are added up.

    The integers have 32 bits if an element of the tensor has a multiple of 32 bits, and otherwise
    8 bits.
    """
    dtype = torch.int32 if tensor.element_size() % 4 == 0 else torch.uint8
    integers = full_tensor(tensor.detach()).flatten().view(dtype)
    return integers.sum(dtype=torch.int64)


@dataclass(frozen=True)
class _GatherFromAll(Gather):
    """Gathers all features of a batch from all processes by one all-gather.

    The backward pass is one reduce-scatter.

    The released models of COSMOS were trained with features that were gathered without gradient,
    while every process computed the whole loss. Under DDP, features then have the true gradient
    divided by the number of processes, and logit scales have the undivided one. `gradient_factor`
    reproduces this.
    """

    world: World
    # The factor of the gradient of features: 1, or 1 / number of processes as published.
    gradient_factor: float
    # If true, features and their gradients are rounded to bfloat16.
    narrow: bool = False

    def __call__(self, tensors: Sequence[Tensor]) -> list[Gathered]:
        """Gather features from all processes.

        Args:
            tensors: Features (V_i, B, D_i) of the B samples of this process, for example of images
                and of captions.

        Returns:
            The features of this process and of all processes, for each of the tensors.
        """
        # Concatenate all features of a sample to one row: (B, V_1 * D_1 + V_2 * D_2 + ...).
        rows = torch.cat([tensor.transpose(0, 1).flatten(1) for tensor in tensors], dim=1)
        if self.gradient_factor != 1.0 and rows.requires_grad:
            rows.register_hook(self._scale_gradient)
        if self.narrow:
            # This process's own rows are rounded too, so that all processes use the same values.
            rows = rows.bfloat16()
        all_rows = _AllGather.apply(rows)

        # Tensors that a loss gathers later are neither scaled nor rounded.
        exact_gather = replace(self, gradient_factor=1.0, narrow=False)
        first_own_row = self.world.rank * len(rows)
        gathered = []
        for local, everywhere in zip(
            _split_rows(rows, tensors), _split_rows(all_rows, tensors), strict=True
        ):
            gathered.append(Gathered(local, everywhere, first_own_row, exact_gather))
        return gathered

    def _scale_gradient(self, gradient: Tensor) -> Tensor:
        """Return the gradient of features that is carried on to the model."""
        return gradient * self.gradient_factor

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes, without gradient."""
        return mean_over_processes(tensor.detach())


def _split_rows(rows: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Split rows, which hold all features of a sample one after another, into tensors of features.

    Args:
        rows: One row for each of C samples (C, V_1 * D_1 + V_2 * D_2 + ...).
        like: Tensors (V_i, B, D_i), which have the numbers of views and the widths to return.

    Returns:
        Tensors (V_i, C, D_i). For example, the rows (C, 2 * 8 + 1 * 4) and `like` tensors (2, B, 8)
        and (1, B, 4) give tensors (2, C, 8) and (1, C, 4).
    """
    values_per_row = [tensor.shape[0] * tensor.shape[2] for tensor in like]
    feature_tensors = []
    for columns, tensor in zip(rows.split(values_per_row, dim=1), like, strict=True):
        n_views, _, width = tensor.shape
        feature_tensors.append(columns.unflatten(1, (n_views, width)).transpose(0, 1))
    return feature_tensors


class _AllGather(torch.autograd.Function):
    """An all-gather that gradients can pass."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """Concatenate the rows (B, X) of W processes to (W * B, X) in all processes."""
        n_all_rows = dist.get_world_size() * len(rows)
        all_rows = rows.new_empty((n_all_rows, *rows.shape[1:]))
        _all_gather(all_rows, rows.contiguous())
        return all_rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Sum the gradients (W * B, X) over processes, and return the rows (B, X) of this one."""
        all_gradients = gradients[0].contiguous()
        n_own_rows = len(all_gradients) // dist.get_world_size()
        own_gradient = all_gradients.new_empty((n_own_rows, *all_gradients.shape[1:]))
        _reduce_scatter(own_gradient, all_gradients)
        return own_gradient
