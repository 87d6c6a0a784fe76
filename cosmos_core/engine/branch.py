"""Start a training from a snapshot of another one, to train it for another number of steps.

One training with a constant learning rate gives models for several budgets: each branch of it goes
on from one of its snapshots, and lets the learning rate fall to zero. A branch has the same weights
as a training with the same options that was not branched.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cosmos_core.config import OptimConfig, TrainConfig
from cosmos_core.engine import snapshot
from cosmos_core.engine.build import learning_rate, teacher_momentum
from cosmos_core.engine.snapshot import SnapshotError
from cosmos_core.model.sharded import read_state
from cosmos_core.utils.recipe import BUDGET

logger = logging.getLogger(__name__)


def read_start(path: Path, config: TrainConfig) -> dict[str, Any]:
    """Return the state in a snapshot from which a training starts.

    Args:
        path: The snapshot, such as runs/debug/snapshots/step-00000400.pt.
        config: The configuration of the training that starts.

    Returns:
        The values of the state by name, and the path of the snapshot under the key "path".

    Raises:
        SnapshotError: If the snapshot is missing or damaged, if its training differs in an option
            that is not in BUDGET, or if a step that it has done would have another learning rate
            now.
    """
    if not path.exists():
        raise SnapshotError(
            f"{path}: no such snapshot; --from takes a snapshot in RUN/{snapshot.SNAPSHOTS}"
        )
    try:
        state = read_state(path)
    except Exception as error:  # a truncated file raises errors of any kind
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise SnapshotError(f"{path}: not a whole snapshot ({reason})") from error
    missing_keys = [key for key in snapshot.REQUIRED_KEYS if key not in state]
    if state.get("format") != snapshot.FORMAT or missing_keys:
        raise SnapshotError(f"{path}: not a snapshot of this version of cosmos-train")

    difference = snapshot.describe_difference(state, config, allowed=BUDGET)
    if difference:
        raise SnapshotError(f"{path} cannot be branched: {difference}; set the same value")
    _require_same_schedule(path, state, config.optim)
    logger.info(f"goes on from {path}, after {state['step']} of {config.optim.steps} steps")
    state["path"] = str(path)
    return state


def _require_same_schedule(path: Path, state: Mapping[str, Any], optim: OptimConfig) -> None:
    """Check that the steps of a snapshot have the same schedules in its training and in a branch.

    Args:
        path: The path of the snapshot.
        state: The state in the snapshot. The options of its optimizer may differ from `optim` only
            in BUDGET.
        optim: The options of the branch.

    Raises:
        SnapshotError: If the learning rate or the momentum of the teacher differs in a step. The
            error names the first one.
    """
    stored = state["config"]["optim"]
    stored_optim = replace(
        optim,
        steps=stored["steps"],
        schedule=stored.get("schedule", OptimConfig.schedule),
        cooldown_steps=stored.get("cooldown_steps", OptimConfig.cooldown_steps),
    )
    if state["step"] > optim.steps:
        raise SnapshotError(f"{path}: has more steps than the run, {optim.steps}")
    for name, schedule, advice in (
        ("learning rate", learning_rate, "optim.schedule=constant or wsd before either cooldown"),
        ("momentum", teacher_momentum, "optim.momentum_ramp=false, or keep optim.steps"),
    ):
        for step in range(state["step"]):
            stored_value, value = schedule(step, stored_optim), schedule(step, optim)
            if stored_value != value:
                raise SnapshotError(
                    f"{path} cannot be branched: the {name} of step {step} was {stored_value!r} "
                    f"and would be {value!r}; branch a run of {advice}"
                )
