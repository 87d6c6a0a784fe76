"""Processes that train together, and the tensors that they exchange."""

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

NCCL_TIMEOUT = 600.0  # seconds, PyTorch's default
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class World(Distributed):
    """The processes of a training."""

    # The device of this process.
    device: torch.device = _CPU
    # The process group, or None for PyTorch's default group.
    group: Any = None
    # Finds processes that no longer answer; None if there is one process.
    presence: Presence | None = None

    def in_background(self) -> "World":
        """Return the same processes with a group of their own, for a thread of each process.

        The threads can then exchange objects while the training goes on. All processes call it.
        """
        group = dist.new_group(backend="gloo")
        return replace(
            self, gather=partial(gather_objects, group=group), group=group, presence=None
        )


@contextmanager
def join_world(device: str, timeout: float = 0) -> Iterator[World]:
    """Join the processes that torchrun started, and leave them at the end of the block.

    Tensors on the host are exchanged by Gloo, those on GPUs by NCCL. `device` is "auto", "cpu" or
    "cuda". `timeout` is in seconds; 0 means PyTorch's default. Raises ValueError for "cuda" if
    there is no GPU, or too few of them. Raises LostProcessError, at the end of the block, after a
    timeout in which a process did not answer.
    """
    this_device = _device_of_process(device)
    on_gpu = this_device.type == "cuda"
    with process_group(
        backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        timeout=timedelta(seconds=timeout) if timeout else None,
        device_id=this_device if on_gpu else None,
    ) as processes:
        if processes.world_size == 1:
            yield World(device=this_device)
            return
        if not timeout:
            timeout = NCCL_TIMEOUT if on_gpu else default_pg_timeout.total_seconds()
        with Presence(processes, timeout, reports=on_gpu) as presence:
            yield World(
                processes.rank,
                processes.world_size,
                presence.gather,
                this_device,
                presence=presence,
            )


def _device_of_process(device: str) -> torch.device:
    """Return the device of this process, by its number on the machine, and select it."""
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
    """Return a `Gather` that gathers features from all processes.

    `gradient` is `OptimConfig.gradient`. With `narrow`, features and their gradients are rounded to
    bfloat16 before they are exchanged.
    """
    if world.world_size == 1:
        return gather_locally
    gradient_factor = 1.0 if gradient == "true" else 1.0 / world.world_size
    return _GatherFromAll(world, gradient_factor, narrow)


def mean_over_processes(values: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes: one all-reduce."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def broadcast(world: World, state: Any) -> Any:
    """Return the nested state of the first process in all processes.

    Tensors are sent one by one, so that a device holds one of them at a time.
    """
    if world.world_size == 1:
        return state
    # The same state with tensors that have a shape but no content.
    meta_state = tree_map_only(Tensor, _to_meta, state)
    leaves, structure = tree_flatten(world.gather(meta_state)[0])
    sent_leaves = tree_leaves(state) if world.rank == 0 else leaves
    for number, leaf in enumerate(sent_leaves):
        if not isinstance(leaf, Tensor):
            continue
        if leaf.is_meta:
            leaf = torch.empty_like(leaf, device=world.device)
        tensor = leaf.to(world.device).contiguous()
        dist.broadcast(tensor, 0)
        leaves[number] = tensor.to(_CPU)
    return tree_unflatten(leaves, structure)


def _to_meta(tensor: Tensor) -> Tensor:
    return tensor.to("meta")


def require_agreement(world: World, step: int, *models: nn.Module) -> None:
    """Raise RuntimeError in all processes if one is at another step or has other weights."""
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
    """Return a whole tensor, from its shards if processes hold some; all of them call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _checksum(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor's bits, read as integers."""
    dtype = torch.int32 if tensor.element_size() % 4 == 0 else torch.uint8
    return full_tensor(tensor.detach()).flatten().view(dtype).sum(dtype=torch.int64)


@dataclass(frozen=True)
class _GatherFromAll(Gather):
    """Gathers all features at once, packed as rows of samples; backward is one reduce-scatter.

    The released models were trained with features that were gathered without gradient, and with the
    whole loss in every process. Under DDP, features then have the true gradient divided by the
    number of processes, and scales the undivided one.
    """

    world: World
    # Factor of the gradient in features: 1, or 1 / number of processes as published.
    factor: float
    # Whether features and their gradients are rounded to bfloat16.
    narrow: bool = False

    def __call__(self, tensors: Sequence[Tensor]) -> list[Gathered]:
        rows = torch.cat([tensor.transpose(0, 1).flatten(1) for tensor in tensors], dim=1)
        if self.factor != 1.0 and rows.requires_grad:
            rows.register_hook(self._scale_gradient)
        if self.narrow:
            # This process's own rows are rounded too, so that all processes use the same values.
            rows = rows.bfloat16()
        all_rows = _AllGather.apply(rows)
        offset = self.world.rank * len(rows)
        exact_gather = replace(self, factor=1.0, narrow=False)
        gathered = []
        for local, everywhere in zip(
            _unpack(rows, tensors), _unpack(all_rows, tensors), strict=True
        ):
            gathered.append(Gathered(local, everywhere, offset, exact_gather))
        return gathered

    def _scale_gradient(self, gradient: Tensor) -> Tensor:
        return gradient * self.factor

    def mean(self, tensor: Tensor) -> Tensor:
        return mean_over_processes(tensor.detach())


def _unpack(rows: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Split rows of samples into the features that were packed into them.

    `rows` (C, X) hold the features of C samples, X values of each. `like` are the tensors
    (V_i, B, D_i) that were packed, so X is the sum of V_i * D_i. Return tensors (V_i, C, D_i).
    """
    values_per_row = [tensor.shape[0] * tensor.shape[2] for tensor in like]
    unpacked_tensors = []
    for columns, tensor in zip(rows.split(values_per_row, dim=1), like, strict=True):
        n_views, _, width = tensor.shape
        unpacked_tensors.append(columns.unflatten(1, (n_views, width)).transpose(0, 1))
    return unpacked_tensors


class _AllGather(torch.autograd.Function):
    """Gathers rows (B, X) of W processes to (W * B, X); gradients are summed over processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        all_rows = rows.new_empty((dist.get_world_size() * len(rows), *rows.shape[1:]))
        _all_gather(all_rows, rows.contiguous())
        return all_rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        all_gradients = gradients[0].contiguous()
        n_samples = len(all_gradients) // dist.get_world_size()  # of this process
        gradient = all_gradients.new_empty((n_samples, *all_gradients.shape[1:]))
        _reduce_scatter(gradient, all_gradients)
        return gradient
