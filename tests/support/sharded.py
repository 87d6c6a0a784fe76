"""Steps of a sharded training in tests, for processes that are started together."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from typing import Any

from support.training import METHODS, double_precision, share, tiny_config, tiny_views
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only

from cosmos_core.engine.build import make_training
from cosmos_core.engine.distributed import World, make_gather
from cosmos_core.engine.sharding import (
    load_optimizer,
    load_weights,
    whole_optimizer,
    whole_weights,
)
from cosmos_core.engine.step import Training, train_step

State = dict[str, Any]


def steps(
    world: World, parallel: str, name: str, parts: int = 1, count: int = 6, state: bytes = b""
) -> tuple[list[dict[str, float]], State, float]:
    """What `count` steps report, the whole state after them, and the share of the weights that this
    process holds. `state`, pickled, is where they start."""
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    with double_precision():  # else AdamW enlarges the rounding of gradients that are zero
        return _steps(world, parallel, name, parts, count, pickle.loads(state) if state else None)


def _steps(
    world: World, parallel: str, name: str, parts: int, count: int, state: Any
) -> tuple[list[dict[str, float]], State, float]:
    method = METHODS[name]
    config = replace(tiny_config(method, accumulate=parts), parallel=parallel)
    training, gather = make_training(config, world), make_gather(world, "true")
    if state is not None:
        load_weights(training.model, state["student"])
        load_weights(training.teacher, state["teacher"])
        load_optimizer(training.optimizer, state["optimizer"])
    first = 0 if state is None else state["step"]
    reports = []
    for step in range(first, first + count):
        views = share(tiny_views(method, seed=step), world)
        report = train_step(training, views, gather, momentum=0.9, parts=parts, clip_norm=1.0)
        reports.append(report.check())
    return reports, {**_state(training), "step": first + count}, _held(training)


def runs(world: World, cases: list[tuple[Any, ...]]) -> list[Any]:
    """`steps` of each case."""
    return [steps(world, *case) for case in cases]


def _state(training: Training) -> State:
    state = {
        "student": whole_weights(training.model),
        "teacher": whole_weights(training.teacher),
        "optimizer": whole_optimizer(training.optimizer, training.model),
    }
    return tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), state)


def _held(training: Training) -> float:
    parameters = list(training.model.parameters())
    own = [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
    return sum(p.numel() for p in own) / sum(p.numel() for p in parameters)
