"""Result files of older versions, upgraded to the present one.

Version 2 added to samples the names of classes, groups and subsets, to records a hash of
themselves, and to ranks an interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cosmos_eval.results.record import SCHEMA_VERSION
from cosmos_eval.tasks import metric_of, task_named
from cosmos_eval.types import Samples, UsageError

Record = Mapping[str, Any]
"""A result as its JSON file holds it."""

# What records of version 1 could have.
_TASKS_1 = frozenset({"retrieval", "cls", "seg", "select"})
_MODEL_1 = frozenset({"spec", "architecture", "weights", "weights_sha256", "random"})
_PROVENANCE_1 = frozenset(
    {
        *("version", "commit", "dirty", "packages", "python", "platform", "command", "utc"),
        *("device", "precision", "seed", "limit", "attention", "protocol_attention"),
        *("batch_size", "seconds", "peak_memory_bytes", "hashes", "notes", "samples_sha256"),
    }
)
# What version 2 added to samples.
_NAMES_2 = frozenset({"classes", "groups", "members", "subsets"})


def upgrade_record(record: Record, where: str) -> Record:
    """Return a record of this version; of an unknown older version, the same record.

    Raises UsageError for a newer version, and for one of version 2 that is labelled version 1,
    since that would hide an edit.
    """
    version = record["schema_version"]
    if version > SCHEMA_VERSION:
        known = f"this cosmos-eval knows versions up to {SCHEMA_VERSION}"
        raise UsageError(
            f"{where} is a result of version {version}, and {known}: install a newer cosmos-eval"
        )
    if version != 1:
        return record
    if later := _later_than_1(record):
        raise _relabelled(where, later[0])
    return {**record, "schema_version": 2}


def upgrade_samples(samples: Samples, record: Record, where: str) -> Samples:
    """Return samples of this version. Raises UsageError where version 1 lacks what that needs."""
    if record["schema_version"] != 1:
        return samples
    if later := sorted(samples.keys() & _NAMES_2):
        raise _relabelled(where, f"samples with `{later[0]}`")
    upgrade = task_named(record["task"]).upgrade
    try:
        return samples if upgrade is None else upgrade(samples, record)
    except (UsageError, ValueError) as error:
        raise UsageError(
            f"{where} is of version 1, which does not hold the order of its classes: measure again"
        ) from error


def _later_than_1(record: Record) -> list[str]:
    model, provenance, intervals = (
        part if isinstance(part := record.get(name), Mapping) else {}
        for name in ("model", "provenance", "intervals")
    )
    later = sorted(provenance.keys() - _PROVENANCE_1) + sorted(model.keys() - _MODEL_1)
    if isinstance(task := record.get("task"), str) and task not in _TASKS_1:
        later.append(f"task {task}")
    ranks = sorted(name for name in intervals if metric_of(str(task), name).unit == "rank")
    return later + [f"an interval of {name}" for name in ranks]


def _relabelled(where: str, later: str) -> UsageError:
    return UsageError(
        f"{where}: its schema_version is 1, but it has {later}, which came with a later version: "
        "restore the file or measure again"
    )
