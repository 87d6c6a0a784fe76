"""Runs of the trainer in several processes that one of them disturbs."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from support.forked import train_in_process
from support.training import METHODS, tiny_config
from torch import Tensor
from torch.distributed.tensor import DTensor

from cosmos_core.config import ModelConfig, TrainConfig
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_core.engine import lock, snapshot, trainer
from cosmos_core.engine.build import make_training
from cosmos_core.engine.distributed import (
    World,
    join_world,
    require_agreement,
)
from cosmos_core.engine.lock import locked
from cosmos_core.engine.presence import LostProcessError, Presence
from cosmos_core.engine.trainer import Setting, Trainer
from cosmos_core.plots.views import Inverse
from cosmos_core.recipes import RECIPES
from cosmos_core.recipes.overrides import override

SHORT = (
    *("optim.batch_size=4", "optim.steps=3", "data.workers=0", "save.every=1"),
    *("watch.pictures=false", "watch.log_every=1"),
)


def setting_of(world: World, output: Path) -> Setting:
    tokenizer = scenes_tokenizer()
    inverse = Inverse((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), tokenizer.decode)
    return Setting(tokenizer, inverse, output, "cosmos-train scenes_clip", world)


def short_config(*settings: str) -> TrainConfig:
    return override(RECIPES["scenes_clip"](), [*SHORT, *settings])


def one_cannot_read(world: World, output: Path, shards: str) -> tuple[int, bool]:
    """Train three steps, and the last again from a snapshot that only the first process can read.
    Returns the step of the resumed run at its start, and whether its weights are the same."""
    config, setting = short_config(), setting_of(world, output)
    uninterrupted = Trainer(config, setting)
    uninterrupted.run(shards)
    world.main_process_only((output / "snapshots" / "step-00000003.pt").unlink)
    with patch.object(zipfile, "ZipFile", _zip_file(world.rank)):
        resumed = Trainer(config, setting, resume=True)
    start = resumed._steps_done
    resumed.run(shards)
    pairs = zip(_parameters(resumed), _parameters(uninterrupted), strict=True)
    return start, all(torch.equal(*pair) for pair in pairs)


def _zip_file(rank: int) -> Callable[..., zipfile.ZipFile]:
    def opened(path: object, *arguments: Any, **options: Any) -> zipfile.ZipFile:
        if rank and str(path).endswith("step-00000002.pt"):
            raise OSError("Stale file handle")
        return real(path, *arguments, **options)

    real: Any = zipfile.ZipFile
    return opened


def _parameters(trainer: Trainer) -> list[Tensor]:
    return [*trainer._training.model.parameters(), *trainer._training.teacher.parameters()]


def one_has_other_weights(world: World) -> str:
    """Return the error that is raised if the processes draw their weights from different seeds."""
    torch.manual_seed(world.rank)
    try:
        require_agreement(world, 3, torch.nn.Linear(2, 2))
    except RuntimeError as error:
        return str(error)
    return ""


def stay_before_the_checkpoint(arguments: list[str]) -> None:
    """Run `cosmos-train`, which waits with the checkpoint of a number of steps, to be killed: it
    makes the file `marker` once the snapshot of these steps is there."""
    marker, steps, *words = arguments
    write = trainer.write_weights

    def write_or_stay(path: Path, tensors: Any, metadata: dict[str, str]) -> None:
        if json.loads(metadata["training"])["steps"] == int(steps):
            Path(marker).touch()
            threading.Event().wait()
        write(path, tensors, metadata)

    with patch.object(trainer, "write_weights", write_or_stay):
        train_in_process(words)


def divided_state(value: float) -> dict[str, Any]:
    """Return a state whose large tensors a sharded snapshot stores in files of their own."""
    moments = {0: {"step": torch.tensor(float(value)), "exp_avg": torch.zeros(100, 100)}}
    return {
        "student": _weights_of(value + 0.25),
        "teacher": _weights_of(value + 0.5),
        "optimizer": {"state": moments, "param_groups": [{"lr": 0.5}]},
        "random": [7],
    }


def _weights_of(value: float) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((100, 100), value), "scale": torch.tensor(value)}


def stay_in_a_snapshot(output: Path, ready: Any) -> None:
    """Write a sharded snapshot of one process, and wait before it is complete, to be killed."""

    def wait_for_a_signal(folder: Path, state: Any) -> None:
        ready.put(folder.name)
        signal.pause()

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    snapshots, world = snapshot.Snapshots(output, keep=3), World().in_background()
    with patch.object(snapshot, "_write_state_file", wait_for_a_signal):
        snapshots.save_sharded(3, divided_state(3), {}, world)


def save_one(output: Path) -> None:
    """Write a snapshot of step 3, as the next run would."""
    snapshot.Snapshots(output, keep=3).save(3, {})


def train(world: World, output: Path, shards: str, *settings: str) -> dict[str, Tensor]:
    """Train to the end, from the newest snapshot where there is one; return this process's part of
    the weights."""
    resume = bool(snapshot.Snapshots(output, keep=1).steps())
    trainer = Trainer(short_config(*settings), setting_of(world, output), resume=resume)
    trainer.run(shards)
    return {
        key: local(value.detach()) for key, value in trainer._models["student"].state_dict().items()
    }


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def hold(output: Path, ready: Any) -> None:
    """Hold the lock of an output folder until this process is killed."""
    with locked(output):
        ready.put(os.getpid())
        signal.pause()


def hold_elsewhere(output: Path, ready: Any) -> None:
    """Hold the lock as a process of another machine, on a file system whose locks hold on one
    machine, and renew it a hundred times a second."""
    with (
        patch.object(lock, "HEARTBEAT", 0.01),
        patch.object(lock.platform, "node", return_value="node7"),
        patch.object(lock, "_take_system_lock", return_value=None),
        locked(output),
    ):
        ready.put(os.getpid())
        signal.pause()


def dropped_patches(world: World) -> Tensor:
    """The patches that a process keeps of an image at its first step."""
    config = replace(tiny_config(METHODS["clip"]), model=ModelConfig(patch_dropout=0.5))
    dropout = make_training(config, world).model.visual.patch_dropout
    return dropout(torch.arange(17.0).reshape(1, 17, 1)).flatten()


def draw_after_resuming(world: World, output: Path) -> Tensor:
    """Return what a process draws first after it has resumed."""
    Trainer(short_config(), setting_of(world, output), resume=True)
    return torch.rand(9)


def refusal_of_resuming(world: World, output: Path, *settings: str) -> str:
    """Return the error that is raised if the processes resume."""
    try:
        Trainer(short_config(*settings), setting_of(world, output), resume=True)
    except snapshot.SnapshotError as error:
        return str(error)
    return ""


def late() -> str:
    """Return the error of the first process if the other one comes later than the timeout."""
    try:
        with join_world("cpu", timeout=1.0) as world:
            if world.rank:
                time.sleep(3)
            else:
                world.gather(None)
    except LostProcessError as error:
        return str(error)
    return "it waited"


def reported(world: World) -> list[str]:
    """Return what the first process logs when it has waited for nearly as long as a limit."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logging.getLogger(Presence.__module__).addHandler(Collector())
    with Presence(world, 1.0, reports=True) as presence:
        if world.rank == 0:
            presence.enter()
            while not messages:
                time.sleep(0.01)
        world.gather(None)
    return messages
