"""The state of a run: everything that the next step depends on, so that it goes on exactly."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosmos_core.config import TrainConfig
from cosmos_core.engine.log import LOG
from cosmos_core.engine.snapshot import CHECKPOINT, SnapshotError, Snapshots
from cosmos_core.engine.step import Training

# What may differ between a run and its continuation: it does not change the weights.
FREE = ("data.workers", "save", "watch", "compute.checkpointing")

# What `training_state` and the trainer put into a snapshot.
PARTS = (
    *("config", "student", "teacher", "optimizer", "scaler"),
    *("step", "random", "problems", "seconds"),
)

logger = logging.getLogger(__name__)


def find_state(
    snapshots: Snapshots, output: Path, config: TrainConfig, *, resume: bool
) -> dict[str, Any] | None:
    """The state to go on from; None for a new run.

    Raises SnapshotError where a new run would meet an older one in its folder, and where there is
    nothing to resume or it is another run's. Damaged snapshots are passed over with a warning.
    """
    if not resume:
        _require_unused(snapshots, output)
        return None
    state, warnings = snapshots.newest(PARTS)
    for warning in warnings:
        logger.warning(warning)
    if state is None:
        raise SnapshotError(f"{output}: no whole snapshot to resume from")
    if different := _difference(state["config"], _plain(config)):
        raise SnapshotError(f"{output} holds another run: {different}")
    return state


def _require_unused(snapshots: Snapshots, output: Path) -> None:
    """Raise SnapshotError where the folder holds what a run wrote and a new one would replace."""
    if steps := snapshots.steps():
        raise SnapshotError(
            f"{output} holds a run of {steps[-1]} steps: go on with it by --resume, or choose "
            "another folder by --output"
        )
    files = (output / name for name in (CHECKPOINT, LOG))
    if found := [path.name for path in files if path.exists() and path.stat().st_size]:
        raise SnapshotError(
            f"{output} holds {' and '.join(found)} of a run without a snapshot to resume: choose "
            "another folder by --output, or remove what is not needed"
        )


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
    """Put what `training_state` took back in its place. SnapshotError where it does not fit."""
    for name, part in (
        ("student", training.model),
        ("teacher", training.teacher),
        ("optimizer", training.optimizer),
        ("scaler", training.scaler),
    ):
        with reading(state, name):
            part.load_state_dict(state[name])


@contextmanager
def reading(state: Mapping[str, Any], part: str) -> Iterator[None]:
    """Raise SnapshotError for whatever the content of a part leads to in the block."""
    try:
        yield
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise SnapshotError(
            f"the snapshot of step {state['step']} cannot be resumed from ({part}: {reason:.200}); "
            "remove it, and --resume goes on from the one before"
        ) from error


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
