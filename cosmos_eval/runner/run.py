"""Measure models on data sets: load a model, open the data, measure, and store the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from cosmos_core.utils.distributed import own_device
from cosmos_eval import types
from cosmos_eval.data.sources import archive_notes
from cosmos_eval.data.wordings import reworded_data
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.models.specs import description_sha256
from cosmos_eval.models.training import training_record
from cosmos_eval.results.filenames import predictions_name
from cosmos_eval.results.record import ResultRow
from cosmos_eval.results.store import store_result
from cosmos_eval.runner import plan as plans
from cosmos_eval.runner.facts import ImageCounter, facts_of
from cosmos_eval.runner.provenance import describe_environment, make_row
from cosmos_eval.tasks import task_for


def run_all(
    plan: plans.Plan,
    show_progress: plans.ShowProgress = plans.show_no_progress,
    output: Path | None = None,
    datasets: Sequence[plans.Dataset] | None = None,
) -> Iterator[plans.Result]:
    """Yield a result for every model and data set of the plan, job by job.

    The caller should store each result before it requests the next one, unless `output` is given:
    the finished parts of a measurement, from which a killed run resumes, are then removed.

    Args:
        plan: The models and data sets.
        show_progress: Shows how far the run is.
        output: The folder that results are stored in; None: they are not stored.
        datasets: The opened data sets of the plan. None: all of them are opened before the first
            model is loaded.

    Raises:
        UsageError: For bad data or models, in all processes.
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
        # The fields of the last job that decided which model was loaded.
        self._model_key: tuple[Any, ...] = ()
        # The error that loading the model of this key raised, if it failed.
        self._load_error: Exception | None = None

    def run(self, job: plans.Job) -> list[plans.Result]:
        """Measure a job, store its results, and return one result for each of its data sets.

        If an error ends the job, the results that are missing are returned with this error.
        """
        results: list[plans.Result] = []
        try:
            for result in self.measure(job):
                results.append(result)
        except Exception as error:
            is_load_error = error is self._load_error
            results += job.failed(error, n_done=len(results), is_load_error=is_load_error)
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
                self._model = load_model(job, self._show_progress)
            except Exception as error:
                self._load_error = error
        if self._model is None:
            assert self._load_error is not None
            raise self._load_error
        yield from measure(self._model, job, self._show_progress)


@dataclass
class LoadedModel:
    """A loaded model, and what its results say about it."""

    encoder: Encoder
    spec: types.ModelSpec
    options: types.RunOptions
    show_progress: plans.ShowProgress = plans.show_no_progress
    # How long loading took.
    load_seconds: float = 0.0
    # The step of the training in which the model is measured; None for a finished model.
    step: int | None = None
    # The size and the cost of the model; None: they are counted.
    facts: Mapping[str, Any] | None = None

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """The record of the model that all its results hold as `model`. Empty fields are left out.

        It is made after the first measurement, which gives better messages for a faulty model.
        Raises UsageError if the checkpoint and the user state different facts about the training.
        """
        info = self.encoder.info
        record: dict[str, Any] = {
            "spec": info.spec,
            "architecture": info.architecture,
            "weights": info.weights,
            "weights_sha256": info.weights_sha256,
            "random": info.random,
        }
        if self.spec.label:
            record["name"] = self.spec.label
        if info.code_sha256:
            record["code_sha256"] = info.code_sha256
        if info.revision:
            record["revision"] = info.revision
        if info.loaded_sha256:
            record["loaded_sha256"] = info.loaded_sha256
        if info.preprocessing_sha256:
            record["preprocessing_sha256"] = info.preprocessing_sha256
        description_hash = description_sha256(self.spec)
        if description_hash:
            record["description_sha256"] = description_hash
        # What identifies the training, such as its seed. Random weights have none.
        training = {} if info.random else training_record(self.spec)
        if training:
            record["training"] = training
        if self.step is not None:
            record["step"] = self.step
        # The size and the cost of the model.
        if self.facts is None:
            self.facts = facts_of(self.encoder, self.spec, self.options, self._show_note)
        record["facts"] = self.facts
        return record

    def _show_note(self, note: str) -> None:
        """Show a note about a fact of the model that cannot be counted."""
        self.show_progress(self.spec.called, types.Progress("facts", 0, 1, note=note))


def load_model(job: plans.Job, show_progress: plans.ShowProgress) -> LoadedModel:
    """Load the model of a job, in all processes, and show its notes."""
    from cosmos_eval.models import load_encoder

    title = job.spec.called
    options = job.options
    show_progress(title, types.Progress("load", done=0, total=1))

    started = time.perf_counter()
    encoder = options.distributed.synchronized(
        load_encoder,
        job.spec,
        device=own_device(options.device),
        precision=options.precision,
        auxiliary=options.auxiliary,
    )
    load_seconds = time.perf_counter() - started

    show_progress(title, types.Progress("load", done=1, total=1))
    # Most models have no notes. A note says, for example, that some weights are not used.
    for note in getattr(encoder, "notes", ()):
        show_progress(title, types.Progress("load", done=1, total=1, note=note))
    spec = job.spec.named_by(encoder.info)
    return LoadedModel(encoder, spec, options, show_progress, load_seconds)


