"""Measure models on data sets: Plan -> Job -> Result."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from cosmos_core.utils import environment
from cosmos_core.utils.distributed import own_device
from cosmos_eval import types
from cosmos_eval._version import __version__
from cosmos_eval.data.sources import archive_notes
from cosmos_eval.embedding.cache import embeddings_folder
from cosmos_eval.models.encoder import Encoder, require_encoder
from cosmos_eval.models.specs import labelled
from cosmos_eval.models.training import training_record
from cosmos_eval.results.filenames import predictions_name
from cosmos_eval.results.record import SCHEMA_VERSION, ResultRow
from cosmos_eval.results.store import store_result
from cosmos_eval.runner import plan as plans
from cosmos_eval.runner.bars import bars
from cosmos_eval.runner.facts import Encoded, facts_of
from cosmos_eval.tasks import packages_of, task_for, task_of


def run_all(
    plan: plans.Plan,
    watch: plans.Watch = plans.unwatched,
    output: Path | None = None,
    datasets: Sequence[plans.Dataset] | None = None,
) -> Iterator[plans.Result]:
    """Yield a result for every model and data set of the plan, job by job.

    All data sets are opened before the first model is loaded, unless `datasets` are open already.
    Results are stored in `output`; without it, a result should be stored before the next is
    requested, since cached parts of unfinished measurements are removed then. Raises UsageError
    for bad data or models, in all processes.
    """
    datasets = plans.open_datasets(plan, watch) if datasets is None else datasets
    for results in map(Worker(watch).measure, plans.jobs_of(plan, datasets, output=output)):
        yield from results


class Worker:
    """Run jobs one after the other; keep the last model, which the next job may use as well."""

    def __init__(self, watch: plans.Watch = plans.unwatched) -> None:
        self._watch = watch
        self._loaded: tuple[Any, ...] = ()
        self._model: Loaded | Exception | None = None

    def run(self, job: plans.Job) -> list[plans.Result]:
        """Measure a job and store its results. An error is that of all results that are missing."""
        results: list[plans.Result] = []
        try:
            results.extend(self.measure(job))
        except Exception as error:
            results += job.failed(error, len(results))
        return results

    def measure(self, job: plans.Job) -> Iterator[plans.Result]:
        """Yield results as `measure` does. A model that cannot be loaded is not tried again."""
        how = job.options
        wanted = (job.spec, how.precision, how.auxiliary, how.device)
        if wanted != self._loaded:
            self._loaded, self._model = wanted, None  # its memory is free before the next
            try:
                self._model = _load(job, self._watch)
            except Exception as error:
                self._model = error
        if isinstance(self._model, Exception):
            raise self._model
        assert self._model is not None  # it was loaded or failed
        yield from measure(self._model, job, self._watch)


@dataclass
class Loaded:
    """A model, and how long it took to load. Its facts are counted after its first measurement,
    which reports the faults of a user's model."""

    encoder: Encoder
    spec: types.ModelSpec
    options: types.RunOptions
    watch: plans.Watch = plans.unwatched
    seconds: float = 0.0

    @cached_property
    def training(self) -> Mapping[str, Any]:
        return {} if self.encoder.info.random else training_record(self.spec)

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        def note(line: str) -> None:
            self.watch(self.spec.called, types.Progress("facts", 0, 1, note=line))

        return facts_of(self.encoder, self.spec, self.options, note)


def _load(job: plans.Job, watch: plans.Watch) -> Loaded:
    """Return the model of a job."""
    from cosmos_eval.models import load_encoder

    started, options = time.perf_counter(), job.options
    watch(job.spec.called, types.Progress("load", 0, 1))
    load = partial(load_encoder, job.spec, precision=options.precision, auxiliary=options.auxiliary)
    encoder = options.distributed.synchronized(lambda: load(device=own_device(options.device)))
    for note in ("", *notes_of(encoder)):
        watch(job.spec.called, types.Progress("load", 1, 1, note))
    return Loaded(encoder, job.spec, options, watch, time.perf_counter() - started)


def notes_of(encoder: Encoder) -> Sequence[str]:
    """Return what loading a model found worth a note, such as weights that are not used."""
    notes: Sequence[str] = getattr(encoder, "notes", ())
    return notes


_environment = cache(partial(environment.describe, __version__))


