"""The state of a run: everything that the next step depends on, so that it goes on exactly."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosmos_core.config import TrainConfig
from cosmos_core.engine.snapshot import SnapshotError, Snapshots
from cosmos_core.engine.step import Training

# What may differ between a run and its continuation: it does not change the weights.
FREE = ("data.workers", "save", "watch", "compute.checkpointing")

logger = logging.getLogger(__name__)


def find_state(
    snapshots: Snapshots, output: Path, config: TrainConfig, *, resume: bool
) -> dict[str, Any] | None:
    """The state to go on from; None for a new run.

    Raises SnapshotError where a new run would meet an older one in its folder, and where there is
    nothing to resume or it is another run's. Damaged snapshots are passed over with a warning.
    """
    steps = snapshots.steps()
    if not resume:
        if steps:
            raise SnapshotError(
                f"{output} holds a run of {steps[-1]} steps: go on with it by --resume, or choose "
                "another folder by --output"
            )
        return None
    state, warnings = snapshots.newest()
    for warning in warnings:
        logger.warning(warning)
    if state is None:
        raise SnapshotError(f"{output}: no whole snapshot to resume from")
    if different := _difference(state["config"], _plain(config)):
        raise SnapshotError(f"{output} holds another run: {different}")
    return state


def training_state(training: Training, config: TrainConfig) -> dict[str, Any]:
    """Weights, optimizer and configuration, of plain types and tensors."""
    return {
        "config": _plain(config),
        "student": training.model.state_dict(),
        "teacher": training.teacher.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "scaler": training.scaler.state_dict(),
    }


def load_training(training: Training, state: Mapping[str, Any]) -> None:
    """Put what `training_state` took back in its place."""
    training.model.load_state_dict(state["student"])
    training.teacher.load_state_dict(state["teacher"])
    training.optimizer.load_state_dict(state["optimizer"])
    training.scaler.load_state_dict(state["scaler"])


def random_state() -> dict[str, Any]:
    """The state of every random generator of this process, of plain types and tensors."""
    name, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set every generator as `random_state` found it."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _plain(config: TrainConfig) -> dict[str, Any]:
    """A configuration of JSON's types: tuples as lists."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def _difference(kept: Any, wanted: Any, name: str = "") -> str | None:
    """The first field in which two configurations differ and that changes the weights."""
    if name.startswith(FREE):
        return None
    if not (isinstance(kept, dict) and isinstance(wanted, dict)):
        return None if kept == wanted else f"{name} is {kept!r} there and {wanted!r} here"
    for key in sorted(kept.keys() | wanted.keys()):
        inner = _difference(kept.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
        if inner:
            return inner
    return None