@dataclass
class OpenedJob:
    """The data sets of a job after they were opened. Both lists have the order of the job."""

    # The protocol of each data set.
    protocols: list[types.Protocol]
    # The data of each data set, as its task's `open_data` returned them.
    data: list[Any]
    # How long opening took in all. For streamed data sets, images were encoded in this time.
    seconds: float


def measure(
    model: LoadedModel, job: plans.Job, show_progress: plans.ShowProgress = plans.show_no_progress
) -> Iterator[plans.Result]:
    """Yield a result for each data set of a job, in their order, from one pass over their images.

    The caller should store each result before it requests the next one, as in `run_all`.

    Args:
        model: The model of the job.
        job: The model's specification, the data sets and the options.
        show_progress: Shows how far the measurement is.
    """
    describe_environment()  # records the state of the code now, before it can be edited
    started = time.perf_counter()
    options = job.options
    if options.save_predictions is not None:
        # Every model has a folder of its own for its predicted label maps.
        folder = predictions_name(model.spec.called, options.auxiliary)
        options = replace(options, save_predictions=str(Path(options.save_predictions, folder)))
    protocols = [dataset.protocol for dataset in job.datasets]
    names_of_sets = [protocol.language_set or protocol.dataset for protocol in protocols]
    dataset_names = dict.fromkeys(names_of_sets)
    title = f"{model.spec.called} on {' + '.join(dataset_names)}"
    progress = ImageCounter(partial(show_progress, title))

    opened = _open_job(model.encoder, job, options, progress)
    task = task_for(opened.protocols[0])
    measurements = task.measure(model.encoder, opened.protocols, opened.data, options, progress)
    for protocol, data, measurement in zip(
        opened.protocols, opened.data, measurements, strict=True
    ):
        seconds_by_phase = {"load": model.load_seconds, **measurement.seconds}
        if options.stream:  # images were encoded while the data were opened
            seconds_by_phase["images"] = seconds_by_phase.get("images", 0.0) + opened.seconds
        seconds_by_phase["total"] = time.perf_counter() - started
        images_per_second = progress.images_per_second(seconds_by_phase, options.distributed)
        if not task.shares_pass:
            progress.restart()

        found_samples = None
        if options.allow_partial:
            found_samples = getattr(data, "found_samples", None)
        row = make_row(
            model,
            job,
            protocol,
            replace(measurement, notes=(*measurement.notes, *archive_notes(data))),
            found_samples,
            seconds_by_phase,
            images_per_second,
        )
        yield store(protocol, row, measurement.samples, job)


def _open_job(
    encoder: Encoder, job: plans.Job, options: types.RunOptions, progress: types.OnProgress
) -> OpenedJob:
    """Return the data of a job. Data that were not opened with the plan are opened now.

    The images of a streamed data set are encoded while it is opened.

    Args:
        encoder: The model that encodes the images of streamed data sets.
        job: Its data sets are opened.
        options: The options of the job, with the model's own folder for predictions.
        progress: Is called with the progress of streamed data sets.
    """
    started = time.perf_counter()
    protocols = []
    data_of_protocols = []
    for dataset in job.datasets:
        protocol, data = dataset.protocol, dataset.data
        open_data: Callable[..., Any] = task_for(protocol).open_data
        is_open = data is not None  # and not its truth, which is that of a length or an array
        if not is_open and options.streams(protocol):
            from cosmos_eval.embedding.stream import stream  # which imports the hub's client

            data = stream(encoder, protocol, options, progress, open_data)
        elif not is_open:
            data = reworded_data(protocol, open_data(protocol, options))
        protocols.append(protocol)
        data_of_protocols.append(data)
    return OpenedJob(protocols, data_of_protocols, time.perf_counter() - started)


def store(
    protocol: types.Protocol, row: ResultRow, samples: types.Samples, job: plans.Job
) -> plans.Result:
    """Store a measurement in the output folder of its job, and return its result.

    Without an output folder, nothing is stored, and the result holds the samples. With several
    processes, only the main process stores it, and only its result has a path.

    Args:
        protocol: The protocol of the data set that was measured.
        row: The record of the measurement.
        samples: The arrays that its metrics follow from.
        job: The job that the measurement belongs to.

    Raises:
        UsageError: If no metric is defined for the samples, and if the result cannot be stored.
    """
    if not row.metrics:
        raise types.UsageError(
            f"{job.spec.called} on {row.dataset}: no metric is defined, such as a correlation of "
            "scores that are all equal: measure more samples, or another model"
        )
    pair = plans.pair_of(job.spec, protocol)
    if job.output is None:
        return plans.Result(pair, row, samples)
    output = job.output
    stored = job.options.distributed.main_process_only(store_result, output, row, samples)
    if stored is None:  # this is not the main process
        return plans.Result(pair, row)
    return plans.Result(pair, stored.row, path=stored.path, former_result=stored.displaced_path)
