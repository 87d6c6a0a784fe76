"""The gate: are new results worse than a baseline by more than chance?

It fails closed: whatever cannot be compared is a problem that is told, never a metric that passes.
"""

from __future__ import annotations

from cosmos_eval.results.gate.baseline import Baseline, Entry, read_baseline
from cosmos_eval.results.gate.check import (
    Finding,
    Measured,
    Problem,
    Report,
    examine,
    replace_baseline,
    undecided,
)
from cosmos_eval.results.gate.reports import (
    to_annotations,
    to_cells,
    to_junit,
    to_markdown,
    to_records,
    tolerance_text,
)

__all__ = [
    "Baseline",
    "Entry",
    "Finding",
    "Measured",
    "Problem",
    "Report",
    "examine",
    "read_baseline",
    "replace_baseline",
    "to_annotations",
    "to_cells",
    "to_junit",
    "to_markdown",
    "to_records",
    "tolerance_text",
    "undecided",
]