def measure(
    loaded: Loaded, job: plans.Job, watch: plans.Watch = plans.unwatched
) -> Iterator[plans.Result]:
    """Yield a result per protocol of a job, in their order, from one pass over their images.

    A result should be stored before the next is requested, as in `run_all`.
    """
    _environment()  # the state of the code before it can be edited
    started, options, encoder = time.perf_counter(), job.options, loaded.encoder
    protocols = [dataset.protocol for dataset in job.datasets]
    names = dict.fromkeys(protocol.dataset for protocol in protocols)
    what = f"{job.spec.called} on {' + '.join(names)}"
    if options.save_predictions is not None:
        folder = Path(
            options.save_predictions, predictions_name(job.spec.called, options.auxiliary)
        )
        options = replace(options, save_predictions=str(folder))
    task = task_for(protocols[0])
    encoded = Encoded(partial(watch, what))
    data = [one.data or _open(encoder, one.protocol, options, encoded) for one in job.datasets]
    opened_after = time.perf_counter() - started
    measurements = task.measure_all(encoder, protocols, options, encoded, data)
    for protocol, opened, measurement in zip(protocols, data, measurements, strict=True):
        noted = replace(measurement, notes=(*measurement.notes, *archive_notes(opened)))
        seconds = {"load": loaded.seconds, **measurement.seconds}
        seconds |= {"images": seconds.get("images", 0.0) + opened_after} if options.stream else {}
        seconds["total"] = time.perf_counter() - started
        part = getattr(opened, "part", None) if options.allow_partial else None
        provenance = _provenance(encoder, protocol, noted, part, job, seconds)
        provenance["images_per_second"] = encoded.per_second(seconds, options)
        if task.measure_together is None:  # else all have the same pass
            encoded.restart()
        row = _row(loaded, protocol, measurement, provenance)
        yield _store(protocol, row, measurement.samples, job)


def _open(
    encoder: Encoder, protocol: types.Protocol, options: types.RunOptions, progress: Encoded
) -> Any:
    """Return data that were not opened with the plan; images that are streamed are encoded."""
    open_data = task_for(protocol).open_data
    if not options.streams(protocol):
        return open_data(protocol, options)
    from cosmos_eval.embedding.stream import stream  # which imports the hub's client

    return stream(encoder, protocol, options, progress, open_data)


def _store(
    protocol: types.Protocol, row: ResultRow, samples: types.Samples, job: plans.Job
) -> plans.Result:
    result = partial(plans.Result, plans.pair_of(job.spec, protocol))
    if job.output is None:
        return result(row, samples)
    write = partial(store_result, job.output, row, samples)
    stored = job.options.distributed.main_process_only(write)
    if stored is None:
        return result(row)
    return result(stored.row, path=stored.path, aside=stored.aside)


def _row(
    loaded: Loaded,
    protocol: types.Protocol,
    measurement: types.Measurement,
    provenance: dict[str, Any],
) -> ResultRow:
    info = loaded.encoder.info
    return ResultRow(
        schema_version=SCHEMA_VERSION,
        model={
            "spec": info.spec,
            "architecture": info.architecture,
            "weights": info.weights,
            "weights_sha256": info.weights_sha256,
            "random": info.random,
            **({"name": loaded.spec.label} if loaded.spec.label else {}),
            **{k: v for k in ("code_sha256", "revision") if (v := getattr(info, k))},
            **({"training": loaded.training} if loaded.training else {}),
            "facts": loaded.facts,
        },
        task=task_of(protocol),
        dataset=protocol.dataset,
        protocol=protocol.family,
        metrics=dict(measurement.metrics),
        intervals={name: value._asdict() for name, value in measurement.intervals.items()},
        per_class=measurement.per_class,
        confusion_pairs=measurement.confusion_pairs,
        n_samples=measurement.n_samples,
        provenance=provenance,
        samples="",
        source="measured",
    )


def settings_of(
    protocol: types.Protocol, options: types.RunOptions, part: types.Part | None
) -> dict[str, Any]:
    """Return the settings in a provenance that make a result another than the plain one."""
    own = task_for(protocol).attention(protocol)
    return {
        "precision": options.precision,
        "limit": options.limit,
        **({} if part is None else {"partial": str(part)}),
        "attention": (options.attention or own) if own else None,
        "protocol_attention": own,
        **({} if options.auxiliary is None else {"auxiliary": {"spec": options.auxiliary}}),
    }


