"""The training loop: batches in; snapshots, a checkpoint and a log out."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cosmos_core.config import TrainConfig
from cosmos_core.data.loading import make_loader
from cosmos_core.data.samples import Batch, ProblemCounter, Tokenizer
from cosmos_core.engine.build import learning_rate, make_training, teacher_momentum
from cosmos_core.engine.distributed import World, gather_objects, make_gather, wait_for_all
from cosmos_core.engine.evaluate import Evaluator, evaluate
from cosmos_core.engine.pictures import RunPictures
from cosmos_core.engine.signals import StopRequest, StopWaiting
from cosmos_core.engine.snapshot import (
    CHECKPOINT,
    Best,
    Snapshots,
    find_state,
    load_training,
    random_state,
    reading,
    restore_random_state,
    training_state,
)
from cosmos_core.engine.step import normalise, train_step
from cosmos_core.engine.watch import Watch
from cosmos_core.model.build import model_config
from cosmos_core.model.checkpoint import save_checkpoint
from cosmos_core.plots.views import Decoder, Inverse
from cosmos_core.types import Views


class Setting(NamedTuple):
    """What a run needs besides its configuration.

    `tokenizer` maps texts to (N, S) token ids and `decode` leads back, for pictures; `mean` and
    `std` normalise images on the 0-1 scale; `command` is recorded beside the weights; `evaluator`
    measures checkpoints.
    """

    tokenizer: Tokenizer
    decode: Decoder
    mean: Sequence[float]
    std: Sequence[float]
    output: Path
    command: str
    world: World
    evaluator: Evaluator | None = None


class Outcome(NamedTuple):
    """How a run ended: steps done, of how many, and the checkpoint."""

    steps: int
    of: int
    checkpoint: Path


class Trainer:
    """Trains one configuration, from the start or from its newest snapshot.

    Raises SnapshotError where the output folder holds a run that is not to be resumed, or `resume`
    finds none or another recipe's.
    """

    def __init__(self, config: TrainConfig, setting: Setting, *, resume: bool = False) -> None:
        self._config, self._setting, self._world = config, setting, setting.world
        self._snapshots = Snapshots(setting.output, config.save.keep)
        state = find_state(self._snapshots, setting.output, config, resume=resume)
        self._training = make_training(config, self._world)
        self._gather = make_gather(self._world, config.optim.gradient)
        self._problems = ProblemCounter(config.data.max_bad)
        self._mean = torch.tensor(setting.mean, device=self._world.device)
        self._std = torch.tensor(setting.std, device=self._world.device)
        self._done, self._seconds, self._random = 0, 0.0, random_state()
        self._saved: int | None = None  # steps of the newest snapshot
        if state is not None:
            self._resume(state)

    def run(self, shards: str) -> Outcome:
        """Train on `shards` to the end, or until a signal asks to stop.

        Raises FloatingPointError, with the step and the term, where a loss is not finite, and
        ValueError where too many samples are bad.
        """
        self._setting.output.mkdir(parents=True, exist_ok=True)
        start = time.monotonic() - self._seconds
        with (
            StopRequest(self._world) as stop,
            self._watch() as watch,
            self._pictures(watch) as pictures,
        ):
            for batch in self._batches(shards, watch, stop):
                views = self._views(batch)
                pictures.batch(views)
                watch.step(self._done, self._step(views))
                self._done, self._seconds = self._done + 1, time.monotonic() - start
                if self._due(self._config.save.every) or self._evaluates():
                    self._save()
                if self._evaluates():
                    self._evaluate(watch)
                if self._saved == self._done:
                    pictures.curves()
            if self._saved != self._done:  # also before the first step, so that it can go on
                self._save()
        return Outcome(self._done, self._config.optim.steps, self._setting.output / CHECKPOINT)

    def _resume(self, state: Mapping[str, Any]) -> None:
        load_training(self._training, state)
        with reading(state, "problems"):
            self._problems.load(state["problems"])
        with reading(state, "random"):
            self._random = state["random"][self._world.rank % len(state["random"])]
            restore_random_state(self._random)
        with reading(state, "seconds"):
            self._seconds = float(state["seconds"])
        self._saved = self._done = state["step"]

    def _watch(self) -> Watch:
        output, world = self._setting.output, self._world
        return Watch(self._config, output, rank=world.rank, first_step=self._done)

    def _pictures(self, watch: Watch) -> RunPictures:
        setting, rank = self._setting, self._world.rank
        inverse = Inverse(setting.mean, setting.std, setting.decode)
        return RunPictures(
            self._config, setting.output, watch, inverse, rank=rank, first_step=self._done
        )

    def _batches(self, shards: str, watch: Watch, stop: StopRequest) -> Iterator[Batch]:
        """The batches from here on, until a process is asked to stop."""
        config, world = self._config, self._world
        batches: Iterator[Batch] = iter(())
        with suppress(StopWaiting), stop.interrupting():
            loader = make_loader(
                replace(config, data=replace(config.data, shards=shards)),
                self._setting.tokenizer,
                rank=world.rank,
                world_size=world.size,
                first_step=self._done,
            )
            batches = iter(loader)
        restore_random_state(self._random)  # a loader may draw from the generators as it starts
        while self._done < config.optim.steps:
            with watch.waiting():
                batch = _next(batches, stop)
            if stop.agreed() or batch is None:
                return
            yield batch

    def _views(self, batch: Batch) -> Views:
        """A batch as the model gets it: on this process's device, normalised."""
        self._problems.add(batch.problems, seen=batch.views.texts.shape[1])
        views = Views(*(tensor.to(self._world.device, non_blocking=True) for tensor in batch.views))
        return normalise(views, self._mean, self._std)

    def _step(self, views: Views) -> dict[str, float]:
        optim, compute, step = self._config.optim, self._config.compute, self._done
        lr = learning_rate(step, peak=optim.lr, warmup_steps=optim.warmup_steps, steps=optim.steps)
        momentum = teacher_momentum(
            step, momentum=optim.momentum, steps=optim.steps, ramp=optim.momentum_ramp
        )
        for group in self._training.optimizer.param_groups:
            group["lr"] = lr
        try:
            report = train_step(
                self._training,
                views,
                self._gather,
                momentum=momentum,
                precision=compute.precision,
                parts=compute.accumulate,
                clip_norm=optim.clip_norm,
            )
        except FloatingPointError as error:
            raise FloatingPointError(f"step {step}: {error}; nothing was updated") from error
        return {
            "samples_seen": (step + 1) * optim.batch_size,
            "lr": lr,
            **report.terms,
            "total": sum(report.terms.values()),
            **_scales(self._training.model),
            "momentum": momentum,
            "gradient_norm": report.gradient_norm,
            "bad_samples": self._problems.bad,
        }

    def _due(self, every: int) -> bool:
        return every > 0 and (self._done % every == 0 or self._done == self._config.optim.steps)

    def _evaluates(self) -> bool:
        return self._setting.evaluator is not None and self._due(self._config.watch.evaluate_every)

    def _evaluate(self, watch: Watch) -> None:
        """Measure the checkpoint just written, and keep its snapshot if it is the best."""
        assert self._setting.evaluator is not None
        metrics = evaluate(
            self._setting.evaluator,
            self._setting.output / CHECKPOINT,
            self._config.watch,
            self._world,
        )
        watch.evaluation(self._done - 1, metrics)
        name, best = self._config.save.best, self._snapshots.best()
        if not name or self._world.rank != 0:
            return
        if name not in metrics:
            raise ValueError(f"save.best names {name}, not among {', '.join(sorted(metrics))}")
        if best is None or metrics[name] > best.value:
            self._snapshots.note_best(Best(self._done, metrics[name]))

    def _save(self) -> None:
        """A snapshot of all processes and a checkpoint of the weights, written by the first."""
        randoms = gather_objects(random_state())
        if self._world.rank == 0:
            state = {
                **training_state(self._training, self._config),
                "random": randoms,
                "problems": self._problems.state(),
                "seconds": self._seconds,
            }
            self._snapshots.save(self._done, state)
            self._save_checkpoint()
        wait_for_all()
        self._saved = self._done

    def _save_checkpoint(self) -> None:
        config, training = self._config, self._training
        card = training_card(
            config,
            self._setting.command,
            steps=self._done,
            seconds=self._seconds,
            processes=self._world.size,
        )
        save_checkpoint(
            self._setting.output / CHECKPOINT,
            {"student": training.model, "teacher": training.teacher},
            config.method.name,
            model_config(config.architecture),
            card,
        )


def _next(batches: Iterator[Batch], stop: StopRequest) -> Batch | None:
    """The next batch; None where a signal that asks to stop comes first, or loaders died of it."""
    try:
        with stop.interrupting():
            return next(batches)
    except StopWaiting:
        return None
    except ChildProcessError:
        if stop.requested:
            return None
        raise


def _scales(model: nn.Module) -> dict[str, float]:
    names = ("logit_scale", "distill_logit_scale")
    return {name: getattr(model, name).exp().item() for name in names if hasattr(model, name)}


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
