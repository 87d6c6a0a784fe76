"""The record of a measurement: its figures, its model, and how it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from cosmos_core.utils import environment
from cosmos_eval import types
from cosmos_eval._version import __version__
from cosmos_eval.models.encoder import Encoder
from cosmos_eval.results.record import SCHEMA_VERSION, ResultRow
from cosmos_eval.runner import plan as plans
from cosmos_eval.tasks import packages_of, task_for

if TYPE_CHECKING:
    from cosmos_eval.runner.run import LoadedModel


@cache
def describe_environment() -> dict[str, Any]:
    """Return versions, packages and platform, and the state of the code at the first call."""
    return environment.describe(__version__)


def notes_of(encoder: Encoder) -> Sequence[str]:
    """Return the notes of a loaded model, such as weights that are not used."""
    notes: Sequence[str] = getattr(encoder, "notes", ())
    return notes


def make_row(
    model: LoadedModel,
    job: plans.Job,
    protocol: types.Protocol,
    measurement: types.Measurement,
    found_samples: types.FoundSamples | None,
    seconds: Mapping[str, float],
    images_per_second: float | None,
) -> ResultRow:
    """Return the record of a measurement.

    `found_samples` tells how many samples of an incomplete data set were measured, and is None for
    a complete one. `seconds` are wall times by phase.
    """
    provenance = _provenance(model.encoder, job, protocol, measurement, found_samples, seconds)
    provenance["images_per_second"] = images_per_second
    return ResultRow(
        schema_version=SCHEMA_VERSION,
        model=_model_record(model),
        task=protocol.task,
        dataset=protocol.dataset,
        protocol=protocol.protocol_name,
        metrics=dict(measurement.metrics),
        intervals={name: value._asdict() for name, value in measurement.intervals.items()},
        per_class=measurement.per_class,
        confusion_pairs=measurement.confusion_pairs,
        n_samples=measurement.n_samples,
        provenance=provenance,
        samples="",
        source="measured",
    )


def _model_record(model: LoadedModel) -> dict[str, Any]:
    """Return the record of a model that results hold. Empty fields are left out."""
    info = model.encoder.info
    record: dict[str, Any] = {
        "spec": info.spec,
        "architecture": info.architecture,
        "weights": info.weights,
        "weights_sha256": info.weights_sha256,
        "random": info.random,
    }
    if model.spec.label:
        record["name"] = model.spec.label
    if info.code_sha256:
        record["code_sha256"] = info.code_sha256
    if info.revision:
        record["revision"] = info.revision
    if model.training:
        record["training"] = model.training
    record["facts"] = model.facts
    return record


def settings_of(
    protocol: types.Protocol, options: types.RunOptions, found_samples: types.FoundSamples | None
) -> dict[str, Any]:
    """Return the part of a provenance that says under which options a result was measured.

    It holds precision, limit, partial data, attention and auxiliary encoder.
    """
    usual_attention = task_for(protocol).attention(protocol)
    settings: dict[str, Any] = {"precision": options.precision, "limit": options.limit}
    if found_samples is not None:
        settings["partial"] = str(found_samples)
    settings["attention"] = None
    if usual_attention:
        settings["attention"] = options.attention or usual_attention
    settings["protocol_attention"] = usual_attention
    if options.auxiliary is not None:
        settings["auxiliary"] = {"spec": options.auxiliary}
    return settings


def _provenance(
    encoder: Encoder,
    job: plans.Job,
    protocol: types.Protocol,
    measurement: types.Measurement,
    found_samples: types.FoundSamples | None,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Return the provenance of a measurement, without its speed."""
    info = encoder.info
    options = job.options
    machine = describe_environment()
    record: dict[str, Any] = {
        **machine,
        "packages": {**machine["packages"], **packages_of(protocol.task)},
        "command": job.command,
        "utc": environment.utc_now(),
        "device": info.device,
        "seed": options.seed,
        **settings_of(protocol, replace(options, precision=info.precision), found_samples),
    }
    if info.auxiliary is not None:
        record["auxiliary"] = dict(info.auxiliary)
    if protocol.repository:
        record["repository"] = protocol.repository
        record["revision"] = protocol.revision
    notes = [*measurement.notes, *notes_of(encoder)]
    if found_samples is not None:
        notes.append(f"{found_samples} were found")
    record |= {
        **measurement.settings,
        "batch_size": options.batch_size,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory_bytes": environment.peak_memory_bytes(),
        "hashes": dict(measurement.hashes),
        "notes": notes,
    }
    return record
