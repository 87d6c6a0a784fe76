"""Single samples that stand for results: pictures with what models made of them.

Importing this room imports no torch.
"""

from __future__ import annotations

from cosmos_eval.report.gallery.examples import BUDGET, collect
from cosmos_eval.report.gallery.records import (
    AttentionExample,
    ClassificationExample,
    Gallery,
    Picture,
    RetrievalExample,
    SegmentationExample,
    Word,
)
from cosmos_eval.report.gallery.results import require_inputs

__all__ = [
    "BUDGET",
    "AttentionExample",
    "ClassificationExample",
    "Gallery",
    "Picture",
    "RetrievalExample",
    "SegmentationExample",
    "Word",
    "collect",
    "require_inputs",
]
