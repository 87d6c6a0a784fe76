"""What must be known of a set of weights."""

from __future__ import annotations

import subprocess
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from cosmos_core.config import TrainConfig


def training_card(
    config: TrainConfig, command: str, *, steps: int, seconds: float, processes: int
) -> dict[str, Any]:
    """Command, seed, commit, duration and samples seen of a run that is `steps` steps old."""
    return {
        "command": command,
        "commit": code_commit(),
        "config": asdict(config),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processes": processes,
        "samples_seen": steps * config.optim.batch_size,
        "seconds": round(seconds, 1),
        "seed": config.seed,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def code_commit() -> str | None:
    """The commit of this checkout, `-dirty` where it differs from it; None outside one."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or None
