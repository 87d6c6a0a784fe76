"""Zero-shot classification sets, as classification.yaml and robustness.yaml declare them: families
`cosmos` and `clip-benchmark`. Imports no torch."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from cosmos_eval.protocols.declared import fields_of, read_protocols, read_yaml
from cosmos_eval.types import ClassificationProtocol, ProbeProtocol


class ClassList(NamedTuple):
    """Prompt names in the order of a set's classes. `names` is the key of clip_benchmark's list
    (en_classnames.json), whose first `skipped` are left out. `classes` says what the classes are
    called on the disk: `ids` is the file in timm's data/_info that lists these names, `numeric`
    that they are 0, 1, 2... and sorted as numbers. `classes_sha256` is the hash of the names in
    their order, joined by newlines (None: only their number is checked). A user's set may have a
    subset of the classes whose names are listed."""

    names: str
    classes: str
    n_classes: int
    classes_sha256: str | None = None
    numeric: bool = False
    skipped: int = 0
    ids: str = ""


_DECLARED = read_yaml("classification")
CLASS_LISTS: Mapping[str, ClassList] = {
    name: ClassList(**fields) for name, fields in _DECLARED[".class_lists"].items()
}
CLASSIFICATION: Mapping[str, ClassificationProtocol] = read_protocols(
    "classification",
    partial(ClassificationProtocol, family="cosmos", source="github.com/ExplainableML/cosmos"),
)
_CLIP_BENCHMARK = "https://github.com/LAION-AI/CLIP_benchmark (datasets/builder.py)"
ROBUSTNESS: Mapping[str, ClassificationProtocol] = read_protocols(
    "robustness", partial(ClassificationProtocol, family="clip-benchmark", source=_CLIP_BENCHMARK)
)
"""Sets of ImageNet's classes, which have the family `clip-benchmark` alone."""
CLASSIFICATION_FAMILIES: Mapping[str, Mapping[str, ClassificationProtocol]] = {
    "cosmos": CLASSIFICATION,
    "clip-benchmark": {
        name: replace(
            protocol,
            family="clip-benchmark",
            source=_CLIP_BENCHMARK,
            **_DECLARED[".clip-benchmark"].get(name, {}),
        )
        for name, protocol in CLASSIFICATION.items()
    },
}
"""Protocols of the sets of `cosmos` by family, then by data set."""


def _probe(name: str, n_images: int) -> ProbeProtocol:
    # The family without errors in names of classes, which a probe does not read.
    test = replace(CLASSIFICATION_FAMILIES["clip-benchmark"][name], dataset=f"{name}-probe")
    others = _DECLARED[".training_folders"].get(name, {"torchvision": f"{name}/train"})
    return ProbeProtocol(
        dataset=test.dataset,
        family="probe",
        source="Radford et al. 2021, arXiv 2103.00020, table 9; torchvision.datasets",
        download=test.download,
        train="training images",
        test="test images",
        splits=(replace(test, n_images=n_images, **fields_of(others)), test),
    )


PROBES: Mapping[str, ProbeProtocol] = {
    f"{name}-probe": _probe(name, n) for name, n in _DECLARED[".training_images"].items()
}
"""Probes of known sets by name: their training and test splits."""
