"""Linear probes of the patch features of known data sets, which dense_probes.yaml declares."""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from cosmos_eval.protocols.declared import fields_of, read_yaml
from cosmos_eval.protocols.scenes import TRAINING, scenes_protocols
from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.types import (
    DepthProbeProtocol,
    LabelMapFiles,
    Protocol,
    SegmentationProbeProtocol,
    SegmentationProtocol,
)

SCENES_PROBE = "scenes-seg-probe"
"""The embedded probe: fitted to the scenes of scenes-seg-train, measured on those of scenes-seg."""

_DINOV3 = "https://github.com/facebookresearch/dinov3/tree/6876159 (dinov3/eval)"
_SOURCES = {"ridge": "closed form (cosmos_eval/stats/ridge.py)", "dinov3": _DINOV3}
_DECLARED = read_yaml("dense_probes")


def _segmentation_probe(
    protocol: SegmentationProtocol, name: str, **changes: Any
) -> SegmentationProbeProtocol:
    """Return a probe on the test images of a segmentation protocol.

    Args:
        protocol: The segmentation protocol, whose files and classes are taken.
        name: The name of the probe's protocol, such as `ridge`.
        changes: Other fields of the probe.
    """
    values = {field.name: getattr(protocol, field.name) for field in fields(LabelMapFiles)}
    values.update(
        dataset=f"{protocol.dataset}-probe",
        protocol_name=name,
        source=_SOURCES.get(name, ""),
        class_names=protocol.class_names,
        queries=tuple((class_name,) for class_name in protocol.class_names),
        groups=protocol.groups,
    )
    values.update(changes)
    return SegmentationProbeProtocol(**values)


def _published_probes(protocol_name: str) -> dict[str, Protocol]:
    """Return the probes on known data sets under one protocol, by the name of the data set."""
    probes: dict[str, Protocol] = {}
    constants = fields_of(_DECLARED["segmentation_protocols"][protocol_name])
    for dataset, files in _DECLARED["segmentation"].items():
        probe = _segmentation_probe(SEGMENTATION[dataset], protocol_name, **constants, **files)
        probes[probe.dataset] = probe
    constants = fields_of(_DECLARED["depth_protocols"][protocol_name])
    for dataset, files in _DECLARED["depth"].items():
        probes[dataset] = DepthProbeProtocol(
            dataset=dataset,
            protocol_name=protocol_name,
            source=_SOURCES[protocol_name],
            **constants,
            **fields_of(files),
        )
    return probes


DENSE_PROBES_BY_PROTOCOL: Mapping[str, Mapping[str, Protocol]] = {
    name: _published_probes(name) for name in _SOURCES
}
"""Probes by the name of the protocol, then by the data set."""


def scenes_probes() -> Mapping[str, SegmentationProbeProtocol]:
    """Return the protocols of `scenes-seg-probe` by name. `sgd` is a short form of `dinov3`."""
    return _scenes_probes_of(scenes_protocols()["scenes-seg"].root or "")


@cache
def _scenes_probes_of(root: str) -> Mapping[str, SegmentationProbeProtocol]:
    """Return the protocols of `scenes-seg-probe` by name, with files below `root`."""
    scenes = scenes_protocols()
    test, train = scenes["scenes-seg"], scenes[TRAINING]
    assert isinstance(test, SegmentationProtocol)
    assert isinstance(train, SegmentationProtocol)
    folder = (train.root or "").removeprefix(f"{root}/")
    shared = {
        "train_images": f"{folder}/{train.images}",
        "train_masks": f"{folder}/{train.masks}",
        "train_split": f"{folder}/{train.split}",
        "short_side": test.short_side,
        "window": test.window,
        "stride": test.stride,
        "mean": test.mean,
        "std": test.std,
    }
    steps = {"iterations": 300, "batch": 8, "warmup": 30}
    return {
        "ridge": _segmentation_probe(test, "ridge", **shared),
        "sgd": _segmentation_probe(test, "sgd", source=_DINOV3, **shared, **steps),
    }
