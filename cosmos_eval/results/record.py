"""Result files of older versions, brought up to the present one a version at a time.

| version | what is new in it |
| --- | --- |
| 2 | samples hold the names that figures go by: classes, groups of classes, subsets; the record |
|   | holds a hash of itself; ranks have intervals |
| 1 | |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cosmos_eval.types import SCHEMA_VERSION, Samples, SegmentationProtocol, UsageError

Record = Mapping[str, Any]
"""A result as its JSON file has it."""


def upgrade_record(record: Record, where: str) -> Record:
    """A record of this version. Raises UsageError for one of a newer version, relabelled or not.

    What has no version that ever was is returned as it is: the schema says what is wrong.
    """
    _refuse_newer(record, where)
    while (step := _RECORDS.get(record["schema_version"])) is not None:
        record = step(record, where)
    return record


def upgrade_samples(samples: Samples, record: Record, where: str) -> Samples:
    """Samples of this version; `record` is theirs as it is stored.

    Raises UsageError where an older version does not tell what this one needs.
    """
    for version in range(record["schema_version"], SCHEMA_VERSION):
        samples = _SAMPLES[version](samples, record, where)
    return samples


def _refuse_newer(record: Record, where: str) -> None:
    version = record["schema_version"]
    if version > SCHEMA_VERSION:
        raise UsageError(
            f"{where} is a result of version {version}, and this cosmos-eval knows versions up to "
            f"{SCHEMA_VERSION}: install a newer cosmos-eval"
        )


def _later_than_1(record: Record) -> str:
    """What a record has that version 1 did not have; empty where nothing."""
    model, provenance, intervals = (
        part if isinstance(part := record.get(name), Mapping) else {}
        for name in ("model", "provenance", "intervals")
    )
    later = sorted(provenance.keys() - _PROVENANCE_1) + sorted(model.keys() - _MODEL_1)
    if isinstance(task := record.get("task"), str) and task not in _TASKS_1:
        later.append(f"task {task}")
    later += [f"an interval of {name}" for name in sorted(intervals) if name.endswith("_rank")]
    return later[0] if later else ""


def _relabelled(where: str, later: str) -> UsageError:
    return UsageError(
        f"{where}: its schema_version is 1, but it has {later}, which came with a later version: "
        "restore the file or measure again"
    )


def _record_from_1(record: Record, where: str) -> Record:
    """Refuses what would otherwise be a way to get rid of the hash that later records hold."""
    if later := _later_than_1(record):
        raise _relabelled(where, later)
    return {**record, "schema_version": 2}


def _samples_from_1(samples: Samples, record: Record, where: str) -> Samples:
    if later := sorted(samples.keys() & _NAMES_2):
        raise _relabelled(where, f"samples with `{later[0]}`")
    add = {"cls": _classes_in_1, "select": _subsets_in_1, "seg": _segments_in_1}.get(record["task"])
    return {**samples, **add(samples, record, where)} if add else samples


def _classes_in_1(samples: Samples, record: Record, where: str) -> Samples:
    """By their numbers of images, since records hold classes in alphabetical order only."""
    classes = sorted(record["per_class"])
    images = [record["per_class"][name].get("images") for name in classes]
    if images != np.bincount(samples["labels"], minlength=len(classes)).tolist():
        raise _unordered(where)
    return {"classes": np.array(classes)}


def _subsets_in_1(samples: Samples, record: Record, where: str) -> Samples:
    return {"subsets": np.array(sorted(record["per_class"]) or [""])}


def _segments_in_1(samples: Samples, record: Record, where: str) -> Samples:
    """Classes and groups of the known protocol, where it still has the names of then."""
    from cosmos_eval.protocols import find_known  # which takes longer than reading a result

    try:
        protocol = find_known(record["dataset"], record["protocol"])
    except UsageError as error:
        raise _unordered(where) from error
    if not isinstance(protocol, SegmentationProtocol):
        raise _unordered(where)
    names = hashlib.sha256(json.dumps(protocol.class_names).encode()).hexdigest()
    if names != record["provenance"]["hashes"].get("class_names"):
        raise _unordered(where)
    members = [[name in some for name in protocol.class_names] for some in protocol.groups.values()]
    return {
        "classes": np.array(protocol.class_names),
        "groups": np.array(list(protocol.groups), dtype=np.str_),
        "members": np.array(members, bool).reshape(-1, len(protocol.class_names)),
    }


def _unordered(where: str) -> UsageError:
    return UsageError(
        f"{where} is of version 1, which does not tell the order of its classes: measure again"
    )


_TASKS_1 = frozenset({"retrieval", "cls", "seg", "select"})
_MODEL_1 = frozenset({"spec", "architecture", "weights", "weights_sha256", "random"})
_PROVENANCE_1 = frozenset(
    {
        *("version", "commit", "dirty", "packages", "python", "platform", "command", "utc"),
        *("device", "precision", "seed", "limit", "attention", "protocol_attention"),
        *("batch_size", "seconds", "peak_memory_bytes", "hashes", "notes", "samples_sha256"),
    }
)
"""What records of version 1 could have."""

_NAMES_2 = frozenset({"classes", "groups", "members", "subsets"})
"""What version 2 added to samples."""

_RECORDS: Mapping[int, Callable[[Record, str], Record]] = {1: _record_from_1}
_SAMPLES: Mapping[int, Callable[[Samples, Record, str], Samples]] = {1: _samples_from_1}
