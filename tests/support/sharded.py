"""Steps of a sharded training in tests, for processes that are started together."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from support.training import METHODS, double_precision, share, tiny_config, tiny_views
from torch import Tensor
from torch.distributed.tensor import DTensor

from cosmos_core.config import ModelConfig
from cosmos_core.engine.build import make_training, unfreeze
from cosmos_core.engine.distributed import World, full_tensor, make_gather
from cosmos_core.engine.sharding import is_sharded, load_state, split_state
from cosmos_core.engine.snapshot import HostCopy, Snapshots
from cosmos_core.engine.step import Training, train_step

State = dict[str, Tensor]


def steps(
    world: World,
    parallel: str,
    name: str,
    parts: int = 1,
    count: int = 6,
    output: str = "",
    first: int = 0,
) -> tuple[list[dict[str, float]], State, float]:
    """Train for `count` steps.

    Return the reports of the steps, the gathered state after them, and the fraction of the weights
    that this process holds. The steps start from the snapshot of step `first` in `output` if it is
    not 0. Sharded processes write a snapshot to `output` at the end, if it is given.
    """
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    with double_precision():  # else AdamW enlarges the rounding of gradients that are zero
        method = METHODS[name]
        config = replace(tiny_config(method, accumulate=parts), parallel=parallel)
        training, gather = make_training(config, world), make_gather(world, "true")
        snapshots = Snapshots(Path(output), keep=1)
        if first:
            load_state(snapshots.newest(), _models(training), training.optimizer)
        reports = []
        for step in range(first, first + count):
            views = share(tiny_views(method, seed=step), world)
            report = train_step(
                training, views, gather, momentum=0.9, n_chunks=parts, clip_norm=1.0
            )
            reports.append(report.check())
        if output and is_sharded(config, world):
            state = HostCopy(_state(training)).state()
            snapshots.save_sharded(first + count, state, {}, world.in_background())
        whole_state = {
            key: full_tensor(value) for key, value in split_state(_state(training))[0].items()
        }
        return reports, {k: v.detach().clone() for k, v in whole_state.items()}, _held(training)


def runs(world: World, cases: list[tuple[Any, ...]]) -> list[Any]:
    """`steps` of each case."""
    return [steps(world, *case) for case in cases]


def frozen_steps(world: World, parallel: str, parts: int, frozen: ModelConfig) -> State:
    """The whole state after four steps of COSMOS, the tower being frozen as `frozen` says."""
    with double_precision():
        method = METHODS["cosmos"]
        config = replace(tiny_config(method, accumulate=parts), parallel=parallel, model=frozen)
        training, gather = make_training(config, world), make_gather(world, "true")
        for step in range(4):
            if training.frozen and step == frozen.freeze_steps:
                unfreeze(training, world)
            views = share(tiny_views(method, seed=step), world)
            train_step(training, views, gather, momentum=0.9, n_chunks=parts).check()
        tensors, _ = split_state(_state(training))
        return {key: full_tensor(tensor).detach().clone() for key, tensor in tensors.items()}


def frozen_runs(world: World, cases: list[tuple[Any, ...]]) -> list[State]:
    """`frozen_steps` of each case."""
    return [frozen_steps(world, *case) for case in cases]


def _models(training: Training) -> dict[str, Any]:
    return {"student": training.model, "teacher": training.teacher}


def _state(training: Training) -> dict[str, Any]:
    weights = {name: model.state_dict() for name, model in _models(training).items()}
    return {**weights, "optimizer": training.optimizer.state_dict()}


def _held(training: Training) -> float:
    parameters = list(training.model.parameters())
    local = [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
    return sum(p.numel() for p in local) / sum(p.numel() for p in parameters)
