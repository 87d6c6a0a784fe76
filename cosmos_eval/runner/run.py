"""Measure models on data sets: ModelSpec -> Encoder -> Measurement -> ResultRow."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Container, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from cosmos_core.utils import environment
from cosmos_core.utils.distributed import Distributed, own_device
from cosmos_eval._version import __version__
from cosmos_eval.embedding.cache import embeddings_folder
from cosmos_eval.protocols import prepare
from cosmos_eval.results.labels import predictions_of
from cosmos_eval.results.record import SCHEMA_VERSION, ResultRow
from cosmos_eval.runner.plan import (
    Machine,
    Pair,
    Plan,
    choose_protocols,
    pair_of,
    plan_of,
    require_folders,
)
from cosmos_eval.tasks import evaluator_of, fetch, packages_of, part_of, task_of
from cosmos_eval.types import (
    Attention,
    LabelMapProtocol,
    LocalisationProtocol,
    MapKind,
    Measurement,
    ModelSpec,
    Precision,
    Progress,
    Protocol,
    RunOptions,
    UsageError,
    Weights,
)

if TYPE_CHECKING:
    # At run time it would import torch.
    from cosmos_eval.models.encoder import Encoder

Watch = Callable[[str, Progress], None]
"""Told of progress: what is being measured, and how far it is."""


def unwatched(what: str, progress: Progress) -> None:
    """The watch that shows nothing."""


class Finished(NamedTuple):
    """One result and the per-sample arrays that its metrics can be recomputed from."""

    row: ResultRow
    samples: Mapping[str, NDArray[Any]]


def run_all(plan: Plan, watch: Watch = unwatched) -> Iterator[Finished]:
    """Yield a result for every model and data set of the plan, models outermost.

    The data of every data set are checked before the first model is loaded, each model is loaded
    once, and data sets whose images a model sees alike are measured in one pass over them, right
    after each other. A result should be stored before the next is asked for, since what is kept of
    unfinished measurements then goes. Raises UsageError for bad data or models, in all processes.
    """
    check_data(plan, watch)
    yield from measure_all(plan, watch)


class Fault(NamedTuple):
    """A data set that cannot be measured on, and why."""

    protocol: Protocol
    error: Exception


def check_data(plan: Plan, watch: Watch = unwatched) -> None:
    """Look at the data of every data set. Raises UsageError where they cannot be measured on."""
    require_folders(plan)
    for fault in data_faults(plan, watch):
        raise fault.error


def data_faults(plan: Plan, watch: Watch = unwatched) -> Iterator[Fault]:
    """Look at the data of every data set; yield those that cannot be measured on."""
    distributed = plan.options.distributed
    for done, protocol in enumerate(plan.protocols):
        watch("data", Progress("check", done, len(plan.protocols)))
        try:
            distributed.main_process_first(partial(_provide, protocol, plan.options))
            distributed.synchronized(partial(evaluator_of(protocol).check, protocol, plan.options))
        except Exception as error:
            yield Fault(protocol, error)
    watch("data", Progress("check", len(plan.protocols), len(plan.protocols)))


def _provide(protocol: Protocol, options: RunOptions) -> None:
    prepare(protocol)
    if options.download:
        fetch(protocol, options)


class Job(NamedTuple):
    """A model and protocols that it is measured by in one pass over their images."""

    spec: ModelSpec
    protocols: tuple[Protocol, ...]


def jobs_of(plan: Plan, skip: Container[Pair] = ()) -> list[Job]:
    """What a plan measures but for the pairs to be skipped, models outermost.

    Data sets that are measured in one pass stand where the first of them does. Their data are
    assumed to be checked.
    """
    keys = [_image_pass(protocol, plan.options) for protocol in plan.protocols]
    jobs = []
    for spec in plan.specs:
        groups: dict[Hashable, list[Protocol]] = defaultdict(list)
        for protocol, key in zip(plan.protocols, keys, strict=True):
            if pair_of(spec, protocol) not in skip:
                groups[key].append(protocol)
        jobs += [Job(spec, tuple(group)) for group in groups.values()]
    return jobs


def _image_pass(protocol: Protocol, options: RunOptions) -> Hashable:
    return task_of(protocol), evaluator_of(protocol).image_pass(protocol, options)


def measure_all(plan: Plan, watch: Watch = unwatched) -> Iterator[Finished]:
    """`run_all` on data that are checked already."""
    surroundings = environment.describe(__version__)
    jobs = plan.options.distributed.synchronized(partial(jobs_of, plan))
    for spec, own in groupby(jobs, lambda job: job.spec):
        model = load(spec, plan.machine, plan.options.distributed, watch)
        for job in own:
            yield from measure(model, job.protocols, plan.options, surroundings, watch)


def run(
    spec: ModelSpec,
    protocol: Protocol,
    options: RunOptions | None = None,
    machine: Machine | None = None,
) -> ResultRow:
    """Measure one model on one data set. Raises UsageError for bad data or models."""
    plan = Plan(
        specs=[spec],
        protocols=[protocol],
        options=options or RunOptions(),
        machine=machine or Machine(),
    )
    return next(run_all(plan)).row


def evaluate(
    model: str | Encoder,
    dataset: str,
    *,
    protocol: str | None = None,
    data_root: str | None = None,
    download: bool = False,
    arch: str | None = None,
    weights: Weights = "teacher",
    attention: Attention | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    batch_size: int = RunOptions.batch_size,
    workers: int = RunOptions.workers,
    limit: int | None = None,
    allow_partial: bool = False,
    cache: bool = True,
) -> ResultRow:
    """Measure a model on a data set, both named as on the command line.

    `model` may also be an encoder, ready on its device. Its embeddings are not kept, since nothing
    here knows its code, and `arch`, `weights`, `device` and `precision` are left alone.

    `protocol` is the data set's usual one where it is not named; `download` fetches a missing set
    of torchvision below `data_root`; `limit` measures the first samples only, `allow_partial` the
    samples found of a known set that is not complete, and both mark the result; `cache` keeps
    embeddings for the next call, in the folder that `cosmos-eval cache info` shows. Returns the
    result without storing it; metrics are fractions in [0, 1], ranks start at 1. Raises UsageError
    for unknown names, for missing or inconsistent data and for what is no encoder.
    """
    options = RunOptions(
        data_root=data_root,
        download=download,
        attention=attention,
        batch_size=batch_size,
        workers=workers,
        limit=limit,
        allow_partial=allow_partial,
        cache=str(embeddings_folder()) if cache else None,
    )
    protocols = choose_protocols("all", [dataset], [protocol] if protocol else [])
    if not isinstance(model, str):
        if (arch, weights, device, precision) != (None, "teacher", "auto", "fp32"):
            raise UsageError("arch, weights, device and precision are of models that are named")
        return _measure_object(model, protocols[0], options)
    plan = plan_of(
        protocols,
        models=[model],
        arch=arch,
        weights=weights,
        options=options,
        machine=Machine(device=device, precision=precision),
    )
    return next(run_all(plan)).row


def _measure_object(encoder: Encoder, protocol: Protocol, options: RunOptions) -> ResultRow:
    from cosmos_eval.models.encoder import require_encoder

    unkept = replace(options, cache=None)
    check_data(Plan(specs=[], protocols=[protocol], options=unkept))
    require_encoder(encoder, type(encoder).__name__)
    (finished,) = measure(
        Loaded(encoder, 0.0), [protocol], unkept, environment.describe(__version__)
    )
    return finished.row


class Loaded(NamedTuple):
    """A model ready to be measured, and how long it took to load."""

    encoder: Encoder
    seconds: float


def load(
    spec: ModelSpec, machine: Machine, distributed: Distributed, watch: Watch = unwatched
) -> Loaded:
    """Load a model in every process. Raises UsageError, in all, where it cannot be used."""
    started = time.perf_counter()
    watch(spec.text, Progress("load", 0, 1))
    encoder = distributed.synchronized(partial(_load, spec, machine))
    watch(spec.text, Progress("load", 1, 1))
    return Loaded(encoder, time.perf_counter() - started)


def _load(spec: ModelSpec, machine: Machine) -> Encoder:
    from cosmos_eval.models import load_encoder

    return load_encoder(spec, device=own_device(machine.device), precision=machine.precision)


def measure(
    model: Loaded,
    protocols: Sequence[Protocol],
    options: RunOptions,
    surroundings: Mapping[str, Any],
    watch: Watch = unwatched,
) -> Iterator[Finished]:
    """A result a protocol, in their order; one pass over their images, which they share.

    `surroundings` is `environment.describe`'s. A result should be stored before the next is asked
    for, as in `run_all`.
    """
    started = time.perf_counter()
    encoder = model.encoder
    what = f"{encoder.info.spec} on {' + '.join(protocol.dataset for protocol in protocols)}"
    measured = evaluator_of(protocols[0]).measure(
        encoder,
        protocols,
        _own_predictions(options, encoder),
        lambda progress: watch(what, progress),
    )
    for protocol, measurement in zip(protocols, measured, strict=True):
        seconds = {
            "load": model.seconds,
            **measurement.seconds,
            "total": time.perf_counter() - started,
        }
        record = {
            **surroundings,
            "packages": {**surroundings["packages"], **packages_of(task_of(protocol))},
            **_record(encoder, protocol, measurement, options, seconds),
        }
        yield Finished(_row(encoder, protocol, measurement, record), measurement.samples)


def _own_predictions(options: RunOptions, encoder: Encoder) -> RunOptions:
    """The options with a folder of its own for the predictions of one model."""
    if options.save_predictions is None:
        return options
    own = predictions_of(Path(options.save_predictions), encoder.info.spec)
    return replace(options, save_predictions=str(own))


def _row(
    encoder: Encoder,
    protocol: Protocol,
    measurement: Measurement,
    record: Mapping[str, Any],
) -> ResultRow:
    info = encoder.info
    return ResultRow(
        schema_version=SCHEMA_VERSION,
        model={
            "spec": info.spec,
            "architecture": info.architecture,
            "weights": info.weights,
            "weights_sha256": info.weights_sha256,
            "random": info.random,
            **({"code_sha256": info.code_sha256} if info.code_sha256 else {}),
        },
        task=task_of(protocol),
        dataset=protocol.dataset,
        protocol=protocol.family,
        metrics=dict(measurement.metrics),
        intervals={name: value._asdict() for name, value in measurement.intervals.items()},
        per_class=measurement.per_class,
        confusion_pairs=measurement.confusion_pairs,
        n_samples=measurement.n_samples,
        provenance=record,
        samples="",
        source="measured",
    )


def _attention(protocol: Protocol, options: RunOptions) -> dict[str, Attention | None]:
    """The form of the last block that was used, and the one that the protocol is made for."""
    own = protocol.attention if isinstance(protocol, LabelMapProtocol) else None
    return {"attention": (options.attention or own) if own else None, "protocol_attention": own}


def _map(protocol: Protocol, measurement: Measurement) -> dict[str, MapKind | None]:
    """Of a localisation: the kind of map that was used, and the one that the protocol asks for."""
    if not isinstance(protocol, LocalisationProtocol):
        return {}
    return {"map": measurement.maps, "protocol_map": protocol.map}


def _record(
    encoder: Encoder,
    protocol: Protocol,
    measurement: Measurement,
    options: RunOptions,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """What of a result's provenance is its own."""
    part = part_of(protocol, options)
    return {
        "utc": environment.utc_now(),
        "device": encoder.info.device,
        "precision": encoder.info.precision,
        "seed": options.seed,
        "limit": options.limit,
        **({} if part is None else {"partial": str(part)}),
        **_attention(protocol, options),
        **_map(protocol, measurement),
        "batch_size": options.batch_size,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory_bytes": environment.peak_memory_bytes(),
        "hashes": dict(measurement.hashes),
        "notes": [*measurement.notes, *([] if part is None else [f"{part} were found"])],
    }
