"""The training loop, which reads batches and writes snapshots, a checkpoint and a log."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cosmos_core.config import TrainConfig
from cosmos_core.data.loading import OpenedData, open_data, stream_workers
from cosmos_core.data.samples import Batch, ProblemCounter, StreamPosition, Tokenizer
from cosmos_core.data.shards import parse_shards
from cosmos_core.data.stream import pack_positions, resumed_positions
from cosmos_core.engine import snapshot
from cosmos_core.engine.build import learning_rate, make_training, teacher_momentum
from cosmos_core.engine.distributed import World, broadcast, make_gather, require_agreement
from cosmos_core.engine.evaluate import Evaluator, evaluate
from cosmos_core.engine.flops import sample_flops
from cosmos_core.engine.remote import Remote
from cosmos_core.engine.sharding import is_sharded, load_state, require_finite
from cosmos_core.engine.step import StepReport, normalise, train_step
from cosmos_core.engine.stop import StopRequest, StopWaiting
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

INIT = "init.json"  # in the output folder: the keys of pretrained weights
logger = logging.getLogger(__name__)


class Setting(NamedTuple):
    """The parts of a run that its configuration does not hold."""

    tokenizer: Tokenizer
    # Turns normalised images and tokens back into images and captions, for pictures.
    inverse: Inverse
    # The output folder.
    output: Path
    # The command line, which is stored beside the weights.
    command: str
    world: World
    # Measures checkpoints during the training, or None.
    evaluator: Evaluator | None = None


class _StartedStep(NamedTuple):
    """A step that the device may still compute."""

    step: int
    # Values of its log line that are known before it is computed.
    settings: dict[str, float]
    report: StepReport


class Trainer:
    """Trains from the start or the newest snapshot. Raises SnapshotError for an unfit folder."""

    def __init__(self, config: TrainConfig, setting: Setting, *, resume: bool = False) -> None:
        self._config = config
        self._setting = setting
        self._world = setting.world
        self._checkpoint = setting.output / CHECKPOINT
        self._snapshots = snapshot.Snapshots(setting.output, config.save.keep)
        state = self._find_state(resume=resume)

        self._training = make_training(config, self._world, pretrained=state is None)
        self._models = {"student": self._training.model, "teacher": self._training.teacher}
        self._gather = make_gather(
            self._world, config.optim.gradient, narrow=config.compute.gather_bf16
        )
        # The processes for threads that write a sharded snapshot; None without sharding.
        self._background: World | None = None
        if is_sharded(config, self._world):
            self._background = self._world.in_background()
        self._audit = self._training.audit
        self._init_sha256 = self._audit.sha256 if self._audit else None
        self._problems = ProblemCounter(config.data.max_bad)
        # Mean and standard deviation of images, (3,), on the 0-1 scale.
        self._mean = torch.tensor(setting.inverse.mean, device=self._world.device)
        self._std = torch.tensor(setting.inverse.std, device=self._world.device)

        # Steps and seconds of training so far, in all runs that this one continues.
        self._steps_done = 0
        self._seconds = 0.0
        # The step that was started last, until its values have been read.
        self._started_step: _StartedStep | None = None
        self._random_state = snapshot.random_state()
        # FLOPs of a sample, once they are known.
        self._sample_flops: float | None = None

        # The steps of the newest snapshot, and the copy of the state that is written to it.
        self._saved_steps: int | None = None
        self._host_copy: snapshot.HostCopy | None = None
        # The thread that writes snapshots, and its last task.
        self._writer = ThreadPoolExecutor(1)
        self._written = Future[None]()
        self._written.set_result(None)
        # Copies snapshots elsewhere; only in the first process, and only if configured.
        self._remote: Remote | None = None

        self._data_sha256: str | None = None
        # The fingerprint of local shards.
        self._data: list[list[Any]] | None = None
        # Where the workers of this process are in their streams, by lane.
        self._positions: dict[int, StreamPosition] = {}
        if state is not None:
            self._resume(state)
        require_agreement(self._world, self._steps_done, *self._models.values())

    def _find_state(self, *, resume: bool) -> dict[str, Any] | None:
        """Return the state to resume from in all processes, or None for a new run.

        Only the first process reads it: another process could find other snapshots, or fail to read
        the newest.
        """

        def find() -> dict[str, Any] | None:
            return snapshot.find_state(
                self._snapshots, self._setting.output, self._config, resume=resume
            )

        return broadcast(self._world, self._world.main_process_only(find))

    def run(self, shards: str) -> int:
        """Train on `shards` to the end, or until a signal asks to stop; return the steps done.

        Raises FloatingPointError for losses that are not finite, ValueError for bad samples.
        """
        config, output, world = self._config, self._setting.output, self._world
        output.mkdir(parents=True, exist_ok=True)
        if self._audit is not None and world.rank == 0:
            self._report_start(self._audit)
        self._data_sha256 = parse_shards(replace(config.data, shards=shards)).fingerprint
        start = time.monotonic() - self._seconds
        watch = Watch(config, output, world, first_step=self._steps_done)
        pictures = RunPictures(watch, self._setting.inverse)
        trace = Trace(watch)
        with (
            self._open_remote(watch) as self._remote,
            self._writer,
            StopRequest(world) as stop,
            watch,
            pictures,
            trace,
        ):
            for batch in self._batches(shards, watch, stop):
                views = self._prepare_views(batch)
                if self._sample_flops is None and world.rank == 0:
                    self._sample_flops = sample_flops(config, views)
                watch.flops = self._sample_flops
                pictures.batch(views)
                trace.before(self._steps_done)
                self._train_step(views, watch, start)
                self._save_and_evaluate_if_due(watch)
                if self._saved_steps == self._steps_done:
                    pictures.curves()
            self._end(watch)
        return self._steps_done

    def _train_step(self, views: Views, watch: Watch, start: float) -> None:
        """Start a step, and finish the one before while the device computes this one."""
        started_step = self._start_step(views)
        self._finish_step(watch)
        self._started_step = started_step
        self._steps_done += 1
        self._seconds = time.monotonic() - start
        if self._world.device.type == "cpu":  # a CPU has computed the step already
            self._finish_step(watch)

    def _save_and_evaluate_if_due(self, watch: Watch) -> None:
        """Write a snapshot and evaluate, each if the configuration asks for it after this step."""
        evaluator = self._setting.evaluator
        if not self._is_due(self._config.watch.evaluate_every):
            evaluator = None
        if evaluator is not None or self._is_due(self._config.save.every):
            self._finish_step(watch)
            self._save()
        if evaluator is not None:
            self._evaluate(evaluator, watch)

    def _is_due(self, every: int) -> bool:
        """Return whether a task that is done every `every` steps is due after this step.

        It is also due after the last step of the run. If `every` is 0, it is never due.
        """
        if every == 0:
            return False
        is_last_step = self._steps_done == self._config.optim.steps
        return self._steps_done % every == 0 or is_last_step

    def _end(self, watch: Watch) -> None:
        """Finish the last step, write the last snapshot, and wait until all files are written."""
        self._finish_step(watch)
        # A run that stops before its first step has a snapshot too, so that it can be resumed.
        if self._saved_steps != self._steps_done:
            self._save()
        self._await_write()
        self._write_consolidated()
        if self._config.save.remote:
            self._world.synchronized(self._finish_remote)

    def _open_remote(self, watch: Watch) -> AbstractContextManager[Remote | None]:
        """Return the copier of snapshots, or an empty context if this process has none."""
        url = self._config.save.remote
        if not url or self._world.rank > 0:
            return nullcontext()
        return Remote(url, self._setting.output, watch.say)

    def _finish_remote(self) -> None:
        """Wait in the first process until all snapshots are copied elsewhere, if they are."""
        if self._remote is not None:
            self._remote.finish()

    def _report_start(self, audit: Audit) -> None:
        """Log how many pretrained weights were loaded, and write their keys to OUTPUT/init.json."""
        path = self._setting.output / INIT
        logger.info(f"{audit.summary(self._config.model.init)}, named in {path}")
        write_atomically(path, json.dumps(audit._asdict(), indent=1).encode())

    def _resume(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of a snapshot. Raises SnapshotError if it cannot be used."""
        with snapshot.restoring(state, "weights or optimizer"):
            self._world.synchronized(lambda: self._load_weights(state))
        with snapshot.restoring(state, "scaler"):
            self._training.scaler.load_state_dict(state["scaler"])
        with snapshot.restoring(state, "problems"):
            # The state has the sum over processes, with which the first one continues.
            if self._world.rank == 0:
                self._problems.load(state["problems"])
        with snapshot.restoring(state, "random"):
            self._random_state = state["random"][self._world.rank % len(state["random"])]
            snapshot.restore_random_state(self._random_state)
        with snapshot.restoring(state, "seconds"):
            self._seconds = float(state["seconds"])
        # Older snapshots lack these values.
        self._sample_flops = state.get("sample_flops")
        self._init_sha256 = state.get("init_sha256")
        self._data = state.get("data")
        if state.get("streams") is not None:
            with snapshot.restoring(state, "streams"):
                self._positions = resumed_positions(
                    state["streams"],
                    rank=self._world.rank,
                    world_size=self._world.world_size,
                    lanes=stream_workers(self._config),
                )
        self._saved_steps = self._steps_done = state["step"]

    def _load_weights(self, state: Mapping[str, Any]) -> None:
        """Load weights and optimizer. Raises ValueError if values are not finite."""
        load_state(state, self._models, self._training.optimizer)
        require_finite(self._models, self._training.optimizer)

    def _batches(self, shards: str, watch: Watch, stop: StopRequest) -> Iterator[Batch]:
        """Yield the batches from the current step on, until a process is asked to stop."""
        batches = self._open_data(shards, stop)
        # Opening the data may have drawn random numbers.
        snapshot.restore_random_state(self._random_state)
        self._update_checkpoint()
        while self._steps_done < self._config.optim.steps:
            with watch.waiting():
                batch = _next_batch(batches, stop)
            write_failed = self._written.done() and self._written.exception() is not None
            if stop.agreed(failed=write_failed) or batch is None:
                return
            if batch.position is not None:
                self._positions[batch.lane] = batch.position
            yield batch

    def _open_data(self, shards: str, stop: StopRequest) -> Iterator[Batch]:
        """Return the batches from the current step on; none if a signal comes first.

        Raises ValueError in all processes if one cannot read its data or has other data than the
        first process, and SnapshotError if the snapshot was trained on other data.
        """
        config = replace(self._config, data=replace(self._config.data, shards=shards))
        data = self._world.synchronized(lambda: self._open_data_here(config, stop))
        fingerprint = self._world.synchronized(lambda: _fingerprint(data, config))
        snapshot.require_same_data_everywhere(self._world, fingerprint)
        if data.sample_index is not None and fingerprint is not None:
            if self._data is not None:
                snapshot.require_same_data(self._data, fingerprint)
            self._data = fingerprint
        return data.batches

    def _open_data_here(self, config: TrainConfig, stop: StopRequest) -> OpenedData:
        """Return the data of this process; no batches and no index if a signal comes first."""
        with suppress(StopWaiting), stop.interrupting():
            return open_data(
                config,
                self._setting.tokenizer,
                rank=self._world.rank,
                world_size=self._world.world_size,
                first_step=self._steps_done,
                positions=self._positions,
            )
        return OpenedData(iter(()), None)

    def _update_checkpoint(self) -> None:
        """Write the checkpoint of the snapshot that the run resumes from, if it is missing.

        The run may have been killed after it wrote the snapshot, or the snapshot may have been
        fetched without a checkpoint. The checkpoint of a sharded snapshot is written at the end.
        """
        is_outdated = trained_steps(self._checkpoint) != self._steps_done
        is_sharded_snapshot = self._snapshots.path(self._steps_done).is_dir()
        if self._saved_steps != self._steps_done:
            return
        if self._world.gather(is_outdated and not is_sharded_snapshot)[0]:
            self._save()
            self._await_write()

    def _stream_state(self) -> dict[str, Any] | None:
        """Return the positions of the workers of all processes in streams; None for local tars."""
        if not self._positions:
            return None
        positions_by_rank = self._world.gather(self._positions)
        return pack_positions(positions_by_rank, stream_workers(self._config))

    def _prepare_views(self, batch: Batch) -> Views:
        """Move images to the device and normalise them; count bad samples.

        Captions stay on the host, where their lengths are needed.
        """
        self._problems.add(batch.problems, seen=batch.views.texts.shape[1])
        device = self._world.device
        views = Views(
            global_images=batch.views.global_images.to(device, non_blocking=True),
            local_images=batch.views.local_images.to(device, non_blocking=True),
            texts=batch.views.texts,
        )
        return normalise(views, self._mean, self._std)

    def _start_step(self, views: Views) -> _StartedStep:
        """Start a step; `_finish_step` reads its values."""
        optim, compute, step = self._config.optim, self._config.compute, self._steps_done
        lr = learning_rate(step, optim)
        momentum = teacher_momentum(step, optim)
        for group in self._training.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        report = train_step(
            self._training,
            views,
            self._gather,
            momentum=momentum,
            precision=compute.precision,
            n_chunks=compute.accumulate,
            clip_norm=optim.clip_norm,
        )
        settings = {"lr": lr, "momentum": momentum, "bad_samples": self._problems.bad}
        return _StartedStep(step, settings, report)

    def _finish_step(self, watch: Watch) -> None:
        """Check, show and log the step that was started last, if it is not finished.

        A step is always finished before a snapshot is written. Raises FloatingPointError, in all
        processes, if a loss or the gradient is not finite.
        """
        if self._started_step is None:
            return
        step, settings, report = self._started_step
        self._started_step = None
        try:
            values = report.check()
        except FloatingPointError as error:
            raise FloatingPointError(f"step {step}: {error}; no snapshot has this step") from error
        record: dict[str, float] = {"samples_seen": (step + 1) * self._config.optim.batch_size}
        record.update(settings)
        record.update(values)
        record["total"] = sum(report.terms.values())
        watch.step(step, record)

    def _evaluate(self, evaluator: Evaluator, watch: Watch) -> None:
        """Measure the checkpoint that was just written, and keep its snapshot if it is the best."""
        self._await_write()
        self._write_consolidated()
        metrics = evaluate(evaluator, self._checkpoint, self._config.watch, self._world)
        watch.evaluation(self._steps_done - 1, metrics)
        metric_name, best = self._config.save.best, self._snapshots.best()
        if not metric_name or self._world.rank > 0:
            return
        if metric_name not in metrics:
            names = ", ".join(sorted(metrics))
            raise ValueError(f"save.best names {metric_name}, not among {names}")
        value = metrics[metric_name]
        if math.isnan(value):
            return
        # `not <=` and not `>`: the best value so far may be NaN, and any number is better.
        if best is None or not value <= best.value:
            self._snapshots.note_best(snapshot.Best(self._steps_done, value))

    def _save(self) -> None:
        """Copy the state to the host, and let a thread write it while the training goes on.

        The first process writes a snapshot and a checkpoint of the weights. If weights are sharded,
        each process writes its part of the snapshot.
        """
        self._await_write()
        state = self._state()
        is_main = self._world.rank == 0
        if is_main or self._background is not None:
            self._host_copy = snapshot.HostCopy(state, self._host_copy)
            metadata = self._training_metadata() if is_main else {}
            self._written = self._writer.submit(
                self._write, self._steps_done, self._host_copy, metadata
            )
        self._saved_steps = self._steps_done

    def _state(self) -> dict[str, Any]:
        """Return everything that the next step depends on; all processes call it."""
        problem_counts = self._world.gather(self._problems.state())  # kind -> count, by rank
        total_counts = {}
        for kind in problem_counts[0]:
            total_counts[kind] = sum(counts[kind] for counts in problem_counts)
        return {
            "config": snapshot.plain_config(self._config),
            "student": self._models["student"].state_dict(),
            "teacher": self._models["teacher"].state_dict(),
            "optimizer": self._training.optimizer.state_dict(),
            "scaler": self._training.scaler.state_dict(),
            "random": self._world.gather(snapshot.random_state()),
            "problems": total_counts,
            "seconds": self._seconds,
            "sample_flops": self._sample_flops,
            "data": self._data,
            "init_sha256": self._init_sha256,
            "streams": self._stream_state(),
        }

    def _await_write(self) -> None:
        """Wait for the snapshot that is being written; raise its error in all processes."""
        self._world.synchronized(self._written.result)

    def _write_consolidated(self) -> None:
        """Write the checkpoint of a sharded snapshot, if the newest is one; all processes wait."""
        self._world.main_process_only(self._consolidate)

    def _consolidate(self) -> None:
        """Write the checkpoint of the newest snapshot if it is sharded."""
        path = self._snapshots.path(self._steps_done)
        if path.is_dir():
            tensors, metadata = read_weights(path)
            write_weights(self._checkpoint, tensors, metadata)

    def _write(
        self, step: int, host_copy: snapshot.HostCopy, training_metadata: Mapping[str, Any]
    ) -> None:
        """Write a snapshot and, if weights are not sharded, a checkpoint; called in a thread."""
        state = host_copy.state()
        metadata = self._model_metadata(training_metadata)
        if self._background is not None:
            self._snapshots.save_sharded(step, state, metadata, self._background)
        else:
            self._snapshots.save(step, state)
        if self._remote is not None:
            self._remote.start()
        if self._background is None:
            tensors = {}
            for name in self._models:
                for key, tensor in state[name].items():
                    tensors[f"{name}.{key}"] = tensor
            write_weights(self._checkpoint, tensors, metadata)

    def _model_metadata(self, training_metadata: Mapping[str, Any]) -> dict[str, str]:
        """Return the metadata of a checkpoint."""
        method, architecture = self._config.method, self._config.architecture
        with torch.device("meta"):
            model = method.create_student(architecture)
        return describe(model, method.name, model_config(architecture), training_metadata)

    @cached_property
    def _code(self) -> CodeState:
        return code_state()

    def _training_metadata(self) -> dict[str, Any]:
        """Return how the model was trained so far."""
        samples_seen = self._steps_done * self._config.optim.batch_size
        commit = self._code.commit
        if commit and self._code.dirty:
            commit += "-dirty"
        metadata: dict[str, Any] = {
            "command": self._setting.command,
            "commit": commit,
            "config": asdict(self._config),
            "data_sha256": self._data_sha256,
            "date": utc_now(),
            "flops": samples_seen * self._sample_flops if self._sample_flops else None,
            "init_sha256": self._init_sha256,
            "processes": self._world.world_size,
            "samples_seen": samples_seen,
            "seconds": round(self._seconds, 1),
            "seed": self._config.seed,
            "steps": self._steps_done,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        identity = training_identity(metadata)
        metadata["group"] = identity["group"]
        metadata["recipe_sha256"] = identity["recipe_sha256"]
        return metadata


def _next_batch(batches: Iterator[Batch], stop: StopRequest) -> Batch | None:
    """Return the next batch; None if a signal to stop comes first, or loaders died of it."""
    try:
        with stop.interrupting():
            return next(batches)
    except StopWaiting:
        return None
    except ChildProcessError:
        if stop.requested:
            return None
        raise


def _fingerprint(data: OpenedData, config: TrainConfig) -> list[list[Any]] | None:
    """Return an entry for each shard, by which the data of two processes are compared.

    It is `SampleIndex.fingerprint` for local tars, and the names of the shards for streams. It is
    None if a signal came before local tars were indexed.
    """
    if data.sample_index is not None:
        return data.sample_index.fingerprint()
    shard_sets = parse_shards(config.data)
    if not shard_sets.streams:
        return None
    return [[shard.rpartition("/")[2]] for shard in shard_sets.shards]
