"""Which results may be compared: those of the same samples, measured in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from cosmos_eval.types import ResultRow

# Either name: segmentation calls the hash of its list of images differently.
_SAMPLE_LISTS = ("sample_list", "samples")
_SHOWN = 12  # characters of a hash

# The smallest p-value that is written out: a bootstrap says no more of smaller ones.
_SMALLEST_P = 1e-6


class Mismatch(NamedTuple):
    """A field that two results should have alike, and what each of them has."""

    field: str
    a: str
    b: str

    def __str__(self) -> str:
        return f"{self.field} is {self.a} and {self.b}"


def setting(row: ResultRow) -> dict[str, Any]:
    """What decides which number is measured, whatever the model, by the name of its field."""
    recorded = row.provenance
    return {
        "task": row.task,
        "dataset": row.dataset,
        "protocol": row.protocol,
        "attention": recorded["attention"],
        "limit": recorded["limit"],
        **({"partial": recorded["partial"]} if "partial" in recorded else {}),
        "n_samples": row.n_samples,
        **{f"hashes.{name}": value for name, value in sorted(recorded["hashes"].items())},
    }


def mismatches(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Mismatch]:
    """The fields in which two settings differ; a field that one of them lacks is one.

    Settings without a hash of their samples never match: whether these are the same is unknown.
    """
    found = [
        Mismatch(name, _shown(a, name), _shown(b, name))
        for name in dict.fromkeys([*a, *b])
        if name not in a or name not in b or a[name] != b[name]
    ]
    if not any(a.get(f"hashes.{name}") for name in _SAMPLE_LISTS):
        found.append(Mismatch("hashes.sample_list", "not recorded", "of unknown samples"))
    return found


def setup_differences(a: ResultRow, b: ResultRow) -> list[str]:
    """A line for what may differ between results, but should be known: how they were computed."""
    return [
        f"{a.dataset}: {name} is {a.provenance[name]} and {b.provenance[name]}"
        for name in ("map", "precision", "device", "version")
        if a.provenance.get(name) != b.provenance.get(name)
    ]


def lower_is_better(metric: str) -> bool:
    """Whether a metric is a rank."""
    return metric.endswith("_rank")


def is_share(metric: str) -> bool:
    """Whether a metric is a share in [0, 1]; else it is a rank, or one share over another."""
    return not lower_is_better(metric) and "_over_" not in metric


def _shown(fields: Mapping[str, Any], name: str) -> str:
    if name not in fields:
        return "missing"
    value = "none" if fields[name] is None else str(fields[name])
    return value[:_SHOWN] if name.startswith("hashes.") else value


def p_value_text(value: float) -> str:
    """A p-value in two digits; 0.000001 and less are not told apart."""
    return f"{value:.2g}" if value >= _SMALLEST_P else f"<{_SMALLEST_P:.0e}"
