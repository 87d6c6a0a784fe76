"""A made-up result for the tests of everything that reads results."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from cosmos_eval.results.record import SCHEMA_VERSION, ResultRow
from cosmos_eval.results.store import store_result
from cosmos_eval.types import Samples

PROVENANCE: dict[str, Any] = {
    "version": "0.1.0",
    "commit": None,
    "dirty": None,
    "packages": {"torch": "2.4.0", "mmcv-lite": None},
    "python": "3.11.7",
    "platform": "Linux",
    "command": "cosmos-eval run",
    "utc": "2025-01-01T00:00:00+00:00",
    "device": "cpu",
    "precision": "fp32",
    "seed": 0,
    "limit": None,
    "attention": None,
    "batch_size": 32,
    "seconds": {"total": 1.5},
    "peak_memory_bytes": 1,
    "hashes": {"content": "c" * 64},
    "notes": [],
}
MODEL = {
    "spec": "scenes-cosmos",
    "architecture": "tiny",
    "weights": "teacher",
    "weights_sha256": "0" * 64,
    "random": False,
}


def make_row(
    provenance: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **fields: Any
) -> ResultRow:
    """Return a result of a classification, some of whose fields are replaced."""
    changes = model or {}
    spec = changes.get("spec", MODEL["spec"])
    model_record = dict(MODEL)
    if spec != MODEL["spec"]:
        # Another specification is another model, unless the changes state its hash.
        model_record["weights_sha256"] = hashlib.sha256(spec.encode(errors="replace")).hexdigest()
    row = ResultRow(
        schema_version=SCHEMA_VERSION,
        model={**model_record, **changes},
        task="cls",
        dataset="scenes-cls",
        protocol="scenes",
        metrics={"acc1": 0.25, "acc5": 0.75},
        intervals={"acc1": {"low": 0.125, "high": 0.5, "method": "wilson", "level": 0.95}},
        per_class={"apple": {"recall": 0.5}, "boat": {"recall": None}},
        n_samples=4,
        provenance={**PROVENANCE, **(provenance or {})},
        samples="",
        source="measured",
    )
    return dataclasses.replace(row, **fields)


def write_result(folder: Path, row: ResultRow, samples: Samples) -> Path:
    """Store a result; return the path of its JSON file. Without samples no file is left of them."""
    stored = store_result(folder, row, samples)
    if not samples:
        stored.path.with_name(stored.row.samples).unlink()
    return stored.path
