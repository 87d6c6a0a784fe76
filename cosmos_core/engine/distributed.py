"""Processes that train together: who they are, and what they exchange."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from cosmos_core.losses import gather_locally
from cosmos_core.types import Gather, Gathered

# PyTorch 2.13 warns of the old names.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class World(NamedTuple):
    """This process's number, how many there are, and its device."""

    rank: int
    size: int
    device: torch.device


def join_world(device: str) -> World:
    """Join the processes that torchrun started; a world of one outside it.

    `device` "auto", "cpu" or "cuda". Processes on GPUs speak NCCL, others Gloo. Raises ValueError
    where a GPU is asked for and there is none, and where a machine has more processes than GPUs.
    """
    chosen = _own_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if "RANK" not in os.environ:
        return World(0, 1, chosen)
    if not dist.is_initialized():
        if chosen.type == "cuda":
            dist.init_process_group("nccl", device_id=chosen)
        else:
            dist.init_process_group("gloo")
    return World(dist.get_rank(), dist.get_world_size(), chosen)


def _own_device(device: str, local_rank: int) -> torch.device:
    """The GPU of this process's number on its machine, or the CPU."""
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if device == "cuda" and not gpus:
        raise ValueError("this recipe needs a GPU, and there is none; --set compute.device=cpu")
    if not gpus:
        return torch.device("cpu")
    if local_rank >= gpus:
        raise ValueError(f"process {local_rank} of this machine has no GPU: there are {gpus}")
    chosen = torch.device("cuda", local_rank)
    torch.cuda.set_device(chosen)
    return chosen


def leave_world() -> None:
    """End the exchange, where there was one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def make_gather(world: World, gradient: str) -> Gather:
    """The `Gather` of this world. `gradient` "true", or "published": see `OptimConfig`.

    What a loss does not gather, as SILC's prototypes, has its true gradient in either case.
    """
    if world.size == 1:
        return gather_locally
    return _GatherFromAll(world, 1.0 if gradient == "true" else 1.0 / world.size)


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes; itself in a world of one."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def wait_for_all() -> None:
    """Return once every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def gather_objects(item: Any) -> list[Any]:
    """An object of every process, in the order of their numbers."""
    if not dist.is_initialized():
        return [item]
    items: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items


def check_in_first(world: World, check: Callable[[], None]) -> None:
    """Check in the first process, while the others wait; a ValueError is raised in all."""
    problem = None
    if world.rank == 0:
        try:
            check()
        except ValueError as error:
            problem = error
    for found in gather_objects(problem):
        if found is not None:
            raise found


class _GatherFromAll:
    """One all-gather of all features, packed as rows of samples; in backward, one reduce-scatter.

    The released models gathered without gradient and computed the whole loss in every process:
    with DDP's mean over processes, that is the true gradient divided by the number of processes
    for all that comes through gathered features, and undivided for the scales.
    """

    def __init__(self, world: World, factor: float) -> None:
        self._world, self._factor = world, factor

    def __call__(self, tensors: Sequence[Tensor]) -> list[Gathered]:
        local = torch.cat([tensor.transpose(0, 1).flatten(1) for tensor in tensors], dim=1)
        if self._factor != 1.0 and local.requires_grad:
            local = _ScaleGradient.apply(local, self._factor)
        everywhere = _AllGather.apply(local)
        offset = self._world.rank * len(local)
        pairs = zip(_unpack(local, tensors), _unpack(everywhere, tensors), strict=True)
        return [Gathered(own, all_, offset) for own, all_ in pairs]

    def mean(self, tensor: Tensor) -> Tensor:
        """One all-reduce."""
        return mean_over_processes(tensor.detach())


def _unpack(rows: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Rows (C, sum of V_i * D_i) -> (V_i, C, D_i) for each of `like` (V_i, B, D_i)."""
    shapes = [(tensor.shape[0], tensor.shape[2]) for tensor in like]
    pieces = rows.split([views * width for views, width in shapes], dim=1)
    return [
        piece.unflatten(1, shape).transpose(0, 1)
        for piece, shape in zip(pieces, shapes, strict=True)
    ]


class _AllGather(torch.autograd.Function):
    """Rows (B, X) of every process -> (W * B, X); the gradient is summed over processes."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        everywhere = local.new_empty((dist.get_world_size() * len(local), *local.shape[1:]))
        _all_gather(everywhere, local.contiguous())
        return everywhere

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        own = gradient.new_empty((len(gradient) // dist.get_world_size(), *gradient.shape[1:]))
        _reduce_scatter(own, gradient)
        return own


class _ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None
