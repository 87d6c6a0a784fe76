"""Processes that train together: who they are, and what they exchange."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from cosmos_core.losses import gather_locally
from cosmos_core.types import Gather, Gathered


class World(NamedTuple):
    """This process's number, how many there are, and its device."""

    rank: int
    size: int
    device: torch.device


def join_world(device: str) -> World:
    """Join the processes that torchrun started; a world of one outside it.

    `device` "auto", "cpu" or "cuda". Processes on GPUs speak NCCL, others Gloo. Raises ValueError
    where a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("this recipe needs a GPU, and there is none; --set compute.device=cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = device != "cpu" and torch.cuda.is_available()
    chosen = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(chosen)
    if "RANK" not in os.environ:
        return World(0, 1, chosen)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo")
    return World(dist.get_rank(), dist.get_world_size(), chosen)


def leave_world() -> None:
    """End the exchange, where there was one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def make_gather(world: World, gradient: str) -> Gather:
    """The `Gather` of this world. `gradient` "true", or "published": see `OptimConfig`."""
    if world.size == 1:
        return gather_locally
    return _GatherFromAll(world, 1.0 if gradient == "true" else 1.0 / world.size)


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes; itself in a world of one."""
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def gather_objects(item: Any) -> list[Any]:
    """An object of every process, in the order of their numbers."""
    if not dist.is_initialized():
        return [item]
    items: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items


class _GatherFromAll:
    """One all-gather of all features stacked; in backward, one reduce-scatter.

    The released models gathered without gradient and computed the whole loss in every process:
    with DDP's mean over processes, that is the true gradient divided by the number of processes
    for all that comes through the features, and undivided for the scales.
    """

    def __init__(self, world: World, factor: float) -> None:
        self._world, self._factor = world, factor

    def __call__(self, tensors: Sequence[Tensor]) -> list[Gathered]:
        local = torch.cat(list(tensors))
        if self._factor != 1.0 and local.requires_grad:
            local = _ScaleGradient.apply(local, self._factor)
        everywhere = _AllGather.apply(local)
        offset = self._world.rank * local.shape[1]
        sizes = [len(tensor) for tensor in tensors]
        parts = zip(local.split(sizes), everywhere.split(sizes), strict=True)
        return [Gathered(own, all_, offset) for own, all_ in parts]

    def mean(self, tensor: Tensor) -> Tensor:
        """One all-reduce."""
        return mean_over_processes(tensor.detach().clone())


class _AllGather(torch.autograd.Function):
    """(V, B, D) of every process -> (V, W * B, D); the gradient is summed over processes."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        world = dist.get_world_size()
        stacked = local.new_empty((world, *local.shape))
        dist.all_gather_into_tensor(stacked, local.contiguous())
        return stacked.transpose(0, 1).flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        world = dist.get_world_size()
        stacked = gradient.unflatten(1, (world, -1)).transpose(0, 1).contiguous()
        own = torch.empty_like(stacked[0])
        dist.reduce_scatter_tensor(own, stacked)
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
