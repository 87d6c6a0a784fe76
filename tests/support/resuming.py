"""Runs of the trainer in several processes that one of them disturbs."""

from __future__ import annotations

import os
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from support.training import ARCHITECTURE, METHODS, VISION, tiny_config
from torch import Tensor

from cosmos_core.config import TrainConfig
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_core.engine.build import make_training
from cosmos_core.engine.distributed import World, join_world, require_agreement
from cosmos_core.engine.lock import locked
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
    whole = Trainer(config, setting)
    whole.run(shards)
    world.main_process_only((output / "snapshots" / "step-00000003.pt").unlink)
    with patch.object(zipfile, "ZipFile", _zip_file(world.rank)):
        resumed = Trainer(config, setting, resume=True)
    start = resumed._done
    resumed.run(shards)
    pairs = zip(_parameters(resumed), _parameters(whole), strict=True)
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
    """What is raised where the last process draws its weights from another seed."""
    torch.manual_seed(world.rank)
    try:
        require_agreement(world, 3, torch.nn.Linear(2, 2))
    except RuntimeError as error:
        return str(error)
    return ""


def hold(output: Path, ready: Any) -> None:
    """Hold the lock of an output folder until this process is killed."""
    with locked(output):
        ready.put(os.getpid())
        signal.pause()


def dropped_patches(world: World) -> Tensor:
    """The patches that a process keeps of an image at its first step."""
    vision = {**VISION, "patch_dropout": 0.5}
    config = tiny_config(METHODS["clip"], architecture={**ARCHITECTURE, "vision_cfg": vision})
    training = make_training(config, world)
    dropout = training.model.visual.patch_dropout.train()
    return dropout(torch.arange(17.0).reshape(1, 17, 1)).flatten()


def late() -> str:
    """What the first process raises where the other comes later than the timeout."""
    with join_world("cpu", timeout=1.0) as world:
        if world.rank:
            time.sleep(3)
            return ""
        try:
            world.gather(None)
        except RuntimeError as error:
            return str(error)
    return "it waited"
