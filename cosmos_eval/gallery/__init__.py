"""Single samples that stand for results: pictures with what models made of them.

Importing this room imports no torch.
"""

from __future__ import annotations

from cosmos_eval.gallery._collect import BUDGET, collect
from cosmos_eval.gallery._records import (
    AttentionExample,
    ClassificationExample,
    Gallery,
    Picture,
    RetrievalExample,
    SegmentationExample,
    Word,
)
from cosmos_eval.gallery._results import require_inputs

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
