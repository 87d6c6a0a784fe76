"""Known data sets, each with the protocols that measure it. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cosmos_eval.protocols import scenes, segmentation
from cosmos_eval.protocols.classification import (
    CLASSIFICATION,
    CLASSIFICATION_BY_PROTOCOL,
    PROBES,
    ROBUSTNESS,
)
from cosmos_eval.protocols.retrieval import RETRIEVAL, RETRIEVAL_BY_PROTOCOL
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.protocols.selection import SELECTION
from cosmos_eval.protocols.sets import read_set, set_names
from cosmos_eval.protocols.webdatasets import WEBDATASETS
from cosmos_eval.types import (
    Protocol,
    RetrievalProtocol,
    SelectionProtocol,
    UsageError,
    nearest,
    protocol_name_with_pairs,
)

RERANKED = 100
"""The number of candidates of a query whose pairs are scored by `pairs100` protocols."""


def known_protocols() -> Mapping[str, Protocol]:
    """Return the data sets that the doctor examines if none is named, the embedded ones first."""
    protocols: dict[str, Protocol] = dict(scenes.scenes_protocols())
    protocols.update(RETRIEVAL)
    protocols.update(CLASSIFICATION)
    protocols.update(ROBUSTNESS)
    protocols.update(SEGMENTATION)
    protocols.update(SELECTION)
    return protocols


def named_protocols() -> Mapping[str, Protocol]:
    """Return the known data sets, the probes and the webdatasets, in their usual protocols.

    Only the `described_sets` are left out.
    """
    protocols = dict(known_protocols())
    protocols.update(PROBES)
    protocols.update(webdatasets())
    return protocols


def published_error(dataset: str, protocol_name: str) -> str | None:
    """Return a misspelt class name in the published lists of a data set, or None.

    Only the lists of `cosmos` have such names, for example "trafficlight".
    """
    if protocol_name != "cosmos":
        return None
    if dataset in CLASSIFICATION:
        return next(iter((CLASSIFICATION[dataset].class_names or {}).values()), None)
    fixed_names = segmentation.SEGMENTATION_BY_PROTOCOL["fixed-names"]
    if dataset not in fixed_names:
        return None
    published_queries = SEGMENTATION[dataset].queries
    for published, fixed in zip(published_queries, fixed_names[dataset].queries, strict=True):
        for name in published:
            if name not in fixed:
                return name
    return None


def webdatasets() -> Mapping[str, Protocol]:
    """Return the webdatasets on the hub by name, each in its usual protocol."""
    return {name: next(iter(protocols.values())) for name, protocols in WEBDATASETS.items()}


def described_sets() -> Mapping[str, Protocol]:
    """Return the segmentation sets whose YAML files are read when they are named."""
    return {name: read_set(name) for name in set_names()}


def embedded_protocols(*, on_request: bool = False) -> Sequence[Protocol]:
    """Return the data sets that are measured if none is named; they need no download.

    `on_request` adds the sets that are only measured if their task is named.
    """
    protocols = known_protocols()
    names = [*scenes.DEFAULT]
    if on_request:
        names += scenes.ON_REQUEST
    return [protocols[name] for name in names]


def is_embedded(protocol: Protocol) -> bool:
    """Return whether a data set comes with this package."""
    embedded = scenes.scenes_protocols().get(protocol.dataset)
    return embedded is not None and embedded.root == protocol.root


def protocols_of_dataset(dataset: str) -> Mapping[str, Protocol]:
    """Return the protocols of a known data set by their names, the usual one first."""
    if dataset in set_names():
        described = read_set(dataset)
        return {described.protocol_name: described}
    if dataset in WEBDATASETS:
        protocols = list(WEBDATASETS[dataset].values())
    else:
        protocols = [named_protocols()[dataset]]
    for sets_by_protocol in (
        CLASSIFICATION_BY_PROTOCOL,
        RETRIEVAL_BY_PROTOCOL,
        segmentation.SEGMENTATION_BY_PROTOCOL,
        segmentation.LOCALISATION_BY_PROTOCOL,
    ):
        protocols.extend(sets[dataset] for sets in sets_by_protocol.values() if dataset in sets)
    if dataset == "scenes-loc":
        protocols.extend(
            scenes.scenes_localisation(protocol_name) for protocol_name in segmentation.MAPS
        )
    protocols.extend(_with_scored_pairs(protocols))
    return {protocol.protocol_name: protocol for protocol in protocols}


def _with_scored_pairs(protocols: Sequence[Protocol]) -> list[Protocol]:
    """Return variants of protocols in which a model scores pairs of images and texts."""
    variants: list[Protocol] = []
    for protocol in protocols:
        if isinstance(protocol, RetrievalProtocol):
            reranked = protocol_name_with_pairs(protocol.protocol_name, RERANKED)
            variants.append(replace(protocol, protocol_name=reranked, pairs=RERANKED))
        if isinstance(protocol, RetrievalProtocol | SelectionProtocol):
            all_pairs = protocol_name_with_pairs(protocol.protocol_name, "all")
            variants.append(replace(protocol, protocol_name=all_pairs, pairs="all"))
    return variants


def find_known(name: str, protocol_name: str | None = None) -> Protocol:
    """Return a known data set under a protocol (None: the usual one).

    A webdataset may be named with a revision: NAME@REVISION. Raise UsageError with the nearest
    names for an unknown data set or protocol.
    """
    known_names = [*named_protocols(), *set_names()]
    dataset, at, revision = name.partition("@")
    has_invalid_revision = bool(at) and (not revision or dataset not in WEBDATASETS)
    if dataset not in known_names or has_invalid_revision:
        raise UsageError(
            f"unknown data set {name!r}; known: {nearest(name, known_names)}; "
            "or a .yaml file that describes your own"
        )
    protocols = protocols_of_dataset(dataset)
    if protocol_name is None:
        protocol_name = next(iter(protocols))
    if protocol_name not in protocols:
        raise UsageError(
            f"{dataset} has no protocol {protocol_name!r}; it has: {', '.join(protocols)}"
        )
    protocol = protocols[protocol_name]
    return replace(protocol, dataset=name, revision=revision) if revision else protocol


def prepare(protocol: Protocol) -> None:
    """Make sure that an embedded data set is on the disk; leave other data as they are."""
    if is_embedded(protocol):
        scenes.prepare_scenes()
        if protocol.dataset in (scenes.PROBE, scenes.TRAINING):
            scenes.prepare_training(protocol.dataset)
