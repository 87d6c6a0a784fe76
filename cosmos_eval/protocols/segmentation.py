"""The eight zero-shot segmentation sets that segmentation.yaml declares, and families of settings.

Only numbers of one family can be compared with each other. Two families measure localisation, with
prompts of `fixed-names`; no published numbers of them are known. `localisation` takes each model's
own map, `localisation-KIND` one kind of map of all models that have it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from cosmos_eval.protocols.declared import flat, read_protocols, read_yaml
from cosmos_eval.types import MAPS as MAP_KINDS
from cosmos_eval.types import LabelMapProtocol, LocalisationProtocol, MapKind, SegmentationProtocol

# OpenAI's mean and standard deviation as the evaluation code of COSMOS rounds them; RGB, 0-255.
MEAN = (122.771, 116.746, 104.094)
STD = (68.501, 66.632, 70.323)


def _protocol(
    classes: Sequence[str],
    prompts: Mapping[str, Sequence[Any]] | None = None,
    joined: Sequence[str] = (),
    **stated: Any,
) -> SegmentationProtocol:
    own = {name: (name.replace(" ", ""),) for name in joined}
    own |= {name: tuple(flat(texts)) for name, texts in (prompts or {}).items()}
    queries = tuple(own.get(name, (name,)) for name in classes)
    names = tuple(classes)
    return SegmentationProtocol(class_names=names, queries=queries, mean=MEAN, std=STD, **stated)


_DECLARED = read_yaml("segmentation")
SEGMENTATION = read_protocols("segmentation", _protocol)
COCO_THINGS = SEGMENTATION["coco_object"].class_names[1:]

# Names that COCO-Stuff, PASCAL VOC and PASCAL-Context themselves write without their spaces.
_SPACED = ("dining table", "playing field", "potted plant", "tv monitor", "water drops")


def _fixed_names(protocol: SegmentationProtocol) -> tuple[tuple[str, ...], ...]:
    """Return prompts of whole words, none of which belongs to two classes: the published lists join
    "traffic light", and the background of coco_object claims "bed", which is a class of its own."""
    spaced = {name.replace(" ", ""): name for name in (*protocol.class_names, *_SPACED)}
    queries = [tuple(spaced.get(name, name) for name in names) for names in protocol.queries]
    if protocol.class_names[0] == "background":
        queries[0] = tuple(name for name in queries[0] if name not in protocol.class_names[1:])
    return tuple(queries)


def _clearclip_names(protocol: SegmentationProtocol) -> tuple[tuple[str, ...], ...]:
    """Return the prompts of ClearCLIP: of these three sets its lists are not SCLIP's."""
    if protocol.dataset not in ("voc21", "voc20", "coco_object"):
        return protocol.queries
    renamed = {"boat": "ship", "diningtable": "table"} if "voc" in protocol.dataset else {}
    return tuple((renamed.get(name, name),) for name in protocol.class_names)


_PROMPTS = {"fixed-names": _fixed_names, "clearclip": _clearclip_names}


def _of_family(family: str, protocol: SegmentationProtocol) -> SegmentationProtocol:
    queries = _PROMPTS[family](protocol) if family in _PROMPTS else protocol.queries
    of_set = _DECLARED[".of_sets"].get(family, {}).get(protocol.dataset, {})
    settings = {**_DECLARED[".families"][family], **of_set}
    return replace(protocol, family=family, queries=queries, **settings)


SEGMENTATION_FAMILIES: Mapping[str, Mapping[str, SegmentationProtocol]] = {
    family: {name: _of_family(family, protocol) for name, protocol in SEGMENTATION.items()}
    for family in _DECLARED[".families"]
}
"""Protocols of every set by family, then by data set."""

LOCALISATION = "localisation"

MAPS: Mapping[str, MapKind | None] = {
    LOCALISATION: None,
    **{f"{LOCALISATION}-{name}": kind for name, kind in MAP_KINDS.items()},
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
