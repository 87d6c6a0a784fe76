"""The training loop: batches in; snapshots, a checkpoint and a log out."""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

from cosmos_core.config import TrainConfig
from cosmos_core.data.index import SampleIndex
from cosmos_core.data.loading import make_loader, stream_workers
from cosmos_core.data.samples import Batch, ProblemCounter, StreamPosition, Tokenizer
from cosmos_core.data.shards import parse_shards
from cosmos_core.data.stream import pack_positions, resumed_positions
from cosmos_core.engine import snapshot
from cosmos_core.engine.build import learning_rate, make_training, teacher_momentum
from cosmos_core.engine.distributed import (
    World,
    broadcast,
    make_gather,
    mean_over_processes,
    require_agreement,
)
from cosmos_core.engine.evaluate import Evaluator, evaluate
from cosmos_core.engine.flops import sample_flops
from cosmos_core.engine.remote import Remote
from cosmos_core.engine.sharding import is_sharded, load_state, require_finite
from cosmos_core.engine.step import StepReport, normalise, train_step
from cosmos_core.engine.trace import Trace
from cosmos_core.engine.watch import RunPictures, Watch
from cosmos_core.model.build import model_config
from cosmos_core.model.checkpoint import CHECKPOINT, describe, trained_steps, write_weights
from cosmos_core.model.pretrained import Audit
from cosmos_core.model.sharded import read_weights
from cosmos_core.plots.views import Inverse
from cosmos_core.types import Views
from cosmos_core.utils.environment import CodeState, code_state, utc_now
from cosmos_core.utils.files import write_atomically
from cosmos_core.utils.recipe import training_identity

INIT = "init.json"  # in the output folder: keys of pretrained weights
logger = logging.getLogger(__name__)
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
REPEATED = 2.0  # seconds in which a signal may come again by torchrun


class Setting(NamedTuple):
    """What a run needs besides its configuration."""

    tokenizer: Tokenizer
    inverse: Inverse  # of images and captions, for pictures
    output: Path
    command: str  # stored beside the weights
    world: World
    evaluator: Evaluator | None = None


class _Pending(NamedTuple):
    """A step that the device may still compute, and the settings in its log line."""

    step: int
    settings: dict[str, float]
    report: StepReport


