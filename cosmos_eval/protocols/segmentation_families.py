"""The segmentation sets under other settings than those of COSMOS's published numbers.

A family is a name for settings whose numbers can be compared with each other. All derive from the
sets of `cosmos_eval.protocols.segmentation`, so that only what differs is written here.

Two more families measure localisation: where a model looks when a class is named; no published
numbers of them are known. `localisation` takes each model's own map, `localisation-similarity` the
similarity of text and patches of all models, so that like is compared with like. Prompts are
`fixed-names`: those of the COSMOS evaluation, but whole words, none of them of two classes. Bounds
of sizes are COCO's, see `LocalisationProtocol`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.types import LabelMapProtocol, LocalisationProtocol, MapKind, SegmentationProtocol

# Names that COCO-Stuff, PASCAL VOC and PASCAL-Context themselves write without their spaces.
_SPACED = {
    "diningtable": "dining table",
    "playingfield": "playing field",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
    "waterdrops": "water drops",
}


def _fixed_names(protocol: SegmentationProtocol) -> SegmentationProtocol:
    """Constants of `cosmos` with prompts of whole words, none of which belongs to two classes.

    The published lists join "traffic light" into one word, and the background of coco_object
    claims "bed", which is a class of its own.
    """
    joined = {name.replace(" ", ""): name for name in protocol.class_names if " " in name}
    spaced = {**_SPACED, **joined}
    queries = [
        tuple(spaced.get(prompt, prompt) for prompt in prompts) for prompts in protocol.queries
    ]
    if protocol.class_names[0] == "background":
        queries[0] = tuple(p for p in queries[0] if p not in protocol.class_names[1:])
    return replace(
        protocol,
        family="fixed-names",
        source="constants as in `cosmos`; names with their spaces, each of one class",
        queries=tuple(queries),
    )


def _sclip(protocol: SegmentationProtocol) -> SegmentationProtocol:
    """Settings of SCLIP, which COSMOS took over whole: names, constants and attention."""
    return replace(
        protocol,
        family="sclip",
        source="https://github.com/wangf3014/SCLIP/tree/main/configs",
        attention="csa",
    )


# What differs from the common settings in configs/cfg_*.py of ClearCLIP, by data set.
_CLEARCLIP: dict[str, dict[str, object]] = {
    "voc21": {"prob_thd": 0.5},
    "context60": {"prob_thd": 0.15},
    "coco_object": {"prob_thd": 0.4},
    "cityscapes": {"window": 224},
    "coco_stuff": {"window": 224, "long_side": 448},
}
# Its lists that are not SCLIP's: one prompt per class, which is its name unless given here.
_VOC_NAMES = {"boat": "ship", "diningtable": "table"}
_CLEARCLIP_LISTS = {"voc21": _VOC_NAMES, "voc20": _VOC_NAMES, "coco_object": {}}


def _clearclip(protocol: SegmentationProtocol) -> SegmentationProtocol:
    """Settings of ClearCLIP: 448 px, windows of 448 px at 224, scale 50, no area threshold."""
    common = {"short_side": 448, "window": 448, "stride": 224, "scale": 50.0, "area_thd": None}
    queries = protocol.queries
    if protocol.dataset in _CLEARCLIP_LISTS:
        renamed = _CLEARCLIP_LISTS[protocol.dataset]
        queries = tuple((renamed.get(name, name),) for name in protocol.class_names)
    return replace(
        protocol,
        family="clearclip",
        source="https://github.com/mc-lan/ClearCLIP/tree/ad68a40 (clearclip_segmentor.py, configs)",
        attention="clearclip",
        queries=queries,
        **{**common, **_CLEARCLIP.get(protocol.dataset, {})},  # type: ignore[arg-type]
    )


# What differs from SCLIP's in configs/cfg_*.py of NACLIP, by data set. `slide_crop=0` there is
# the whole image in one pass.
_NACLIP: dict[str, dict[str, object]] = {
    "voc21": {"window": None},
    "voc20": {"window": None},
    "coco_stuff": {"short_side": 336},
}


def _naclip(protocol: SegmentationProtocol) -> SegmentationProtocol:
    """Settings of NACLIP: scale 40 for every set, no area threshold, PAMR."""
    return replace(
        protocol,
        family="naclip",
        source="https://github.com/sinahmr/NACLIP/tree/0cac3a6 (naclip.py, configs)",
        attention="naclip",
        scale=40.0,
        area_thd=None,
        refinement="pamr",
        **_NACLIP.get(protocol.dataset, {}),  # type: ignore[arg-type]
    )


_FAMILIES: Mapping[str, Callable[[SegmentationProtocol], SegmentationProtocol]] = {
    "cosmos": lambda protocol: protocol,
    "fixed-names": _fixed_names,
    "sclip": _sclip,
    "clearclip": _clearclip,
    "naclip": _naclip,
}

SEGMENTATION_FAMILIES: Mapping[str, Mapping[str, SegmentationProtocol]] = {
    family: {name: derive(protocol) for name, protocol in SEGMENTATION.items()}
    for family, derive in _FAMILIES.items()
}
"""Protocols of every set by family, then by data set."""

LOCALISATION = "localisation"

MAPS: Mapping[str, MapKind | None] = {
    LOCALISATION: None,
    f"{LOCALISATION}-similarity": "text-to-patch similarity",
}
"""The kind of map of each family; None: the model's own."""


def localisation_of(
    protocol: SegmentationProtocol, family: str, **changes: Any
) -> LocalisationProtocol:
    """Return the protocol of a family with the same images, label maps, names and templates."""
    shared = {field.name: getattr(protocol, field.name) for field in fields(LabelMapProtocol)}
    own = {"family": family, "source": "", "map": MAPS[family]}
    return LocalisationProtocol(**{**shared, **own, **changes})


LOCALISATION_FAMILIES: Mapping[str, Mapping[str, LocalisationProtocol]] = {
    family: {
        name: localisation_of(protocol, family)
        for name, protocol in SEGMENTATION_FAMILIES["fixed-names"].items()
    }
    for family in MAPS
}
"""Protocols of every set by family, then by data set."""
