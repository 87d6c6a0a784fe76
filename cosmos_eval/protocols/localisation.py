"""The segmentation sets, asked where a model looks when a class is named.

Two families, of which no published numbers are known. `localisation` takes each model's own map,
`localisation-similarity` the similarity of text and patches of all models, so that like is compared
with like. Prompts are `fixed-names`: those of the COSMOS evaluation, but whole words, none of them
of two classes. Bounds of sizes are COCO's, see `LocalisationProtocol`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from cosmos_eval.protocols.segmentation_families import SEGMENTATION_FAMILIES
from cosmos_eval.types import (
    LabelMapProtocol,
    LocalisationProtocol,
    MapKind,
    SegmentationProtocol,
)

FAMILY = "localisation"

MAPS: Mapping[str, MapKind | None] = MappingProxyType(
    {FAMILY: None, f"{FAMILY}-similarity": "text-to-patch similarity"}
)
"""The kind of map of each family; None: the model's own."""


def localisation_of(
    protocol: SegmentationProtocol, family: str, **changes: Any
) -> LocalisationProtocol:
    """The same images, label maps, names and templates, asked about by a family."""
    shared = {field.name: getattr(protocol, field.name) for field in fields(LabelMapProtocol)}
    own = {"family": family, "source": "", "map": MAPS[family]}
    return LocalisationProtocol(**{**shared, **own, **changes})


LOCALISATION_FAMILIES: Mapping[str, Mapping[str, LocalisationProtocol]] = MappingProxyType(
    {
        family: {
            name: localisation_of(protocol, family)
            for name, protocol in SEGMENTATION_FAMILIES["fixed-names"].items()
        }
        for family in MAPS
    }
)
"""Protocols of every set by family, then by data set."""