class Trainer:
    """Trains from the start or the newest snapshot. Raises SnapshotError for an unfit folder."""

    def __init__(self, config: TrainConfig, setting: Setting, *, resume: bool = False) -> None:
        self._config, self._setting, self._world = config, setting, setting.world
        self._checkpoint = setting.output / CHECKPOINT
        self._snapshots = snapshot.Snapshots(setting.output, config.save.keep)
        # One process reads: another may find other snapshots, or fail to read the newest.
        state = self._world.main_process_only(
            lambda: snapshot.find_state(self._snapshots, setting.output, config, resume=resume)
        )
        state = broadcast(self._world, state)
        self._training = make_training(config, self._world, pretrained=state is None)
        self._models = {"student": self._training.model, "teacher": self._training.teacher}
        sharded = is_sharded(config, self._world)
        self._background = self._world.in_background() if sharded else None
        self._audit = self._training.audit
        self._init_sha256 = self._audit.sha256 if self._audit else None
        narrow = config.compute.gather_bf16
        self._gather = make_gather(self._world, config.optim.gradient, narrow=narrow)
        self._problems = ProblemCounter(config.data.max_bad)
        scale = (torch.tensor(values, device=self._world.device) for values in setting.inverse[:2])
        self._mean, self._std = scale
        self._done, self._seconds, self._random = 0, 0.0, snapshot.random_state()
        self._saved: int | None = None  # steps of the newest snapshot
        self._copied: snapshot.HostCopy | None = None  # of that step
        self._flops: float | None = None  # of a sample
        self._pending: _Pending | None = None
        self._writer, self._written = ThreadPoolExecutor(1), Future[None]()
        self._written.set_result(None)
        self._remote: Remote | None = None  # in the first process, where snapshots are copied
        self._data_sha256: str | None = None
        self._data: list[list[Any]] | None = None  # fingerprint of local shards
        self._positions: dict[int, StreamPosition] = {}  # of this process's workers, by lane
        if state is not None:
            self._resume(state)
        require_agreement(self._world, self._done, *self._models.values())

    def run(self, shards: str) -> int:
        """Train on `shards` to the end, or until a signal asks to stop; return the steps done.
        Raises FloatingPointError for losses that are not finite, ValueError for bad samples."""
        config, setting, world = self._config, self._setting, self._world
        setting.output.mkdir(parents=True, exist_ok=True)
        if self._audit is not None and world.rank == 0:
            self._report_start(self._audit)
        self._data_sha256 = parse_shards(replace(config.data, shards=shards)).fingerprint
        start = time.monotonic() - self._seconds
        watch = Watch(config, setting.output, world, first_step=self._done)
        pictures = RunPictures(watch, setting.inverse)
        copying, trace = self._copying(watch), Trace(watch)
        with (
            copying as self._remote,
            self._writer,
            StopRequest(world) as stop,
            watch,
            pictures,
            trace,
        ):
            for batch in self._batches(shards, watch, stop):
                views = self._views(batch)
                if self._flops is None and world.rank == 0:
                    self._flops = sample_flops(config, views)
                watch.flops = self._flops
                pictures.batch(views)
                trace.before(self._done)
                pending = self._step(views)
                self._finish(watch)  # the step before, while the device computes this one
                self._pending = pending
                self._done, self._seconds = self._done + 1, time.monotonic() - start
                if world.device.type == "cpu":  # which has computed the step already
                    self._finish(watch)
                self._save_if_due(watch)
                if self._saved == self._done:
                    pictures.curves()
            self._finish(watch)
            if self._saved != self._done:  # also before the first step, so that it can go on
                self._save()
            self._await_write()
            self._consolidate()
            if config.save.remote:
                world.synchronized(self._remote.finish if self._remote else lambda: None)
        return self._done

    def _save_if_due(self, watch: Watch) -> None:
        """Write a snapshot and evaluate, each if the configuration asks for it after this step."""
        evaluator = self._setting.evaluator
        if not self._due(self._config.watch.evaluate_every):
            evaluator = None
        if evaluator is not None or self._due(self._config.save.every):
            self._finish(watch)
            self._save()
        if evaluator is not None:
            self._evaluate(evaluator, watch)

    def _update_checkpoint(self) -> None:
        """Write the checkpoint of the snapshot that the run goes on from, unless the file names its
        step: the run may have been killed between the two, and a fetched snapshot has none. The
        checkpoint of a sharded snapshot is written at the end in any case."""
        outdated = trained_steps(self._checkpoint) != self._done
        sharded = self._snapshots.path(self._done).is_dir()
        if self._saved == self._done and self._world.gather(outdated and not sharded)[0]:
            self._save()
            self._await_write()

    def _copying(self, watch: Watch) -> AbstractContextManager[Remote | None]:
        url = self._config.save.remote
        if not url or self._world.rank:
            return nullcontext()
        return Remote(url, self._setting.output, watch.say)

    def _report_start(self, audit: Audit) -> None:
        """Print which pretrained weights were loaded, and write every key to OUTPUT/init.json."""
        path = self._setting.output / INIT
        logger.info(f"{audit.summary(self._config.model.init)}, named in {path}")
        write_atomically(path, json.dumps(audit._asdict(), indent=1).encode())

    def _resume(self, state: Mapping[str, Any]) -> None:
        training = self._training

        def load() -> None:
            load_state(state, self._models, training.optimizer)
            require_finite(self._models, training.optimizer)

        with snapshot.reading(state, "weights or optimizer"):
            self._world.synchronized(load)
        with snapshot.reading(state, "scaler"):
            training.scaler.load_state_dict(state["scaler"])
        with snapshot.reading(state, "problems"):
            if self._world.rank == 0:  # which goes on with the sum over processes
                self._problems.load(state["problems"])
        with snapshot.reading(state, "random"):
            self._random = state["random"][self._world.rank % len(state["random"])]
            snapshot.restore_random_state(self._random)
        with snapshot.reading(state, "seconds"):
            self._seconds = float(state["seconds"])
        # Which older snapshots lack.
        self._flops, self._init_sha256 = state.get("sample_flops"), state.get("init_sha256")
        self._data = state.get("data")
        if state.get("streams") is not None:
            with snapshot.reading(state, "streams"):
                self._positions = resumed_positions(
                    state["streams"],
                    rank=self._world.rank,
                    world_size=self._world.world_size,
                    lanes=stream_workers(self._config),
                )
        self._saved = self._done = state["step"]

    def _batches(self, shards: str, watch: Watch, stop: StopRequest) -> Iterator[Batch]:
        """Yield the batches from the current step on, until a process is asked to stop."""
        batches = self._open_data(shards, stop)
        # A loader may draw from the generators as it starts.
        snapshot.restore_random_state(self._random)
        self._update_checkpoint()
        while self._done < self._config.optim.steps:
            with watch.waiting():
                batch = _next(batches, stop)
            failed = self._written.done() and self._written.exception() is not None
            if stop.agreed(failed=failed) or batch is None:
                return
            if batch.position is not None:
                self._positions[batch.lane] = batch.position
            yield batch

    def _open_data(self, shards: str, stop: StopRequest) -> Iterator[Batch]:
        """Return the batches from the current step on; none if a signal comes first. Raises
        ValueError in all processes if one cannot read its data or has others than the first, and
        SnapshotError if they are not those of the snapshot."""
        config, world = self._config, self._world
        config = replace(config, data=replace(config.data, shards=shards))
        indexes: list[SampleIndex] = []  # none for streams, and if a signal came first

        def open_loader() -> Iterator[Batch]:
            with suppress(StopWaiting), stop.interrupting():
                return make_loader(
                    config,
                    self._setting.tokenizer,
                    rank=world.rank,
                    world_size=world.world_size,
                    first_step=self._done,
                    positions=self._positions,
                    indexed=indexes.append,
                )
            return iter(())

        def fingerprint() -> list[list[Any]] | None:
            """Return what tells data apart; None if a signal came before they were indexed."""
            if indexes:
                return indexes[0].fingerprint()
            sets = parse_shards(config.data)
            return [[shard.rpartition("/")[2]] for shard in sets.shards] if sets.streams else None

        batches = world.synchronized(open_loader)
        entries = world.synchronized(fingerprint)
        snapshot.require_same_data_everywhere(world, entries)
        if indexes and entries is not None:
            if self._data is not None:
                snapshot.require_same_data(self._data, entries)
            self._data = entries
        return batches

    def _stream_state(self) -> dict[str, Any] | None:
        """Return where the workers of all processes are in streams; None for local tars."""
        if not self._positions:
            return None
        by_rank = self._world.gather(self._positions)
        return pack_positions(by_rank, stream_workers(self._config))

    def _views(self, batch: Batch) -> Views:
        """Move images to the device. Captions stay on the host, where their lengths are needed."""
        self._problems.add(batch.problems, seen=batch.views.texts.shape[1])
        device, (large, small, texts) = self._world.device, batch.views
        large, small = (images.to(device, non_blocking=True) for images in (large, small))
        return normalise(Views(large, small, texts), self._mean, self._std)

    def _step(self, views: Views) -> _Pending:
        """Start a step; its values are read by `_finish`."""
        optim, compute, step = self._config.optim, self._config.compute, self._done
        lr, momentum = learning_rate(step, optim), teacher_momentum(step, optim)
        for group in self._training.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        report = train_step(
            self._training,
            views,
            self._gather,
            momentum=momentum,
            precision=compute.precision,
            parts=compute.accumulate,
            clip_norm=optim.clip_norm,
        )
        settings = {"lr": lr, "momentum": momentum, "bad_samples": self._problems.bad}
        return _Pending(step, settings, report)

    def _finish(self, watch: Watch) -> None:
        """Check and show the step that was started last, if there is one. No snapshot is written in
        between. Raises FloatingPointError, in all processes."""
        if self._pending is None:
            return
        (step, settings, report), self._pending = self._pending, None
        try:
            values = report.check()
        except FloatingPointError as error:
            raise FloatingPointError(f"step {step}: {error}; no snapshot has this step") from error
        total = sum(report.terms.values())
        samples = (step + 1) * self._config.optim.batch_size
        watch.step(step, {"samples_seen": samples, **settings, **values, "total": total})

    def _due(self, every: int) -> bool:
        return every > 0 and (self._done % every == 0 or self._done == self._config.optim.steps)

    def _evaluate(self, evaluator: Evaluator, watch: Watch) -> None:
        """Measure the checkpoint just written, and keep its snapshot if it is the best."""
        self._await_write()
        self._consolidate()
        metrics = evaluate(evaluator, self._checkpoint, self._config.watch, self._world)
        watch.evaluation(self._done - 1, metrics)
        name, best = self._config.save.best, self._snapshots.best()
        if not name or self._world.rank != 0:
            return
        if name not in metrics:
            raise ValueError(f"save.best names {name}, not among {', '.join(sorted(metrics))}")
        value = metrics[name]
        if not math.isnan(value) and (best is None or not value <= best.value):  # which may be NaN
            self._snapshots.note_best(snapshot.Best(self._done, value))

    def _save(self) -> None:
        """Copy the state to the host. The first process writes it, as a snapshot and a checkpoint
        of the weights, or each its part of it, while the training goes on."""
        self._await_write()
        training, problems = self._training, self._world.gather(self._problems.state())
        state = {
            "config": snapshot.plain(self._config),
            **{name: model.state_dict() for name, model in self._models.items()},
            "optimizer": training.optimizer.state_dict(),
            "scaler": training.scaler.state_dict(),
            "random": self._world.gather(snapshot.random_state()),
            "problems": {name: sum(counts[name] for counts in problems) for name in problems[0]},
            "seconds": self._seconds,
            "sample_flops": self._flops,
            "data": self._data,
            "init_sha256": self._init_sha256,
            "streams": self._stream_state(),
        }
        if self._world.rank == 0 or self._background is not None:
            self._copied = snapshot.HostCopy(state, self._copied)
            card = self._card() if self._world.rank == 0 else {}
            self._written = self._writer.submit(self._write, self._done, self._copied, card)
        self._saved = self._done

    def _await_write(self) -> None:
        """Wait for the snapshot that is being written; its error is raised in all processes."""
        self._world.synchronized(self._written.result)

    def _consolidate(self) -> None:
        """Write the weights of a sharded snapshot as a checkpoint, in the first process."""
        path = self._snapshots.path(self._done)
        self._world.main_process_only(
            lambda: write_weights(self._checkpoint, *read_weights(path)) if path.is_dir() else None
        )

    def _write(self, step: int, copied: snapshot.HostCopy, card: Mapping[str, Any]) -> None:
        state, method = copied.state(), self._config.method
        with torch.device("meta"):
            outline = method.create_student(self._config.architecture)
        model = describe(outline, method.name, model_config(self._config.architecture), card)
        if self._background is not None:
            self._snapshots.save_sharded(step, state, model, self._background)
        else:
            self._snapshots.save(step, state)
        if self._remote is not None:
            self._remote.start()
        if self._background is not None:
            return
        pairs = [(name, state[name].items()) for name in self._models]
        tensors = {f"{name}.{key}": value for name, values in pairs for key, value in values}
        write_weights(self._checkpoint, tensors, model)

    @cached_property
    def _code(self) -> CodeState:
        return code_state()

    def _card(self) -> dict[str, Any]:
        code, samples = self._code, self._done * self._config.optim.batch_size
        card = {
            "command": self._setting.command,
            "commit": code.commit and code.commit + ("-dirty" if code.dirty else ""),
            "config": asdict(self._config),
            "data_sha256": self._data_sha256,
            "date": utc_now(),
            "flops": samples * self._flops if self._flops else None,
            "init_sha256": self._init_sha256,
            "processes": self._world.world_size,
            "samples_seen": samples,
            "seconds": round(self._seconds, 1),
            "seed": self._config.seed,
            "steps": self._done,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        identity = training_identity(card)
        return card | {name: identity[name] for name in ("group", "recipe_sha256")}


def _next(batches: Iterator[Batch], stop: StopRequest) -> Batch | None:
    """Return the next batch; None where a signal to stop comes first, or loaders died of it."""
    try:
        with stop.interrupting():
            return next(batches)
    except StopWaiting:
        return None
    except ChildProcessError:
        if stop.requested:
            return None
        raise


class StopWaiting(BaseException):
    """Raised by a signal while a run waits for data, which may never come."""


class StopRequest:
    """Records the first signal in its context, to end after a step; a later SIGINT interrupts. One
    that follows at once does not: from a terminal it reaches processes directly and by torchrun."""

    def __init__(self, world: World) -> None:
        self._world, self._since = world, 0.0
        self._former: dict[signal.Signals, Any] = {}
        self._waiting = self.requested = False

    def __enter__(self) -> StopRequest:
        self._former = {number: signal.signal(number, self._handle) for number in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise StopWaiting in the block at the first signal, or at once after an earlier one."""
        self._waiting = True
        try:
            if self.requested:
                raise StopWaiting
            yield
        finally:
            self._waiting = False

    def agreed(self, *, failed: bool = False) -> bool:
        """Whether any process received a signal or has `failed`; all must call it at the same step.
        Hosts vote, which waits for no device."""
        if self._world.world_size == 1:
            return self.requested or failed
        if self._world.presence is not None:
            self._world.presence.enter()
        requested = torch.tensor([float(self.requested or failed)])
        return bool(mean_over_processes(requested).item() > 0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            passed = time.monotonic() - self._since
            if number == signal.SIGINT and (passed > REPEATED or self._world.world_size == 1):
                raise KeyboardInterrupt
            return  # SLURM repeats SIGTERM at the end, where a snapshot may be half written
        self.requested, self._since = True, time.monotonic()
        if self._waiting:
            raise StopWaiting
