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

# PyTorch 2.13 warns of the old names.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

NCCL_TIMEOUT = 600.0  # seconds, PyTorch's default
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class World(Distributed):
    """The processes of a training, the device of this one, and their group if not the default."""

    device: torch.device = _CPU
    group: Any = None
    presence: Presence | None = None

    def in_background(self) -> "World":
        """Return the same processes for what a thread of each does meanwhile; all call it."""
        group = dist.new_group(backend="gloo")
        return replace(
            self, gather=partial(gather_objects, group=group), group=group, presence=None
        )


@contextmanager
def join_world(device: str, timeout: float = 0) -> Iterator[World]:
    """Join the processes that torchrun started, and leave them. Gloo exchanges what is on the host,
    NCCL what is on GPUs. `device` is "auto", "cpu" or "cuda"; `timeout` in seconds, 0: PyTorch's.
    Raises ValueError for "cuda" without a GPU, or with too few, and LostProcessError, on leaving,
    after a timeout in which one did not answer."""
    own = _own_device(device)
    on_gpu = own.type == "cuda"
    backend, index = ("cpu:gloo,cuda:nccl", own) if on_gpu else ("gloo", None)
    limit = timedelta(seconds=timeout) if timeout else None
    with process_group(backend, timeout=limit, device_id=index) as group:
        if group.world_size == 1:
            yield World(device=own)
            return
        seconds = timeout or (NCCL_TIMEOUT if on_gpu else default_pg_timeout.total_seconds())
        with Presence(group, seconds, reports=on_gpu) as presence:
            yield World(group.rank, group.world_size, presence.gather, own, presence=presence)


def _own_device(device: str) -> torch.device:
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    if device == "cuda" and not gpus:
        raise ValueError("this recipe needs a GPU, and there is none; --set compute.device=cpu")
    if not gpus:
        return _CPU
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= gpus:
        raise ValueError(f"process {local_rank} of this machine has no GPU: there are {gpus}")
    own = torch.device("cuda", local_rank)
    torch.cuda.set_device(own)
    return own


def make_gather(world: World, gradient: str, *, narrow: bool = False) -> Gather:
    """Return the `Gather` of a world; `gradient` is that of `OptimConfig`, `narrow` rounds features
    and their gradients to bfloat16."""
    if world.world_size == 1:
        return gather_locally
    return _GatherFromAll(world, 1.0 if gradient == "true" else 1.0 / world.world_size, narrow)


def mean_over_processes(values: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes: one all-reduce."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def broadcast(world: World, state: Any) -> Any:
    """Return the first process's nested state in all processes: objects at once, and tensors one by
    one, so that a device holds one of them at a time."""
    if world.world_size == 1:
        return state
    outline = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), state)
    leaves, structure = tree_flatten(world.gather(outline)[0])
    own = tree_leaves(state) if world.rank == 0 else leaves
    for number, leaf in enumerate(own):
        if isinstance(leaf, Tensor):
            sent = torch.empty_like(leaf, device=world.device) if leaf.is_meta else leaf
            sent = sent.to(world.device).contiguous()
            dist.broadcast(sent, 0)
            leaves[number] = sent.to(_CPU)
    return tree_unflatten(leaves, structure)


def require_agreement(world: World, step: int, *models: nn.Module) -> None:
    """Raise RuntimeError in all processes where one is at another step or has other weights."""
    sums = [_checksum(tensor) for model in models for tensor in model.state_dict().values()]
    found = world.gather((step, int(torch.stack(sums).sum()) % 2**64))
    if other := next((rank for rank, own in enumerate(found) if own != found[0]), None):
        (first_step, first), (other_step, weights) = found[0], found[other]
        raise RuntimeError(
            f"processes would train different models: process 0 is at step {first_step} with "
            f"weights {first:016x}, process {other} at step {other_step} with weights "
            f"{weights:016x}; use the same packages on all machines"
        )


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor of which processes may hold shards: all of them call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _checksum(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor's bits, as whole numbers."""
    kind = torch.int32 if tensor.element_size() % 4 == 0 else torch.uint8
    return whole(tensor.detach()).flatten().view(kind).sum(dtype=torch.int64)


@dataclass(frozen=True)
class _GatherFromAll(Gather):
    """Gather all features at once, packed as rows of samples; backward is one reduce-scatter. The
    released models gathered without gradient, with the whole loss in every process: under DDP,
    features have the true gradient divided by the number of processes, scales the undivided one."""

    world: World
    factor: float
    narrow: bool = False

    def __call__(self, tensors: Sequence[Tensor]) -> list[Gathered]:
        local = torch.cat([tensor.transpose(0, 1).flatten(1) for tensor in tensors], dim=1)
        if self.factor != 1.0 and local.requires_grad:
            local.register_hook(lambda gradient: gradient * self.factor)
        if self.narrow:  # also this process's own: a sample's logits must be alike everywhere
            local = local.bfloat16()
        everywhere = _AllGather.apply(local)
        offset = self.world.rank * len(local)
        pairs = zip(_unpack(local, tensors), _unpack(everywhere, tensors), strict=True)
        exact = replace(self, factor=1.0, narrow=False)
        return [Gathered(own, all_, offset, exact) for own, all_ in pairs]

    def mean(self, tensor: Tensor) -> Tensor:
        return mean_over_processes(tensor.detach())


def _unpack(rows: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Split rows (C, sum of V_i * D_i) into (V_i, C, D_i) for each of `like` (V_i, B, D_i)."""
    shapes = [(tensor.shape[0], tensor.shape[2]) for tensor in like]
    pieces = rows.split([views * width for views, width in shapes], dim=1)
    return [p.unflatten(1, s).transpose(0, 1) for p, s in zip(pieces, shapes, strict=True)]


class _AllGather(torch.autograd.Function):
    """Gather rows (B, X) of W processes -> (W * B, X); the gradient is summed over processes."""

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
