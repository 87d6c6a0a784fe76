"""Data sets of annotated boxes that boxes.yaml declares. Imports no torch."""

from collections.abc import Mapping
from dataclasses import replace

from cosmos_eval.protocols.declared import read_protocols, read_yaml
from cosmos_eval.types import BoxesProtocol

BOXES: Mapping[str, BoxesProtocol] = read_protocols("boxes", BoxesProtocol)
"""Data sets by name, each in its usual protocol, in which features are pooled."""

_CROPS = read_yaml("boxes")[".crops"]

BOXES_BY_PROTOCOL: Mapping[str, Mapping[str, BoxesProtocol]] = {
    _CROPS["protocol_name"]: {name: replace(box, **_CROPS) for name, box in BOXES.items()}
}
"""Further protocols of every data set by the name of the protocol: boxes are cut out."""
