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


def _make_protocol(
    classes: Sequence[str],
    prompts: Mapping[str, Sequence[Any]] | None = None,
    joined: Sequence[str] = (),
    **fields: Any,
) -> SegmentationProtocol:
    """Return the protocol that an entry of segmentation.yaml declares.

    Args:
        classes: The names of the classes, in the order of their values in label maps.
        prompts: The prompts of some classes by name, as lists that may hold lists. The prompt of
            every other class is its name.
        joined: Classes whose prompt is their name without spaces, as in published lists.
        fields: Further fields of the protocol.

    Example:
        The classes `traffic light`, `man` and `cat`, with `joined=["traffic light"]` and
        `prompts={"man": ["man", "person"]}`, have the prompts `(("trafficlight",), ("man",
        "person"), ("cat",))`.
    """
    prompts_by_class: dict[str, tuple[str, ...]] = {name: (name,) for name in classes}
    for name in joined:
        prompts_by_class[name] = (name.replace(" ", ""),)
    for name, texts in (prompts or {}).items():
        prompts_by_class[name] = tuple(flat(texts))
    return SegmentationProtocol(
        class_names=tuple(classes),
        queries=tuple(prompts_by_class[name] for name in classes),
        mean=MEAN,
        std=STD,
        **fields,
    )


_DECLARED = read_yaml("segmentation")
SEGMENTATION = read_protocols("segmentation", _make_protocol)
"""Segmentation data sets by name, each in its usual protocol."""
COCO_THINGS = SEGMENTATION["coco_object"].class_names[1:]
"""The names of the 80 classes of COCO that are things."""

# Names that COCO-Stuff, PASCAL VOC and PASCAL-Context write without spaces.
_SPACED_NAMES = ("dining table", "playing field", "potted plant", "tv monitor", "water drops")


def _fix_prompts(protocol: SegmentationProtocol) -> tuple[tuple[str, ...], ...]:
    """Return the prompts of every class, without two errors of the published lists.

    Words that are written together are separated. Prompts of the class `background` that are also
    names of other classes are left out.

    Example:
        `trafficlight` becomes `traffic light`. In coco_object, the background loses the prompt
        `bed`, which is a class.
    """
    name_by_joined_name = {}
    for name in (*protocol.class_names, *_SPACED_NAMES):
        joined_name = name.replace(" ", "")
        name_by_joined_name[joined_name] = name

    prompts_of_classes = []
    for prompts in protocol.queries:
        fixed_prompts = [name_by_joined_name.get(prompt, prompt) for prompt in prompts]
        prompts_of_classes.append(tuple(fixed_prompts))

    if protocol.class_names[0] == "background":
        other_classes = protocol.class_names[1:]
        background_prompts = [name for name in prompts_of_classes[0] if name not in other_classes]
        prompts_of_classes[0] = tuple(background_prompts)
    return tuple(prompts_of_classes)


def _clearclip_prompts(protocol: SegmentationProtocol) -> tuple[tuple[str, ...], ...]:
    """Return the prompts of every class as in the lists of ClearCLIP's code.

    For three data sets, they differ from the lists of SCLIP, which other protocols use: a class has
    one prompt, its name, and two classes of PASCAL VOC have other names.
    """
    if protocol.dataset not in ("voc21", "voc20", "coco_object"):
        return protocol.queries
    new_names = {}
    if protocol.dataset in ("voc21", "voc20"):
        new_names = {"boat": "ship", "diningtable": "table"}
    return tuple((new_names.get(name, name),) for name in protocol.class_names)


def _with_protocol(protocol: SegmentationProtocol, protocol_name: str) -> SegmentationProtocol:
    """Return the same data set under another protocol, with its constants and its prompts.

    Args:
        protocol: The usual protocol of the data set.
        protocol_name: A protocol that segmentation.yaml declares with its constants, such as
            `clearclip`. It may declare other constants for some data sets.
    """
    constants = dict(_DECLARED[".protocols"][protocol_name])
    constants_by_dataset = _DECLARED[".of_sets"].get(protocol_name, {})
    constants.update(constants_by_dataset.get(protocol.dataset, {}))

    queries = protocol.queries
    if protocol_name == "fixed-names":
        queries = _fix_prompts(protocol)
    elif protocol_name == "clearclip":
        queries = _clearclip_prompts(protocol)
    return replace(protocol, protocol_name=protocol_name, queries=queries, **constants)


SEGMENTATION_BY_PROTOCOL: Mapping[str, Mapping[str, SegmentationProtocol]] = {
    protocol_name: {
        name: _with_protocol(protocol, protocol_name) for name, protocol in SEGMENTATION.items()
    }
    for protocol_name in _DECLARED[".protocols"]
}
"""Protocols of every data set by the name of the protocol, then by the data set."""

LOCALISATION = "localisation"
"""The name of the protocol of localisation that takes the preferred map of each model."""

MAPS: Mapping[str, MapKind | None] = {
    LOCALISATION: None,
    **{f"{LOCALISATION}-{name}": kind for name, kind in MAP_KINDS.items()},
}
"""The kind of attention map of each protocol of localisation, by the protocol's name.

None stands for the preferred kind of each model.
"""


def localisation_of(
    protocol: SegmentationProtocol, protocol_name: str, **changes: Any
) -> LocalisationProtocol:
    """Return a localisation protocol on the data set of a segmentation protocol.

    Localisation compares attention maps with the label maps of a segmentation data set. The
    protocol has the same images, label maps, class names and templates.

    Args:
        protocol: The segmentation protocol.
        protocol_name: A key of `MAPS`, which decides the kind of attention map.
        changes: Fields of the new protocol that get another value.
    """
    field_values = {}
    for shared_field in fields(LabelMapProtocol):
        field_values[shared_field.name] = getattr(protocol, shared_field.name)
    field_values.update(protocol_name=protocol_name, source="", map=MAPS[protocol_name])
    field_values.update(changes)
    return LocalisationProtocol(**field_values)


_THINGS = {"coco_stuff": COCO_THINGS, **_DECLARED[".things"]}
"""The names of the classes that are objects, for each data set that also has classes of stuff."""

LOCALISATION_BY_PROTOCOL: Mapping[str, Mapping[str, LocalisationProtocol]] = {
    protocol_name: {
        name: localisation_of(protocol, protocol_name, things=tuple(_THINGS.get(name, ())))
        for name, protocol in SEGMENTATION_BY_PROTOCOL["fixed-names"].items()
    }
    for protocol_name in MAPS
}
"""Protocols of every data set by the name of the protocol, then by the data set."""
