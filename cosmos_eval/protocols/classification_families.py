"""The classification sets as CLIP Benchmark measures them; what differs from `cosmos` stands here.

Source: clip_benchmark 1.6 (github.com/LAION-AI/CLIP_benchmark), datasets/builder.py. OpenCLIP's
published table takes dtd, oxford_pets, flowers102 and caltech101 from VTAB's copies: for caltech101
that is another split (6,085 images), elsewhere the same images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from cosmos_eval.protocols.classification import CLASSIFICATION
from cosmos_eval.types import ClassificationProtocol

_DIFFERENCES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # torchvision's names as they are: "aquarium_fish".
        "cifar100": {"separators": ""},
        "sun397": {"remark": ""},
        # torchvision's names as they are, without typing errors.
        "oxford_pets": {"class_names": {}},
        # datasets/caltech101.py keeps the background as a class and has no split: 8,677 images and
        # 467 of the background.
        "caltech101": {
            "torchvision": "caltech101-with-background",
            "class_list": "caltech101-with-background",
            "n_images": 9_144,
            "remark": "",
        },
    }
)


def _clip_benchmark(protocol: ClassificationProtocol) -> ClassificationProtocol:
    return replace(
        protocol,
        family="clip-benchmark",
        source="https://github.com/LAION-AI/CLIP_benchmark (datasets/builder.py)",
        **_DIFFERENCES.get(protocol.dataset, {}),
    )


CLASSIFICATION_FAMILIES: Mapping[str, Mapping[str, ClassificationProtocol]] = MappingProxyType(
    {
        "cosmos": CLASSIFICATION,
        "clip-benchmark": {
            name: _clip_benchmark(protocol) for name, protocol in CLASSIFICATION.items()
        },
    }
)
"""Protocols of every set by family, then by data set."""
