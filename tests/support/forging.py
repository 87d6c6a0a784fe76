"""Results whose samples are replaced, with every name and hash as it has to be."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cosmos_eval.results.filenames import samples_name
from cosmos_eval.results.store import read_result, record_sha256, to_record
from cosmos_eval.tasks import task_named


def forge(path: Path, archive: bytes, **fields: Any) -> None:
    """Give a result other samples, and other fields of its record."""
    row = replace(read_result(path), **fields)
    digest = hashlib.sha256(archive).hexdigest()
    path.with_name(row.samples).unlink()
    record = to_record(row)
    record["samples"] = samples_name(row, digest)
    record["provenance"]["samples_sha256"] = digest
    seal(path, record)
    path.with_name(record["samples"]).write_bytes(archive)


def forge_samples(path: Path, samples: Mapping[str, Any]) -> None:
    """Give a result other samples and the figures that follow from them."""
    row = read_result(path)
    figures = vars(task_named(row.task).figures(samples, row.provenance["seed"]))
    intervals = {name: interval._asdict() for name, interval in figures["intervals"].items()}
    forge(path, packed(samples), **{**figures, "intervals": intervals})


def seal(path: Path, record: dict[str, Any]) -> None:
    """Write a record with the hash that its content has now."""
    record["provenance"]["record_sha256"] = record_sha256(record)
    path.write_text(json.dumps(record))


def packed(samples: Mapping[str, Any]) -> bytes:
    """Return the samples file of arrays."""
    content = io.BytesIO()
    np.savez_compressed(content, **samples)
    return content.getvalue()
