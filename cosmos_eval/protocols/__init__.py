"""Known data sets, each with the protocols that measure it. Imports no torch."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from cosmos_eval.protocols import scenes, scenes2, segmentation
from cosmos_eval.protocols.boxes import BOXES, BOXES_BY_PROTOCOL
from cosmos_eval.protocols.classification import (
    CLASSIFICATION,
    CLASSIFICATION_BY_PROTOCOL,
    PROBES,
    ROBUSTNESS,
    VIDEOS,
)
from cosmos_eval.protocols.coop import COOP, COOP_BY_PROTOCOL
from cosmos_eval.protocols.dense_probes import (
    DENSE_PROBES_BY_PROTOCOL,
    SCENES_PROBE,
    scenes_probes,
)
from cosmos_eval.protocols.languages import language_protocols, language_sets
from cosmos_eval.protocols.ranking import RANKING
from cosmos_eval.protocols.ratings import RATINGS
from cosmos_eval.protocols.retrieval import RETRIEVAL, RETRIEVAL_BY_PROTOCOL
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.protocols.selection import SELECTION, SELECTION_BY_PROTOCOL
from cosmos_eval.protocols.sets import read_set, set_names
from cosmos_eval.protocols.shifts import IMAGENET_C, SHIFTS, attacked_dataset, make_typographic
from cosmos_eval.protocols.webdatasets import WEBDATASETS
from cosmos_eval.types import (
    ClassificationProtocol,
    Protocol,
    RetrievalProtocol,
    SelectionProtocol,
    UsageError,
    nearest,
    protocol_name_with_pairs,
)

RERANKED = 100
"""How many candidates of each query a model scores again under `pairs100` protocols."""


def known_protocols() -> Mapping[str, Protocol]:
    """Return the data sets that `data doctor` examines if none is named, by their names.

    The embedded data sets come first. Every data set is in its usual protocol.
    """
    protocols: dict[str, Protocol] = dict(_embedded_by_name())
    protocols.update(RETRIEVAL)
    protocols.update(CLASSIFICATION)
    protocols.update(ROBUSTNESS)
    protocols.update(SHIFTS)
    protocols.update(VIDEOS)
    protocols.update(SEGMENTATION)
    protocols.update(SELECTION)
    protocols.update(RATINGS)
    protocols.update(BOXES)
    protocols.update(RANKING)
    return protocols


def named_protocols() -> Mapping[str, Protocol]:
    """Return the known data sets, the probes and the webdatasets, by their names.

    Every data set is in its usual protocol. The `described_sets` are left out, because each of them
    has a YAML file that would have to be read.
    """
    protocols = dict(known_protocols())
    protocols.update(PROBES)
    protocols.update(COOP)
    protocols.update(DENSE_PROBES_BY_PROTOCOL["ridge"])
    protocols.update(webdatasets())
    return protocols


def published_error(dataset: str, protocol_name: str) -> str | None:
    """Return a wrong class name that a protocol has taken over from published lists, or None.

    Most of these names are misspelt. Only lists of the protocol `cosmos` have them. If there are
    several, the first one is returned.

    Example:
        `published_error("cityscapes", "cosmos")` returns `trafficlight`.
    """
    if protocol_name != "cosmos":
        return None
    if dataset in CLASSIFICATION:
        # Under `cosmos`, a classification set has only misspelt names of its own.
        misspelt_names = list(CLASSIFICATION[dataset].class_names.values())
        return misspelt_names[0] if misspelt_names else None

    # A published prompt of a segmentation set is wrong if `fixed-names` does not have it.
    fixed_protocols = segmentation.SEGMENTATION_BY_PROTOCOL["fixed-names"]
    if dataset not in fixed_protocols:
        return None
    published_queries = SEGMENTATION[dataset].queries
    fixed_queries = fixed_protocols[dataset].queries
    for published_prompts, fixed_prompts in zip(published_queries, fixed_queries, strict=True):
        for prompt in published_prompts:
            if prompt not in fixed_prompts:
                return prompt
    return None


def webdatasets() -> Mapping[str, Protocol]:
    """Return the webdatasets on the Hugging Face hub by name, each in its usual protocol."""
    usual_protocols = {}
    for name, protocols in WEBDATASETS.items():
        usual_protocols[name] = next(iter(protocols.values()))
    return usual_protocols


def described_sets() -> Mapping[str, Protocol]:
    """Return the segmentation data sets that have a YAML file each, by their names.

    All files are read. To find one of the data sets, use `find_known`.
    """
    return {name: read_set(name) for name in set_names()}


def suite_names() -> list[str]:
    """Return the sorted names of the suites, which are the files of the folder suites."""
    folder = Path(str(files(__name__))) / "suites"
    return sorted(path.stem for path in folder.glob("*.yaml"))


def embedded_protocols(*, on_request: bool = False) -> Sequence[Protocol]:
    """Return the embedded data sets, which need no download.

    They are measured if no data set is named. `on_request` adds the ones that are only measured if
    their task is named.
    """
    names = [*scenes.DEFAULT]
    if on_request:
        names += [*scenes.ON_REQUEST, SCENES_PROBE]
    protocols = _embedded_by_name()
    return [protocols[name] for name in names]


def _embedded_by_name() -> Mapping[str, Protocol]:
    """Return all embedded data sets, scenes of version 1 and of version 2, by their names."""
    protocols = dict(scenes.scenes_protocols())
    protocols.update(scenes2.scenes2_protocols())
    protocols[SCENES_PROBE] = scenes_probes()["ridge"]
    return protocols


def is_embedded(protocol: Protocol) -> bool:
    """Return whether a data set is one of the embedded scenes.

    A user's data set may have the same name. It has another folder (`root`).
    """
    embedded = _embedded_by_name().get(attacked_dataset(protocol.dataset) or protocol.dataset)
    return embedded is not None and embedded.root == protocol.root


def protocols_of_dataset(dataset: str) -> Mapping[str, Protocol]:
    """Return all protocols of a known data set by their names, the usual one first.

    Raise KeyError for an unknown data set.
    """
    attacked = attacked_dataset(dataset)
    if attacked is not None:
        typographic = _find_typographic(attacked)
        return {typographic.protocol_name: typographic}
    if dataset in set_names():
        described = read_set(dataset)
        return {described.protocol_name: described}
    if dataset in WEBDATASETS:
        protocols = list(WEBDATASETS[dataset].values())
    elif dataset in language_protocols():
        protocols = [language_protocols()[dataset]]
    else:
        protocols = [named_protocols()[dataset]]

    # Each of these tables holds the data sets of one further protocol.
    for protocol_by_dataset in (
        *CLASSIFICATION_BY_PROTOCOL.values(),
        *IMAGENET_C.values(),
        *COOP_BY_PROTOCOL.values(),
        *RETRIEVAL_BY_PROTOCOL.values(),
        *segmentation.SEGMENTATION_BY_PROTOCOL.values(),
        *segmentation.LOCALISATION_BY_PROTOCOL.values(),
        *DENSE_PROBES_BY_PROTOCOL.values(),
        *SELECTION_BY_PROTOCOL.values(),
        *BOXES_BY_PROTOCOL.values(),
    ):
        if dataset in protocol_by_dataset:
            protocols.append(protocol_by_dataset[dataset])
    if dataset == "scenes-loc":
        for protocol_name in segmentation.MAPS:
            protocols.append(scenes.scenes_localisation(protocol_name))
    if dataset == SCENES_PROBE:
        protocols.extend(scenes_probes().values())
    if dataset == "scenes-boxes":
        protocols.append(scenes.scenes_boxes(str(protocols[0].root), "crops"))
    protocols.extend(_with_scored_pairs(protocols))
    return {protocol.protocol_name: protocol for protocol in protocols}


def _with_scored_pairs(protocols: Sequence[Protocol]) -> list[Protocol]:
    """Return further protocols in which a model scores pairs of an image and a text together.

    A retrieval protocol has two of them: the best 100 candidates of each query are scored, or all.
    A caption selection protocol has the second one, unless it pools features of boxes. Other
    protocols have none.

    Example:
        The retrieval protocol `cosmos` gives `cosmos-pairs100` and `cosmos-pairs`.
    """
    pair_protocols: list[Protocol] = []
    for protocol in protocols:
        if isinstance(protocol, RetrievalProtocol) and protocol.frames is not None:
            continue  # videos are measured as a whole
        if isinstance(protocol, SelectionProtocol) and protocol.regions == "pooled":
            continue
        if isinstance(protocol, RetrievalProtocol):
            name = protocol_name_with_pairs(protocol.protocol_name, RERANKED)
            pair_protocols.append(replace(protocol, protocol_name=name, pairs=RERANKED))
        if isinstance(protocol, RetrievalProtocol | SelectionProtocol):
            name = protocol_name_with_pairs(protocol.protocol_name, "all")
            pair_protocols.append(replace(protocol, protocol_name=name, pairs="all"))
    return pair_protocols


def _find_typographic(dataset: str) -> ClassificationProtocol:
    """Return the protocol of a typographic attack on the images of a classification set.

    Class names are as in the protocol `clip-benchmark`, without errors, if the set has it. Raise
    KeyError for other data sets.
    """
    protocol = CLASSIFICATION_BY_PROTOCOL["clip-benchmark"].get(dataset)
    usual_protocol = protocol or named_protocols()[dataset]
    # Subclasses have several labels for an image, and corrupted images are altered already.
    if type(usual_protocol) is not ClassificationProtocol or usual_protocol.has_severities:
        raise KeyError(dataset)
    return make_typographic(usual_protocol)


def find_known(name: str, protocol_name: str | None = None) -> Protocol:
    """Return a known data set under one of its protocols.

    Args:
        name: The name of the data set. A webdataset may have a revision of its repository, as in
            `wds/cars@v1`.
        protocol_name: The name of the protocol; None: the usual one of the data set.

    Raises:
        UsageError: For an unknown data set or protocol, with the nearest names, and for a folder.
    """
    if name in language_sets():
        raise UsageError(
            f"{name} is data sets in {len(language_sets()[name])} languages: name one of them, "
            f"such as {next(iter(language_sets()[name]))}"
        )
    known_names = [*named_protocols(), *set_names(), *language_protocols()]
    dataset, separator, revision = name.partition("@")
    if attacked_dataset(dataset) is not None:
        with suppress(KeyError):  # of a set that cannot be attacked
            _find_typographic(str(attacked_dataset(dataset)))
            known_names.append(dataset)
    # Only webdatasets have revisions, and a revision must not be empty.
    can_have_revision = revision != "" and dataset in WEBDATASETS
    if dataset not in known_names or (separator and not can_have_revision):
        if Path(name).is_dir():
            raise UsageError(_describe_folder_remedy(name))
        raise UsageError(
            f"unknown data set {name!r}; nearest: {nearest(name, known_names)}; "
            "or a .yaml file that describes your own"
        )

    protocols = protocols_of_dataset(dataset)
    if protocol_name is None:
        protocol_name = next(iter(protocols))  # the usual one is the first
    if protocol_name not in protocols:
        raise UsageError(
            f"{dataset} has no protocol {protocol_name!r}; "
            f"nearest: {nearest(protocol_name, protocols)}"
        )
    protocol = protocols[protocol_name]
    if not revision:
        return protocol
    return replace(protocol, dataset=name, revision=revision)


def _describe_folder_remedy(folder: str) -> str:
    """Return the error message for a folder that is named in place of a data set.

    It has the lines of a YAML file for the simplest layout, a folder of images for each class. For
    the folder `data/photos`, the file is `photos.yaml` with `folder: data/photos`.
    """
    file_name = f"{Path(folder).resolve().name}.yaml"
    return (
        f"data set {folder!r} is a folder: if it has a folder of images for each class, write the "
        f"lines `kind: cls` and `folder: {folder}` to {file_name}, and name that file; "
        "docs/your-data.md has the lines for other data"
    )


def prepare(protocol: Protocol) -> None:
    """Render an embedded data set unless it is on the disk; do nothing for other data sets."""
    if not is_embedded(protocol):
        return
    dataset = attacked_dataset(protocol.dataset) or protocol.dataset
    if dataset in scenes2.scenes2_protocols():
        scenes2.prepare_scenes2(protocol)
    else:
        scenes.prepare_scenes()
        if dataset in (scenes.PROBE, scenes.TRAINING):
            scenes.prepare_training(dataset)
        if dataset == SCENES_PROBE:
            scenes.prepare_training(scenes.TRAINING)
