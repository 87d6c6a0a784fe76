"""Measure models on data sets: load a model, open the data, measure, and store the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cosmos_core.utils.distributed import own_device
from cosmos_eval import types
from cosmos_eval.data.sources import archive_notes
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.models.training import training_record
from cosmos_eval.results.filenames import predictions_name
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import store_result
from cosmos_eval.runner import plan as plans
from cosmos_eval.runner.facts import Encoded, facts_of
from cosmos_eval.runner.provenance import describe_environment, make_row, notes_of
from cosmos_eval.tasks import task_for


def run_all(
    plan: plans.Plan,
    show_progress: plans.ShowProgress = plans.show_no_progress,
    output: Path | None = None,
    datasets: Sequence[plans.Dataset] | None = None,
) -> Iterator[plans.Result]:
    """Yield a result for every model and data set of the plan, job by job.

    All data sets are opened before the first model is loaded, unless `datasets` are open already.
    Results are stored in the folder `output`. Without it, the caller should store each result
    before it requests the next one: the finished parts of a measurement, from which a killed run
    resumes, are then removed. Raises UsageError for bad data or models, in all processes.
    """
    if datasets is None:
        datasets = plans.open_datasets(plan, show_progress)
    worker = Worker(show_progress)
    for job in plans.jobs_of(plan, datasets, output=output):
        yield from worker.measure(job)


class Worker:
    """Runs jobs one after the other, and keeps the loaded model if the next job has the same."""

    def __init__(self, show_progress: plans.ShowProgress = plans.show_no_progress) -> None:
        self._show_progress = show_progress
        self._model: LoadedModel | None = None
        # The fields of a job that decide which model is loaded.
        self._model_key: tuple[Any, ...] = ()
        # The error that loading the model of this key raised.
        self._load_error: Exception | None = None

    def run(self, job: plans.Job) -> list[plans.Result]:
        """Measure a job, store its results, and return them.

        If an error ends the job, the results that are missing are returned with this error.
        """
        results: list[plans.Result] = []
        try:
            results.extend(self.measure(job))
        except Exception as error:
            results += job.failed(error, len(results))
        return results

    def measure(self, job: plans.Job) -> Iterator[plans.Result]:
        """Load the model of a job unless it is loaded, and yield results as `measure` does.

        Raises the error of loading. A model that could not be loaded is not loaded again.
        """
        options = job.options
        model_key = (job.spec, options.precision, options.auxiliary, options.device)
        if model_key != self._model_key:
            # The memory of the last model is freed before the next model is loaded.
            self._model = None
            self._load_error = None
            self._model_key = model_key
            try:
                self._model = _load_model(job, self._show_progress)
            except Exception as error:
                self._load_error = error
        if self._model is None:
            assert self._load_error is not None
            raise self._load_error
        yield from measure(self._model, job, self._show_progress)


class LoadedModel:
    """A loaded model, with the records of it that results hold.

    The records are made when they are first used. The first use follows the first measurement,
    which gives better messages for a faulty model.
    """

    def __init__(
        self,
        encoder: Encoder,
        spec: types.ModelSpec,
        options: types.RunOptions,
        show_progress: plans.ShowProgress = plans.show_no_progress,
        load_seconds: float = 0.0,
    ) -> None:
        self.encoder = encoder
        self.spec = spec
        self.load_seconds = load_seconds
        self._options = options
        self._show_progress = show_progress
        self._training: Mapping[str, Any] | None = None
        self._facts: Mapping[str, Any] | None = None

    @property
    def training(self) -> Mapping[str, Any]:
        """The record of the model's training; empty for random weights."""
        if self._training is None:
            self._training = {} if self.encoder.info.random else training_record(self.spec)
        return self._training

    @property
    def facts(self) -> Mapping[str, Any]:
        """The size and the cost of the model, as results record them."""
        if self._facts is None:
            self._facts = facts_of(self.encoder, self.spec, self._options, self._report)
        return self._facts

    def _report(self, note: str) -> None:
        self._show_progress(self.spec.called, types.Progress("facts", 0, 1, note=note))


def _load_model(job: plans.Job, show_progress: plans.ShowProgress) -> LoadedModel:
    """Load the model of a job, in all processes, and show its notes."""
    from cosmos_eval.models import load_encoder

    started = time.perf_counter()
    options = job.options

    def load() -> Encoder:
        return load_encoder(
            job.spec,
            device=own_device(options.device),
            precision=options.precision,
            auxiliary=options.auxiliary,
        )

    show_progress(job.spec.called, types.Progress("load", 0, 1))
    encoder = options.distributed.synchronized(load)
    for note in ("", *notes_of(encoder)):
        show_progress(job.spec.called, types.Progress("load", 1, 1, note))
    return LoadedModel(encoder, job.spec, options, show_progress, time.perf_counter() - started)


