"""Known data sets and users' own, each with the protocol it is measured by. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cosmos_eval.protocols import scenes, segmentation
from cosmos_eval.protocols.classification import (
    CLASSIFICATION,
    CLASSIFICATION_FAMILIES,
    PROBES,
    ROBUSTNESS,
)
from cosmos_eval.protocols.retrieval import RETRIEVAL, RETRIEVAL_FAMILIES
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.protocols.selection import SELECTION
from cosmos_eval.protocols.sets import read_set, set_names
from cosmos_eval.protocols.webdatasets import WEBDATASETS
from cosmos_eval.types import (
    Protocol,
    RetrievalProtocol,
    ScoredPairs,
    SelectionProtocol,
    UsageError,
    family_of_pairs,
    nearest,
)

RERANKED = 100  # candidates of a query, of which a known set's `pairs100` scores the pairs


def known_protocols() -> Mapping[str, Protocol]:
    """Return the data sets that the doctor examines without names, the embedded ones first."""
    return {
        **scenes.scenes_protocols(),
        **RETRIEVAL,
        **CLASSIFICATION,
        **ROBUSTNESS,
        **SEGMENTATION,
        **SELECTION,
    }


def named_protocols() -> Mapping[str, Protocol]:
    """Return every data set that can be named but the described ones, with its usual protocol."""
    return {**known_protocols(), **PROBES, **webdatasets()}


def published_error(dataset: str, family: str) -> str | None:
    """Return a wrong name of the published class lists, which `cosmos` keeps, such as
    "trafficlight"; None where there is none."""
    if family != "cosmos":
        return None
    if dataset in CLASSIFICATION:
        return next(iter((CLASSIFICATION[dataset].class_names or {}).values()), None)
    fixed = segmentation.SEGMENTATION_FAMILIES["fixed-names"].get(dataset)
    pairs = zip(SEGMENTATION[dataset].queries, fixed.queries, strict=True) if fixed else ()
    return next((name for names, others in pairs for name in names if name not in others), None)


def webdatasets() -> Mapping[str, Protocol]:
    """Return the webdatasets on the hub by name, each with its usual protocol."""
    return {name: next(iter(families.values())) for name, families in WEBDATASETS.items()}


def described_sets() -> Mapping[str, Protocol]:
    """Return the segmentation sets that are read when they are named, each with its protocol."""
    return {name: read_set(name) for name in set_names()}


def embedded_protocols(*, on_request: bool = False) -> Sequence[Protocol]:
    """Return the data sets that are measured when none is named, none of which needs a download;
    `on_request` adds those that are measured when their task alone is named."""
    known = known_protocols()
    return [known[name] for name in (*scenes.DEFAULT, *(scenes.ON_REQUEST if on_request else ()))]


def is_embedded(protocol: Protocol) -> bool:
    """Tell whether a data set comes with this package."""
    embedded = scenes.scenes_protocols().get(protocol.dataset)
    return embedded is not None and embedded.root == protocol.root


def known_families(dataset: str) -> Mapping[str, Protocol]:
    """Return the protocols of a known data set by their family, its usual one first."""
    if dataset in set_names():
        return {read_set(dataset).family: read_set(dataset)}
    found = [*WEBDATASETS.get(dataset, {}).values()] or [named_protocols()[dataset]]
    of_maps = segmentation.SEGMENTATION_FAMILIES, segmentation.LOCALISATION_FAMILIES
    for families in (CLASSIFICATION_FAMILIES, RETRIEVAL_FAMILIES, *of_maps):
        found += [protocols[dataset] for protocols in families.values() if dataset in protocols]
    if dataset == "scenes-loc":
        found += [scenes.scenes_localisation(family) for family in segmentation.MAPS]
    scored: Sequence[ScoredPairs] = ()
    if isinstance(found[0], RetrievalProtocol):
        scored = (RERANKED, "all")
    elif isinstance(found[0], SelectionProtocol):
        scored = ("all",)
    found += [
        replace(one, family=family_of_pairs(one.family, pairs), pairs=pairs)  # type: ignore[call-arg]
        for one in found
        for pairs in scored
    ]
    return {protocol.family: protocol for protocol in found}


def find_known(name: str, family: str | None = None) -> Protocol:
    """Return a known data set, a webdataset also as NAME@REVISION; None: its usual family. Raises
    UsageError with nearest names."""
    known = [*named_protocols(), *set_names()]
    plain, at, revision = name.partition("@")
    if plain not in known or (at and (not revision or plain not in WEBDATASETS)):
        raise UsageError(
            f"unknown data set {name!r}; known: {nearest(name, known)}; "
            "or a .yaml file that describes your own"
        )
    families = known_families(plain)
    if family not in (None, *families):
        raise UsageError(f"{plain} has no protocol {family!r}; it has: {', '.join(families)}")
    found = families[family or next(iter(families))]
    return replace(found, dataset=name, revision=revision) if at else found


def prepare(protocol: Protocol) -> None:
    """Make sure that an embedded data set is on the disk; leave other data as they are."""
    if is_embedded(protocol):
        scenes.prepare_scenes()
        if protocol.dataset in (scenes.PROBE, scenes.TRAINING):
            scenes.prepare_training(protocol.dataset)