def _provenance(
    encoder: Encoder,
    protocol: types.Protocol,
    measurement: types.Measurement,
    part: types.Part | None,
    job: plans.Job,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    info, options, common = encoder.info, job.options, _environment()
    named = {"repository": protocol.repository, "revision": protocol.revision}
    return {
        **common,
        "packages": {**common["packages"], **packages_of(task_of(protocol))},
        "command": job.command,
        "utc": environment.utc_now(),
        "device": info.device,
        "seed": options.seed,
        **settings_of(protocol, replace(options, precision=info.precision), part),
        **({} if info.auxiliary is None else {"auxiliary": dict(info.auxiliary)}),
        **(named if protocol.repository else {}),
        **measurement.settings,
        "batch_size": options.batch_size,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory_bytes": environment.peak_memory_bytes(),
        "hashes": dict(measurement.hashes),
        "notes": [
            *measurement.notes,
            *notes_of(encoder),
            *([] if part is None else [f"{part} were found"]),
        ],
    }


def evaluate(
    model: str | Encoder,
    dataset: str,
    *,
    name: str | None = None,
    protocol: str | None = None,
    data_root: str | None = None,
    download: bool = False,
    stream: bool = False,
    arch: str | None = None,
    weights: types.Weights = "teacher",
    attention: types.Attention | None = None,
    auxiliary: str | None = None,
    device: str = "auto",
    precision: types.Precision = "fp32",
    batch_size: int = types.RunOptions.batch_size,
    workers: int = types.RunOptions.workers,
    limit: int | None = None,
    allow_partial: bool = False,
    cache: bool = True,
    output: str | Path | None = None,
    progress: bool = False,
) -> ResultRow:
    """Measure a model on a data set, both named as on the command line.

    `model` may also be an encoder, ready on its device. It is measured in evaluation mode, and
    every submodule then gets its former mode back. Its embeddings are not cached, since its code is
    unknown here, and `arch`, `weights`, `auxiliary`, `device` and `precision` must not be given.

    `name` is what tables call the model. `protocol` defaults to the data set's usual one;
    `download` fetches a missing set of torchvision below `data_root`, and a webdataset; `stream`
    measures a webdataset while it arrives, and keeps none of it without `download`; `limit`
    measures the first samples only, `allow_partial` the samples found of a known set that is not
    complete; `cache` keeps embeddings in the folder that `cosmos-eval cache info` shows; `progress`
    shows a bar, in terminals and notebooks. The result is stored in the folder `output`, in place
    of a former one, or without it not at all. Metrics are fractions in [0, 1], ranks start at 1.
    Raises UsageError for unknown names, missing or inconsistent data and what is no encoder.
    """
    options = types.RunOptions(
        data_root=data_root,
        download=download,
        stream=stream,
        attention=attention,
        auxiliary=auxiliary,
        device=device,
        precision=precision,
        batch_size=batch_size,
        workers=workers,
        limit=limit,
        allow_partial=allow_partial,
        cache=str(embeddings_folder()) if cache and isinstance(model, str) else None,
        unfinished=None if output is None else str(Path(output, ".partial")),
    )
    folder = None if output is None else Path(output)
    plans.require_outputs(options, folder)
    families = [protocol] if protocol else []
    named = partial(plans.make_plan, datasets=[dataset], families=families, options=options)
    of_named = arch, weights, auxiliary, device, precision
    if not isinstance(model, str) and of_named != (None, "teacher", None, "auto", "fp32"):
        raise types.UsageError("arch, weights, auxiliary, device, precision go with a named model")
    with bars(shown=progress) as watch:
        if isinstance(model, str):
            names = [name] if name is not None else []
            made = named(models=[model], names=names, arch=arch, weights=weights)
            (result,) = run_all(made, watch, folder)
        else:
            result = _measure_object(model, named(), name, watch, folder)
    assert result.row is not None
    return result.row


def _measure_object(
    encoder: Encoder,
    plan: plans.Plan,
    label: str | None,
    watch: plans.Watch,
    output: Path | None,
) -> plans.Result:
    """Measure an encoder in place of the models of a plan for one data set."""
    name = type(encoder).__name__
    (spec,) = labelled([types.ModelSpec(text=name, kind="python", name=name)], [label])
    datasets = plans.open_datasets(plan, watch)
    from cosmos_eval.models.live import evaluation_mode  # which imports torch

    with evaluation_mode(encoder):
        require_encoder(encoder, name)
        (job,) = plans.jobs_of(replace(plan, specs=[spec]), datasets, output=output)
        (result,) = measure(Loaded(encoder, job.spec, job.options, watch), job, watch)
    return result
