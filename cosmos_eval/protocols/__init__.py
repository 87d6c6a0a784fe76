"""Known data sets and users' own, each with the protocol it is measured by. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cosmos_eval.protocols.classification import CLASSIFICATION
from cosmos_eval.protocols.classification_families import CLASSIFICATION_FAMILIES
from cosmos_eval.protocols.localisation import LOCALISATION_FAMILIES, MAPS
from cosmos_eval.protocols.retrieval import RETRIEVAL
from cosmos_eval.protocols.scenes import (
    ASKED_FOR,
    DEFAULT,
    prepare_scenes,
    scenes_localisation,
    scenes_protocols,
)
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.protocols.segmentation_families import SEGMENTATION_FAMILIES
from cosmos_eval.protocols.selection import SELECTION
from cosmos_eval.types import Protocol, UsageError, nearest

__all__ = [
    "embedded_on_request",
    "embedded_protocols",
    "find_known",
    "is_embedded",
    "known_families",
    "known_protocols",
    "prepare",
]


def known_protocols() -> Mapping[str, Protocol]:
    """Every data set that can be named, by name: the embedded ones first."""
    return {**scenes_protocols(), **RETRIEVAL, **CLASSIFICATION, **SEGMENTATION, **SELECTION}


def embedded_protocols() -> Sequence[Protocol]:
    """What is measured when no data set is named: needs neither download nor data root."""
    return [known_protocols()[name] for name in DEFAULT]


def embedded_on_request() -> Sequence[Protocol]:
    """What is measured beside that when its task is named: needs neither as well."""
    return [known_protocols()[name] for name in ASKED_FOR]


def is_embedded(protocol: Protocol) -> bool:
    """Whether a data set comes with this package."""
    embedded = scenes_protocols().get(protocol.dataset)
    return embedded is not None and embedded.root == protocol.root


def known_families(dataset: str) -> Mapping[str, Protocol]:
    """The protocols of a known data set by their family, its usual one first."""
    usual = known_protocols()[dataset]
    others = {
        family: protocols[dataset]
        for families in (CLASSIFICATION_FAMILIES, SEGMENTATION_FAMILIES, _localisation_families())
        for family, protocols in families.items()
        if dataset in protocols
    }
    return {usual.family: usual, **others}


def _localisation_families() -> Mapping[str, Mapping[str, Protocol]]:
    """Of the embedded scenes as well."""
    embedded = {family: scenes_localisation(family) for family in MAPS}
    return {
        family: {embedded[family].dataset: embedded[family], **protocols}
        for family, protocols in LOCALISATION_FAMILIES.items()
    }


def find_known(name: str, family: str | None = None) -> Protocol:
    """A known data set by its name.

    `family` chooses among its protocols; None is its usual one. Raises UsageError with the nearest
    known names.
    """
    known = known_protocols()
    if name not in known:
        raise UsageError(
            f"unknown data set {name!r}; known: {nearest(name, list(known))}; "
            "or a .yaml file that describes your own"
        )
    if family is None:
        return known[name]
    families = known_families(name)
    if family not in families:
        raise UsageError(f"{name} has no protocol {family!r}; it has: {', '.join(families)}")
    return families[family]


def prepare(protocol: Protocol) -> None:
    """Make sure that an embedded data set is on the disk; other data are left as they are."""
    if is_embedded(protocol):
        prepare_scenes()
