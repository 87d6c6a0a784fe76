"""The training loop, which reads batches, and writes snapshots, a checkpoint and a log."""

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
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch

from cosmos_core.config import TrainConfig
from cosmos_core.data.loading import OpenedData, open_data, stream_workers
from cosmos_core.data.samples import Batch, ProblemCounter, StreamPosition, Tokenizer
from cosmos_core.data.shards import parse_shards
from cosmos_core.data.stream import pack_positions, resumed_positions
from cosmos_core.engine import snapshot
from cosmos_core.engine.branch import read_start
from cosmos_core.engine.build import (
    choose_precision,
    learning_rate,
    make_training,
    phase_start,
    teacher_momentum,
    unfreeze,
)
from cosmos_core.engine.distributed import World, broadcast, make_gather, require_agreement
from cosmos_core.engine.evaluate import Evaluator, evaluate
from cosmos_core.engine.flops import sample_flops
from cosmos_core.engine.remote import Remote
from cosmos_core.engine.sharding import is_sharded, load_state, require_finite
from cosmos_core.engine.step import StepReport, normalise, require_scale, train_step
from cosmos_core.engine.stop import StopRequest, StopWaiting
from cosmos_core.engine.trace import Trace
from cosmos_core.engine.watch import RunPictures, Watch
from cosmos_core.model.build import model_config
from cosmos_core.model.checkpoint import CHECKPOINT, describe, read_trained_steps, write_weights
from cosmos_core.model.sharded import read_weights
from cosmos_core.plots.views import Inverse
from cosmos_core.types import Views
from cosmos_core.utils.environment import CodeState, code_state, utc_now
from cosmos_core.utils.files import write_atomically
from cosmos_core.utils.recipe import training_identity

# The file in the output folder that lists which pretrained weights were loaded.
INIT = "init.json"
logger = logging.getLogger(__name__)


class Setting(NamedTuple):
    """The objects that a training needs besides its configuration."""

    # Turns captions into token ids.
    tokenizer: Tokenizer
    # Turns normalised images and token ids back into pictures and captions.
    inverse: Inverse
    # The output folder.
    output: Path
    # The command line, which is stored beside the weights.
    command: str
    # The processes of the training.
    world: World
    # Measures checkpoints during the training, or None.
    evaluator: Evaluator | None = None


class _StartedStep(NamedTuple):
    """A training step that has been started, and that the device may still compute."""

    # The number of the step, counted from 0.
    step: int
    # The values for the log that are known before the step is computed, such as "lr".
    scheduled_values: dict[str, float]
    # The values that the device computes, such as the loss.
    report: StepReport


