"""The record of a measurement: its figures, its model, and how it was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from functools import cache
from hashlib import sha256
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

# The fields of a protocol that say where a data set is and where it comes from.
_PLACES = ("source", "root", "download", "repository", "revision", "main_metric")


@cache
def describe_environment() -> dict[str, Any]:
    """Return versions, packages and platform, and the state of the code at the first call."""
    return environment.describe(__version__)


def make_row(
    model: LoadedModel,
    job: plans.Job,
    protocol: types.Protocol,
    measurement: types.Measurement,
    found_samples: types.FoundSamples | None,
    seconds_by_phase: Mapping[str, float],
    images_per_second: float | None,
) -> ResultRow:
    """Return the record of a measurement, which becomes a result file.

    Args:
        model: The model that was measured.
        job: The job that the measurement belongs to.
        protocol: How the data set was measured.
        measurement: The metrics, and the samples that they follow from.
        found_samples: How many samples of an incomplete data set were measured; None for a
            complete one.
        seconds_by_phase: Wall times by phase, such as `{"load": 1.2, "images": 3.4}`.
        images_per_second: The images that were encoded per second; None if there were none.
    """
    intervals = {}
    for metric_name, interval in measurement.intervals.items():
        intervals[metric_name] = interval._asdict()
    provenance = _make_provenance(
        model.encoder, job, protocol, measurement, found_samples, seconds_by_phase
    )
    provenance["images_per_second"] = images_per_second
    return ResultRow(
        schema_version=SCHEMA_VERSION,
        model=dict(model.record),
        task=protocol.task,
        dataset=protocol.dataset,
        protocol=protocol.protocol_name,
        metrics=dict(measurement.metrics),
        intervals=intervals,
        per_class=measurement.per_class,
        confusion_pairs=measurement.confusion_pairs,
        n_samples=measurement.n_samples,
        provenance=provenance,
        samples="",  # the name of the file of samples, set when the result is stored
        source="measured",
    )


def settings_of(
    protocol: types.Protocol, options: types.RunOptions, found_samples: types.FoundSamples | None
) -> dict[str, Any]:
    """Return the part of a provenance that says under which options a result was measured.

    Args:
        protocol: How the data set was measured.
        options: The options of the run.
        found_samples: How many samples of an incomplete data set were measured; None for a
            complete one.

    Returns:
        Precision, limit, partial data, attention and auxiliary encoder. For example `{"precision":
        "fp32", "limit": None, "attention": "csa", "protocol_attention": "csa"}`.
    """
    # The form of attention that the protocol prescribes; None for tasks without attention.
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


def protocol_sha256(protocol: types.Protocol) -> str:
    """Return the SHA-256 of the settings of a protocol that differ from their defaults.

    They are its templates, class names, constants and names of files. The place of the data set and
    its sources do not count. A setting that a later version adds does not change the hash of
    protocols that leave it at its default.
    """
    settings = {}
    for field in fields(protocol):
        default = field.default_factory() if callable(field.default_factory) else field.default
        value = getattr(protocol, field.name)
        if field.name not in _PLACES and value != default:
            settings[field.name] = value
    text = json.dumps(settings, sort_keys=True, default=_plain_setting)
    return sha256(text.encode(errors="replace")).hexdigest()


def _plain_setting(value: Any) -> Any:
    """Return a setting that JSON does not know in a form that it knows."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return dict(value) if isinstance(value, Mapping) else str(value)


def _make_provenance(
    encoder: Encoder,
    job: plans.Job,
    protocol: types.Protocol,
    measurement: types.Measurement,
    found_samples: types.FoundSamples | None,
    seconds_by_phase: Mapping[str, float],
) -> dict[str, Any]:
    """Return the provenance of a measurement: code, machine, options, wall times and notes.

    The arguments are as in `make_row`. Only `images_per_second` is missing.
    """
    info = encoder.info
    options = job.options
    machine = describe_environment()
    notes = [*measurement.notes, *getattr(encoder, "notes", ())]
    if found_samples is not None:
        notes.append(f"{found_samples} were found")

    record: dict[str, Any] = dict(machine)
    record["packages"] = {**machine["packages"], **packages_of(protocol.task)}
    record["command"] = job.command
    record["utc"] = environment.utc_now()
    record["device"] = info.device
    record["seed"] = options.seed
    # The precision of the loaded model may differ from the one that was asked for.
    record |= settings_of(protocol, replace(options, precision=info.precision), found_samples)
    if info.auxiliary is not None:
        record["auxiliary"] = dict(info.auxiliary)
    if protocol.wording is not None:
        record["wording"] = protocol.wording.record
    if protocol.repository:
        record["repository"] = protocol.repository
        record["revision"] = protocol.revision
    record |= measurement.settings
    record["batch_size"] = options.batch_size
    record["seconds"] = {phase: round(time, 3) for phase, time in seconds_by_phase.items()}
    record["peak_memory_bytes"] = environment.peak_memory_bytes()
    record["protocol_sha256"] = protocol_sha256(protocol)
    record["hashes"] = dict(measurement.hashes)
    record["notes"] = notes
    return record
