"""The eight zero-shot segmentation sets that segmentation.yaml declares, under each protocol.

Only numbers of one protocol can be compared with each other. Protocols of localisation use the
prompts of `fixed-names`; no published numbers are known for them. `localisation` takes the
preferred map of each model, `localisation-KIND` one kind of map for all models that have it.
"""

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
    **fields: Any,
) -> SegmentationProtocol:
    """Make the protocol that an entry of the YAML file declares.

    The prompt of a class is its name, without spaces for the classes in `joined`, or else the texts
    in `prompts`. `fields` are other fields of the protocol.
    """
    queries: dict[str, tuple[str, ...]] = {name: (name,) for name in classes}
    for name in joined:
        queries[name] = (name.replace(" ", ""),)
    for name, texts in (prompts or {}).items():
        queries[name] = tuple(flat(texts))
    return SegmentationProtocol(
        class_names=tuple(classes),
        queries=tuple(queries[name] for name in classes),
        mean=MEAN,
        std=STD,
        **fields,
    )


_DECLARED = read_yaml("segmentation")
SEGMENTATION = read_protocols("segmentation", _protocol)
COCO_THINGS = SEGMENTATION["coco_object"].class_names[1:]

# Names that COCO-Stuff, PASCAL VOC and PASCAL-Context write without spaces.
_SPACED_NAMES = ("dining table", "playing field", "potted plant", "tv monitor", "water drops")


def _fixed_names(protocol: SegmentationProtocol) -> tuple[tuple[str, ...], ...]:
    """Return the prompts of a protocol with two errors of the published lists corrected.

    Words that are written together are separated: "trafficlight" becomes "traffic light". Prompts
    of the background that are also classes are left out, such as "bed" in coco_object.
    """
    spaced_by_joined = {
        name.replace(" ", ""): name for name in (*protocol.class_names, *_SPACED_NAMES)
    }
    queries = []
    for prompts in protocol.queries:
        queries.append(tuple(spaced_by_joined.get(prompt, prompt) for prompt in prompts))
    if protocol.class_names[0] == "background":
        other_classes = protocol.class_names[1:]
        queries[0] = tuple(prompt for prompt in queries[0] if prompt not in other_classes)
    return tuple(queries)


def _clearclip_names(protocol: SegmentationProtocol) -> tuple[tuple[str, ...], ...]:
    """Return the prompts of ClearCLIP, whose lists differ from SCLIP's for three sets."""
    if protocol.dataset not in ("voc21", "voc20", "coco_object"):
        return protocol.queries
    renamed = {"boat": "ship", "diningtable": "table"} if "voc" in protocol.dataset else {}
    return tuple((renamed.get(name, name),) for name in protocol.class_names)


def _under_protocol(protocol_name: str, protocol: SegmentationProtocol) -> SegmentationProtocol:
    """Return the protocol of the same set with the settings and the prompts of a protocol."""
    settings = dict(_DECLARED[".protocols"][protocol_name])
    settings.update(_DECLARED[".of_sets"].get(protocol_name, {}).get(protocol.dataset, {}))
    queries = protocol.queries
    if protocol_name == "fixed-names":
        queries = _fixed_names(protocol)
    elif protocol_name == "clearclip":
        queries = _clearclip_names(protocol)
    return replace(protocol, protocol_name=protocol_name, queries=queries, **settings)


SEGMENTATION_BY_PROTOCOL: Mapping[str, Mapping[str, SegmentationProtocol]] = {
    protocol_name: {
        name: _under_protocol(protocol_name, protocol) for name, protocol in SEGMENTATION.items()
    }
    for protocol_name in _DECLARED[".protocols"]
}
"""Protocols of every set by protocol_name, then by data set."""

LOCALISATION = "localisation"


def _map_kinds() -> dict[str, MapKind | None]:
    """Return the kind of map of each protocol of localisation."""
    map_kinds: dict[str, MapKind | None] = {LOCALISATION: None}
    for name, kind in MAP_KINDS.items():
        map_kinds[f"{LOCALISATION}-{name}"] = kind
    return map_kinds


MAPS: Mapping[str, MapKind | None] = _map_kinds()
"""The kind of map of each protocol of localisation; None: the preferred kind of each model."""


def localisation_of(
    protocol: SegmentationProtocol, protocol_name: str, **changes: Any
) -> LocalisationProtocol:
    """Return a localisation protocol with the images, label maps, names and templates of a set.

    `changes` replace fields of it.
    """
    values = {field.name: getattr(protocol, field.name) for field in fields(LabelMapProtocol)}
    values.update(protocol_name=protocol_name, source="", map=MAPS[protocol_name])
    values.update(changes)
    return LocalisationProtocol(**values)


LOCALISATION_BY_PROTOCOL: Mapping[str, Mapping[str, LocalisationProtocol]] = {
    protocol_name: {
        name: localisation_of(protocol, protocol_name)
        for name, protocol in SEGMENTATION_BY_PROTOCOL["fixed-names"].items()
    }
    for protocol_name in MAPS
}
"""Protocols of every set by protocol_name, then by data set."""
