"""The training loop: batches in, a checkpoint and a log out."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cosmos_core.config import TrainConfig
from cosmos_core.data.shards import BatchOrder, Tokenizer, ViewDataset, index_shards, view_loader
from cosmos_core.engine.distributed import World, make_gather
from cosmos_core.engine.optim import learning_rate, param_groups
from cosmos_core.engine.progress import TrainProgress
from cosmos_core.engine.step import Student, Training, normalise, train_step
from cosmos_core.model.build import model_config
from cosmos_core.model.checkpoint import save_checkpoint
from cosmos_core.model.teacher import create_teacher
from cosmos_core.types import Views
from cosmos_core.views.image import MultiCrop

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"


class Trained(NamedTuple):
    """What a finished run leaves: its checkpoint and what its card says of it."""

    checkpoint: Path
    card: dict[str, Any]


class Trainer:
    """Trains one configuration on local shards.

    `tokenizer` maps texts to (N, S) token ids; `mean` and `std` normalise images on the 0-1
    scale; `command` is recorded beside the weights.
    """

    def __init__(
        self,
        config: TrainConfig,
        shards: Sequence[Path],
        tokenizer: Tokenizer,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        output: Path,
        command: str,
        world: World,
    ) -> None:
        self._config, self._output, self._command = config, output, command
        self._mean, self._std = torch.tensor(mean), torch.tensor(std)
        self._training = make_training(config)
        self._gather = make_gather(world, config.optim.gradient)
        self._loader = make_loader(config, shards, tokenizer)

    def run(self) -> Trained:
        """Train to the end; the checkpoint is rewritten, whole, every `save_every` steps."""
        steps, every = self._config.optim.steps, self._config.watch.log_every
        self._output.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        with (
            TrainProgress(self._config.recipe, steps, self._config.optim.batch_size) as progress,
            (self._output / LOG).open("w", encoding="utf-8") as log,
        ):
            for step, views in enumerate(self._loader):
                record = self._step(step, views)
                progress.update(step + 1, record)
                if step % every == 0 or step == steps - 1:
                    log.write(json.dumps(record) + "\n")
                    log.flush()
                if (step + 1) % self._config.save.every == 0 or step == steps - 1:
                    card = self._save(step + 1, time.monotonic() - start)
        return Trained(self._output / CHECKPOINT, card)

    def _step(self, step: int, views: Views) -> dict[str, float]:
        optim, compute = self._config.optim, self._config.compute
        lr = learning_rate(step, peak=optim.lr, warmup_steps=optim.warmup_steps, steps=optim.steps)
        for group in self._training.optimizer.param_groups:
            group["lr"] = lr
        report = train_step(
            self._training,
            normalise(views, self._mean, self._std),
            self._gather,
            momentum=optim.momentum,
            precision=compute.precision,
            parts=compute.accumulate,
            clip_norm=optim.clip_norm,
        )
        return {
            "step": step,
            "lr": lr,
            **report.terms,
            "gradient_norm": report.gradient_norm,
            "logit_scale": self._training.model.get_parameter("logit_scale").exp().item(),
        }

    def _save(self, steps: int, seconds: float) -> dict[str, Any]:
        card = training_card(self._config, self._command, steps, seconds)
        models = {"student": self._training.model, "teacher": self._training.teacher}
        name, architecture = self._config.method.name, model_config(self._config.architecture)
        save_checkpoint(self._output / CHECKPOINT, models, name, architecture, card)
        return card


def training_card(config: TrainConfig, command: str, steps: int, seconds: float) -> dict[str, Any]:
    """What must be known of a set of weights: command, seed, commit, duration, samples seen."""
    return {
        "command": command,
        "commit": code_commit(),
        "config": asdict(config),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
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


def make_training(config: TrainConfig) -> Training:
    """Student, teacher and optimizer of a configuration, freshly initialised from its seed."""
    torch.manual_seed(config.seed)
    model = config.method.create_student(config.architecture)
    teacher = create_teacher(model)
    optimizer = make_optimizer(model, config)
    scaler = torch.amp.GradScaler("cpu", enabled=config.compute.precision == "fp16")
    return Training(config.method, model, Student(config.method, model), teacher, optimizer, scaler)


def make_optimizer(student: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW with the recipe's constants."""
    optim = config.optim
    groups = param_groups(student, optim.weight_decay)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True)


def make_loader(
    config: TrainConfig, shards: Sequence[Path], tokenizer: Tokenizer
) -> torch.utils.data.DataLoader[Views]:
    """All batches of a run, in order."""
    samples = index_shards(shards)
    counts = config.method.counts
    crops = MultiCrop(config.image, counts)
    dataset = ViewDataset(samples, crops, config.text, tokenizer, counts=counts, seed=config.seed)
    optim = config.optim
    order = BatchOrder(len(samples), optim.batch_size, optim.steps, config.seed)
    return view_loader(dataset, order, config.data.workers)