@dataclass
class OpenedJob:
    """The opened data of a job."""

    # The protocol of every data set, and what its task's `open_data` returned.
    protocols: list[types.Protocol]
    data: list[Any]
    # How long opening took. For streamed data sets, images were encoded in this time.
    seconds: float


def measure(
    model: LoadedModel, job: plans.Job, show_progress: plans.ShowProgress = plans.show_no_progress
) -> Iterator[plans.Result]:
    """Yield a result per protocol of a job, in their order, from one pass over their images.

    The caller should store each result before it requests the next one, as in `run_all`.
    """
    describe_environment()  # records the state of the code now, before it can be edited
    started = time.perf_counter()
    options = _with_predictions_folder(job)
    encoded = Encoded(partial(show_progress, _title(job)))
    opened = _open_job(model.encoder, job, options, encoded)
    task = task_for(opened.protocols[0])
    measurements = task.measure(model.encoder, opened.protocols, opened.data, options, encoded)
    for protocol, data, measurement in zip(
        opened.protocols, opened.data, measurements, strict=True
    ):
        measurement = replace(measurement, notes=(*measurement.notes, *archive_notes(data)))
        seconds = _seconds_by_phase(model, measurement, opened, options, started)
        images_per_second = encoded.per_second(seconds, options)
        if not task.shares_pass:
            encoded.restart()
        found_samples = None
        if options.allow_partial:
            found_samples = getattr(data, "found_samples", None)
        row = make_row(model, job, protocol, measurement, found_samples, seconds, images_per_second)
        yield _store(protocol, row, measurement.samples, job)


def _with_predictions_folder(job: plans.Job) -> types.RunOptions:
    """Return the options with the model's own folder for predicted label maps."""
    options = job.options
    if options.save_predictions is None:
        return options
    name = predictions_name(job.spec.called, options.auxiliary)
    return replace(options, save_predictions=str(Path(options.save_predictions, name)))


def _title(job: plans.Job) -> str:
    """Return the title of a job's progress: the model and the data sets."""
    names = dict.fromkeys(dataset.protocol.dataset for dataset in job.datasets)
    return f"{job.spec.called} on {' + '.join(names)}"


def _open_job(
    encoder: Encoder, job: plans.Job, options: types.RunOptions, progress: Encoded
) -> OpenedJob:
    """Return the data of a job. Data that were not opened with the plan are opened now.

    The images of a streamed data set are encoded while it is opened.
    """
    started = time.perf_counter()
    protocols = []
    data_of_protocols = []
    for dataset in job.datasets:
        protocol, data = dataset.protocol, dataset.data
        open_data: Callable[..., Any] = task_for(protocol).open_data
        if not data and options.streams(protocol):
            from cosmos_eval.embedding.stream import stream  # which imports the hub's client

            data = stream(encoder, protocol, options, progress, open_data)
        elif not data:
            data = open_data(protocol, options)
        protocols.append(protocol)
        data_of_protocols.append(data)
    return OpenedJob(protocols, data_of_protocols, time.perf_counter() - started)


def _seconds_by_phase(
    model: LoadedModel,
    measurement: types.Measurement,
    opened: OpenedJob,
    options: types.RunOptions,
    started: float,
) -> dict[str, float]:
    """Return the wall time of a measurement by phase.

    `started` is the `perf_counter` at the start of the job.
    """
    seconds = {"load": model.load_seconds, **measurement.seconds}
    if options.stream:  # images were encoded while the data were opened
        seconds["images"] = seconds.get("images", 0.0) + opened.seconds
    seconds["total"] = time.perf_counter() - started
    return seconds


def _store(
    protocol: types.Protocol, row: ResultRow, samples: types.Samples, job: plans.Job
) -> plans.Result:
    """Return the result of a measurement, stored in the output folder if the job has one.

    Only the main process stores it, and only its result has the path.
    """
    pair = plans.pair_of(job.spec, protocol)
    if job.output is None:
        return plans.Result(pair, row, samples)
    write = partial(store_result, job.output, row, samples)
    stored = job.options.distributed.main_process_only(write)
    if stored is None:
        return plans.Result(pair, row)
    return plans.Result(pair, stored.row, path=stored.path, aside=stored.displaced_path)