class Trainer:
    """Trains a model from the start, from a snapshot of another training, or from its own newest.

    Raises:
        SnapshotError: If the folder cannot be used: if a new training finds files of another one,
            or if no snapshot exists to resume from.
    """

    def __init__(
        self,
        config: TrainConfig,
        setting: Setting,
        *,
        resume: bool = False,
        start: Path | None = None,
    ) -> None:
        """Build the models and the optimizer, or restore them from the newest snapshot.

        Args:
            config: The configuration of the training.
            setting: The output folder, the tokenizer and the processes.
            resume: True to go on from the newest snapshot.
            start: A snapshot of another training, from which a new one starts.
        """
        config = choose_precision(config, setting.world)
        self._config = config
        self._setting = setting
        self._world = setting.world
        self._checkpoint_path = setting.output / CHECKPOINT
        self._snapshots = snapshot.Snapshots(setting.output, config.save.keep)
        # The state to resume from, or None for a new training.
        state = self._find_state(resume=resume, start=start)

        self._training = make_training(config, self._world, pretrained=state is None)
        self._models = {"student": self._training.model, "teacher": self._training.teacher}
        self._gather = make_gather(
            self._world, config.optim.gradient, narrow=config.compute.gather_bf16
        )
        # How threads that write a sharded snapshot communicate; None if weights are not sharded.
        self._background_world: World | None = None
        if is_sharded(config, self._world):
            self._background_world = self._world.in_background()
        self._audit = self._training.audit
        self._pretrained_sha256 = self._audit.sha256 if self._audit else None
        self._problem_counter = ProblemCounter(config.data.max_bad)
        # Mean and standard deviation of pixels on the scale from 0 to 1, (3,).
        self._mean = torch.tensor(setting.inverse.mean, device=self._world.device)
        self._std = torch.tensor(setting.inverse.std, device=self._world.device)

        # Steps and seconds of training so far, including those before the training was resumed.
        self._steps_done = 0
        self._seconds = 0.0
        # The step that was started last, until `_finish_step` has read its values.
        self._unfinished_step: _StartedStep | None = None
        self._random_state = snapshot.random_state()
        # The FLOPs of a training step per sample, by the first step of the phase that they hold in.
        # Only the first process knows them.
        self._sample_flops: dict[int, float] = {}

        # The number of steps of the newest snapshot.
        self._saved_steps: int | None = None
        # The copy of the state that is written to the newest snapshot.
        self._host_copy: snapshot.HostCopy | None = None
        # The thread that writes snapshots, and the result of its last task.
        self._writer = ThreadPoolExecutor(1)
        self._write_result = Future[None]()
        self._write_result.set_result(None)
        # Copies snapshots to another place, if configured. Only the first process has it.
        self._remote_copies: Remote | None = None

        self._data_sha256: str | None = None
        # The fingerprint of the shards, by which a resumed training knows them again.
        self._data_fingerprint: list[list[Any]] | None = None
        # How far each data worker of this process has read its stream, by the worker's number.
        self._stream_positions: dict[int, StreamPosition] = {}
        if state is not None:
            self._resume(state)
        require_agreement(self._world, self._steps_done, *self._models.values())

    def _find_state(self, *, resume: bool, start: Path | None) -> dict[str, Any] | None:
        """Return the state to start from, or None for random or pretrained weights.

        All processes get the same state.

        Args:
            resume: True to go on from the newest snapshot in the output folder.
            start: The snapshot from which a training starts that does not resume.
        """

        def find_state() -> dict[str, Any] | None:
            """Read the state from the newest snapshot, or from the one of another training."""
            state = snapshot.find_state(
                self._snapshots, self._setting.output, self._config, resume=resume
            )
            if state is None and start is not None:
                return read_start(start, self._config)
            if start is not None:
                logger.info(f"{start} is not used: {self._setting.output} has snapshots")
            return state

        # Only the first process reads it, because other processes could choose another snapshot.
        state = self._world.main_process_only(find_state)
        return broadcast(self._world, state)

    def run(self, shards: str) -> int:
        """Train until the last step, or until a signal asks to stop.

        Args:
            shards: The training data, as in the option `data.shards`.

        Returns:
            The number of steps of the training so far.

        Raises:
            FloatingPointError: If a loss or a gradient is not finite, in more steps than may be
                skipped.
            ValueError: If there are too many bad samples.
        """
        config, output, world = self._config, self._setting.output, self._world
        output.mkdir(parents=True, exist_ok=True)
        if self._audit is not None and world.rank == 0:
            # Report the pretrained weights, and list their keys in a file.
            init_path = output / INIT
            logger.info(f"{self._audit.summary(config.model.init)}, named in {init_path}")
            write_atomically(init_path, json.dumps(self._audit._asdict(), indent=1).encode())
        self._data_sha256 = parse_shards(replace(config.data, shards=shards)).fingerprint

        # The time at which the training would have started if it had never been interrupted. The
        # seconds before the last interruption are counted too.
        started_at = time.monotonic() - self._seconds
        watch = Watch(config, output, world, first_step=self._steps_done)
        pictures = RunPictures(watch, self._setting.inverse)
        trace = Trace(watch)
        with (
            self._open_remote(watch) as self._remote_copies,
            self._writer,
            StopRequest(world) as stop,
            watch,
            pictures,
            trace,
        ):
            for batch in self._batches(shards, watch, stop):
                views = self._prepare_views(batch)
                watch.set_flops(self._flops_of_step(views))
                pictures.draw_first_batch(views)
                trace.before(self._steps_done)

                self._train_step(views, watch, started_at)

                self._save_and_evaluate_if_due(watch)
                is_just_saved = self._saved_steps == self._steps_done
                if is_just_saved:
                    pictures.draw_curves_if_due()
            self._end(watch)
        return self._steps_done

    def _train_step(self, views: Views, watch: Watch, started_at: float) -> None:
        """Start a training step, and log the step before while the device computes this one.

        Args:
            views: The views of the batch, on the device.
            watch: Logs the values of the step before.
            started_at: The time of the start of the training, in seconds of `time.monotonic`.
        """
        started_step = self._start_step(views)
        # This is still the step before.
        self._finish_step(watch)
        self._unfinished_step = started_step
        self._steps_done += 1
        self._seconds = time.monotonic() - started_at
        if self._world.device.type == "cpu":
            # A CPU has computed the step already.
            self._finish_step(watch)

    def _save_and_evaluate_if_due(self, watch: Watch) -> None:
        """Write a snapshot and evaluate the model, each if it is due after this step.

        An evaluation measures the checkpoint of a snapshot. So a snapshot is also written before
        each evaluation.
        """
        evaluator = self._setting.evaluator
        should_evaluate = evaluator is not None and self._is_due(self._config.watch.evaluate_every)
        should_save = should_evaluate or self._is_due(self._config.save.every)
        if should_save:
            self._finish_step(watch)
            self._save()
        if evaluator is not None and should_evaluate:
            self._evaluate(evaluator, watch)

    def _is_due(self, interval: int) -> bool:
        """Return whether a task that is done at regular intervals is due after this step.

        Args:
            interval: The number of steps from one time to the next. The task is also due after the
                last step of the training. If the interval is 0, it is never due.
        """
        if interval == 0:
            return False
        is_last_step = self._steps_done == self._config.optim.steps
        return self._steps_done % interval == 0 or is_last_step

    def _end(self, watch: Watch) -> None:
        """Finish the last step, write the last snapshot, and wait until all files are written."""
        self._finish_step(watch)
        # A training that stops before its first step is saved too, so that it can be resumed.
        if self._saved_steps != self._steps_done:
            self._save()
        self._wait_for_snapshot()
        self._write_checkpoint_if_sharded()
        if self._config.save.remote:
            self._world.synchronized(self._finish_remote)

    def _open_remote(self, watch: Watch) -> AbstractContextManager[Remote | None]:
        """Return the context that copies snapshots to another place.

        It is an empty context if no place is configured, and in other processes than the first.
        """
        url = self._config.save.remote
        if not url or self._world.rank > 0:
            return nullcontext()
        return Remote(url, self._setting.output, watch.say)

    def _finish_remote(self) -> None:
        """Wait until all snapshots are copied to another place, if this process copies them."""
        if self._remote_copies is not None:
            self._remote_copies.finish()

    def _resume(self, state: Mapping[str, Any]) -> None:
        """Restore the training from the state of a snapshot.

        Args:
            state: The values that `_collect_state` has returned, by name.

        Raises:
            SnapshotError: If a value cannot be used. The error names the snapshot.
        """
        with snapshot.restoring(state, "weights or optimizer"):
            self._world.synchronized(self._load_weights, state)
        with snapshot.restoring(state, "scaler"):
            self._training.scaler.load_state_dict(state["scaler"])
        with snapshot.restoring(state, "problems"):
            # The state has the total of all processes, which the first process continues to count.
            if self._world.rank == 0:
                self._problem_counter.load(state["problems"])
        with snapshot.restoring(state, "random"):
            # One state for each process. If there are more processes now, the others keep the
            # states of their seeds, so that their patch dropout differs.
            random_states = state["random"]
            if self._world.rank < len(random_states):
                self._random_state = random_states[self._world.rank]
                snapshot.restore_random_state(self._random_state)
        self._require_same_gradient(state)
        with snapshot.restoring(state, "seconds"):
            self._seconds = float(state["seconds"])
        # Snapshots of older versions lack these values.
        self._training.skipped_steps.count = state.get("skipped_steps", 0)
        stored_flops = state.get("sample_flops")
        if isinstance(stored_flops, float):
            # In older versions they were the same in all steps.
            stored_flops = {0: stored_flops}
        self._sample_flops = stored_flops or {}
        self._pretrained_sha256 = state.get("init_sha256")
        self._data_fingerprint = state.get("data")
        if state.get("streams") is not None:
            with snapshot.restoring(state, "streams"):
                self._stream_positions = resumed_positions(
                    state["streams"],
                    rank=self._world.rank,
                    world_size=self._world.world_size,
                    lanes=stream_workers(self._config),
                )
        self._saved_steps = self._steps_done = state["step"]

    def _require_same_gradient(self, state: Mapping[str, Any]) -> None:
        """Raise SnapshotError if the gradient was divided by another number of processes.

        Args:
            state: The state in the snapshot, which has a random state for each process.
        """
        n_processes, world_size = len(state["random"]), self._world.world_size
        if self._config.optim.gradient == "published" and n_processes != world_size:
            raise snapshot.SnapshotError(
                f"{state['path']}: optim.gradient=published divides the gradient by the number of "
                f"processes, which was {n_processes} and is {world_size}; start {n_processes}"
            )

    def _load_weights(self, state: Mapping[str, Any]) -> None:
        """Load the weights of the models and the state of the optimizer from a snapshot's state.

        Raises:
            ValueError: If they do not fit the models, or are not finite.
        """
        load_state(state, self._models, self._training.optimizer)
        require_finite(self._models, self._training.optimizer)

    def _batches(self, shards: str, watch: Watch, stop: StopRequest) -> Iterator[Batch]:
        """Yield the batches of the remaining steps, until any process is asked to stop.

        If the thread that writes snapshots fails in any process, the training stops too.

        Args:
            shards: The training data, as in the option `data.shards`.
            watch: Measures how long the training waits for data.
            stop: Knows whether a signal has asked this process to stop.
        """
        batches = self._open_data(shards, stop)
        # Opening the data may have drawn random numbers.
        snapshot.restore_random_state(self._random_state)
        self._write_missing_checkpoint()
        while self._steps_done < self._config.optim.steps:
            with watch.waiting():
                batch = _next_batch(batches, stop)
            write_failed = self._write_result.done() and self._write_result.exception() is not None
            # All processes stop together, if one of them has failed or is asked to stop.
            if stop.agreed(failed=write_failed) or batch is None:
                return
            if batch.position is not None:
                # Remember how far the data worker of this batch has read its stream.
                self._stream_positions[batch.lane] = batch.position
            yield batch

    def _open_data(self, shards: str, stop: StopRequest) -> Iterator[Batch]:
        """Open the training data, and return the batches of the remaining steps.

        Args:
            shards: The training data, as in the option `data.shards`.
            stop: Interrupts the opening if a signal asks to stop. Then no batches follow.

        Raises:
            ValueError: If a process cannot read its data, or has other data than the first process.
                All processes raise it.
            SnapshotError: If the snapshot was trained on other data.
        """
        config = replace(self._config, data=replace(self._config.data, shards=shards))
        if self._data_fingerprint is not None and parse_shards(config.data).streams:
            raise snapshot.SnapshotError(
                "the snapshot was trained on local tars, and streams cannot be compared with them: "
                "name the same tars by --set data.shards=, or start again in another folder"
            )
        data = self._world.synchronized(self._open_data_of_process, config, stop)

        # Compare the data of all processes with each other, and then with the snapshot's data.
        fingerprint = self._world.synchronized(_data_fingerprint, data, config)
        snapshot.require_same_data_everywhere(self._world, fingerprint)
        if data.sample_index is not None and fingerprint is not None:
            if self._data_fingerprint is not None:
                snapshot.require_same_data(self._data_fingerprint, fingerprint)
            self._data_fingerprint = fingerprint
        return data.batches

    def _open_data_of_process(self, config: TrainConfig, stop: StopRequest) -> OpenedData:
        """Open the training data of this process.

        Args:
            config: The configuration, whose option `data.shards` names the data.
            stop: Interrupts the opening if a signal asks to stop.

        Returns:
            The batches and the index of the data. There are no batches and no index if a signal
            asks to stop before the data are open.
        """
        with suppress(StopWaiting), stop.interrupting():
            return open_data(
                config,
                self._setting.tokenizer,
                rank=self._world.rank,
                world_size=self._world.world_size,
                first_step=self._steps_done,
                positions=self._stream_positions,
            )
        return OpenedData(iter(()), None)

    def _write_missing_checkpoint(self) -> None:
        """Write the checkpoint of the snapshot from which the training resumes, if it is missing.

        The training may have been killed after it wrote the snapshot, or the snapshot may have been
        copied from another place. The checkpoint of a sharded snapshot is written at the end.
        """
        has_resumed_from_snapshot = self._saved_steps == self._steps_done
        if not has_resumed_from_snapshot:
            return
        is_outdated = read_trained_steps(self._checkpoint_path) != self._steps_done
        is_sharded_snapshot = self._snapshots.path(self._steps_done).is_dir()
        should_write = is_outdated and not is_sharded_snapshot
        # The first process decides for all.
        if self._world.gather(should_write)[0]:
            self._save()
            self._wait_for_snapshot()

    def _prepare_views(self, batch: Batch) -> Views:
        """Move the images of a batch to the device, and normalise them.

        Captions stay on the host, where their lengths are needed. Bad samples, which were left out
        of the batch, are counted.
        """
        self._problem_counter.add(batch.problems, seen=batch.views.texts.shape[1])
        device = self._world.device
        views = Views(
            global_images=batch.views.global_images.to(device, non_blocking=True),
            local_images=batch.views.local_images.to(device, non_blocking=True),
            texts=batch.views.texts,
        )
        return normalise(views, self._mean, self._std)

    def _flops_of_step(self, views: Views) -> float | None:
        """Return the FLOPs of this step per sample, which are counted once in each phase.

        Only the first process knows them. Others return None.
        """
        first_step = phase_start(self._steps_done, self._config)
        if first_step not in self._sample_flops and self._world.rank == 0:
            self._sample_flops[first_step] = sample_flops(self._config, views, self._steps_done)
        return self._sample_flops.get(first_step)

    def _total_flops(self) -> float | None:
        """Return the FLOPs of all steps so far, or None if they are unknown."""
        total = 0.0
        for first_step, next_step in pairwise([*sorted(self._sample_flops), self._steps_done]):
            n_samples = (next_step - first_step) * self._config.optim.batch_size
            total += n_samples * self._sample_flops[first_step]
        return total or None

    def _start_step(self, views: Views) -> _StartedStep:
        """Start a training step with the learning rate and the momentum of this step.

        A GPU computes the step after this method has returned. `_finish_step` reads its values.
        """
        optim, compute, step = self._config.optim, self._config.compute, self._steps_done
        if self._training.frozen and step >= self._config.model.freeze_steps:
            unfreeze(self._training, self._world)
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
        scheduled_values = {
            "lr": lr,
            "momentum": momentum,
            "bad_samples": self._problem_counter.bad,
        }
        if optim.max_skipped:
            scheduled_values["skipped_steps"] = self._training.skipped_steps.count
        return _StartedStep(step, scheduled_values, report)

    def _finish_step(self, watch: Watch) -> None:
        """Wait for the step that was started last, check its values, and log them.

        If this step is finished already, nothing is done. A step must be finished before a snapshot
        is written.

        Args:
            watch: Logs the values of the step.

        Raises:
            FloatingPointError: If a loss or the gradient is not finite, and the step was not
                skipped. All processes raise it.
        """
        if self._unfinished_step is None:
            return
        step, scheduled_values, report = self._unfinished_step
        self._unfinished_step = None
        try:
            values = report.check()
            require_scale(self._training.scaler, values["gradient_norm"])
        except FloatingPointError as error:
            if not report.is_skipped:
                message = f"step {step}: {error}; no snapshot has this step"
                raise FloatingPointError(message) from error
            watch.say(f"step {step}: skipped, because {error}")
            values = report.read()
        record: dict[str, float] = {"samples_seen": (step + 1) * self._config.optim.batch_size}
        record.update(scheduled_values)
        record.update(values)
        record["total"] = sum(report.terms.values())
        watch.show_step(step, record)

    def _evaluate(self, evaluator: Evaluator, watch: Watch) -> None:
        """Evaluate the newest checkpoint, and log the metrics.

        If the metric that `save.best` names is the best so far, its snapshot is kept.

        Args:
            evaluator: Measures a checkpoint.
            watch: Logs the metrics.

        Raises:
            ValueError: If the metric does not exist.
        """
        self._wait_for_snapshot()
        self._write_checkpoint_if_sharded()
        metrics = evaluate(evaluator, self._checkpoint_path, self._config.watch, self._world)
        watch.show_evaluation(self._steps_done - 1, metrics)

        # The first process compares the metric with the best one so far.
        metric_name, best = self._config.save.best, self._snapshots.best()
        if not metric_name or self._world.rank > 0:
            return
        if metric_name not in metrics:
            names = ", ".join(sorted(metrics))
            raise ValueError(f"save.best names {metric_name}, not among {names}")
        value = metrics[metric_name]
        if math.isnan(value):
            return
        # The best value in the file may be NaN, and any number is better than that.
        is_best = best is None or math.isnan(best.value) or value > best.value
        if is_best:
            self._snapshots.note_best(snapshot.Best(self._steps_done, value))

    def _save(self) -> None:
        """Copy the state to the host, and let a thread write it while the training goes on.

        The first process writes a snapshot and a checkpoint of the weights. If weights are sharded,
        each process writes its shards to the snapshot.
        """
        self._wait_for_snapshot()
        state = self._collect_state()
        is_main = self._world.rank == 0
        if is_main or self._background_world is not None:
            self._host_copy = snapshot.HostCopy(state, self._host_copy)
            metadata = self._training_metadata() if is_main else {}
            self._write_result = self._writer.submit(
                self._write_snapshot, self._steps_done, self._host_copy, metadata
            )
        self._saved_steps = self._steps_done

    def _collect_state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, by name.

        All processes must call this method together.
        """
        # Add up the bad samples of all processes, by the kind of problem.
        counts_by_rank = self._world.gather(self._problem_counter.state())
        total_counts = {}
        for kind in counts_by_rank[0]:
            total_counts[kind] = sum(counts[kind] for counts in counts_by_rank)

        # Collect how far the data workers of all processes have read their streams. Data that are
        # read from local tars have no positions.
        streams = None
        if self._stream_positions:
            positions_by_rank = self._world.gather(self._stream_positions)
            streams = pack_positions(positions_by_rank, stream_workers(self._config))
        return {
            "config": snapshot.plain_config(self._config),
            "student": self._models["student"].state_dict(),
            "teacher": self._models["teacher"].state_dict(),
            "optimizer": self._training.optimizer.state_dict(),
            "scaler": self._training.scaler.state_dict(),
            "random": self._world.gather(snapshot.random_state()),
            "problems": total_counts,
            "skipped_steps": self._training.skipped_steps.count,
            "seconds": self._seconds,
            "sample_flops": self._sample_flops,
            "data": self._data_fingerprint,
            "init_sha256": self._pretrained_sha256,
            "streams": streams,
        }

    def _wait_for_snapshot(self) -> None:
        """Wait until the thread has written the newest snapshot.

        If it has failed in any process, all processes raise its error.
        """
        self._world.synchronized(self._write_result.result)

    def _write_checkpoint_if_sharded(self) -> None:
        """Write the checkpoint of the newest snapshot, if that is sharded.

        The first process writes it from the shards, and the other processes wait.
        """

        def write_checkpoint() -> None:
            """Read the whole weights from the snapshot, and write them to the checkpoint."""
            path = self._snapshots.path(self._steps_done)
            if path.is_dir():
                tensors, metadata = read_weights(path)
                write_weights(self._checkpoint_path, tensors, metadata)

        self._world.main_process_only(write_checkpoint)

    def _write_snapshot(
        self, step: int, host_copy: snapshot.HostCopy, training_metadata: Mapping[str, Any]
    ) -> None:
        """Write a snapshot, and also a checkpoint if the weights are not sharded.

        A thread calls this method.

        Args:
            step: The number of training steps so far.
            host_copy: The state of the training in host memory, which a GPU may still be copying.
            training_metadata: How the model was trained so far.
        """
        state = host_copy.state()
        metadata = self._model_metadata(training_metadata)
        if self._background_world is not None:
            self._snapshots.save_sharded(step, state, metadata, self._background_world)
        else:
            self._snapshots.save(step, state)
        if self._remote_copies is not None:
            self._remote_copies.start()

        weights_are_sharded = self._background_world is not None
        if not weights_are_sharded:
            tensors = {}
            for model_name in self._models:
                for key, tensor in state[model_name].items():
                    tensors[f"{model_name}.{key}"] = tensor
            write_weights(self._checkpoint_path, tensors, metadata)

    def _model_metadata(self, training_metadata: Mapping[str, Any]) -> dict[str, str]:
        """Return the metadata of a checkpoint: the model, the method, and how it was trained."""
        method, architecture = self._config.method, self._config.architecture
        # A model without memory is enough to describe it.
        with torch.device("meta"):
            model = method.create_student(architecture)
        return describe(model, method.name, model_config(architecture), training_metadata)

    @cached_property
    def _code(self) -> CodeState:
        """The commit of the code that trains, and whether it was changed since."""
        return code_state()

    def _training_metadata(self) -> dict[str, Any]:
        """Return how the model was trained so far, as a checkpoint states it."""
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
            "flops": self._total_flops(),
            "init_sha256": self._pretrained_sha256,
            # Versions decode, resize and render with other rounding.
            "opencv": cv2.__version__,
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
    """Return the next batch, or None if a signal asks to stop before there is one.

    Args:
        batches: The batches of the training.
        stop: Interrupts the waiting if a signal asks to stop.

    Raises:
        ChildProcessError: If a data worker has died, and no signal has asked to stop.
    """
    try:
        with stop.interrupting():
            return next(batches)
    except StopWaiting:
        return None
    except ChildProcessError:
        # The signal may also have reached the data workers, and ended them.
        if stop.requested:
            return None
        raise


def _data_fingerprint(data: OpenedData, config: TrainConfig) -> list[list[Any]] | None:
    """Return a list with an entry for each shard, by which training data can be compared.

    Args:
        data: The opened data.
        config: The configuration, whose option `data.shards` names the data.

    Returns:
        For local tars, the name, the size, the number of samples and a hash of each shard:
        [["a.tar", 2048, 5, "0123..."]]. For streams, only the name: [["a.tar"], ["b.tar"]]. None if
        a signal asked to stop before local tars were indexed.
    """
    if data.sample_index is not None:
        return data.sample_index.fingerprint()
    shard_sets = parse_shards(config.data)
    if not shard_sets.streams:
        return None
    # "https://example.org/data/a.tar" -> "a.tar"
    file_names = [shard.rpartition("/")[2] for shard in shard_sets.shards]
    return [[name] for name in file_names]
