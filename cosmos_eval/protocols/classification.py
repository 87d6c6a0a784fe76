"""Zero-shot classification sets that classification, robustness and videos.yaml declare.

Their protocols are `cosmos`, `clip-benchmark` and `video`. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from cosmos_eval.protocols.declared import fields_of, read_protocols, read_yaml
from cosmos_eval.types import ClassificationProtocol, ProbeProtocol


class ClassList(NamedTuple):
    """A list of classes: their names in prompts and on the disk, in the same order.

    A user's set may have a subset of the classes, if their names on the disk are known.
    """

    # The key of the names in prompts in clip_benchmark's en_classnames.json.
    names: str
    # A description of the names on the disk for error messages, such as "WordNet ids".
    classes: str
    n_classes: int
    # The hash of the names on the disk in their order, joined by newlines; None: not checked.
    classes_sha256: str | None = None
    # Whether the names on the disk are 0, 1, 2..., which are sorted as numbers.
    numeric: bool = False
    # How many names at the beginning of clip_benchmark's list are left out.
    skipped: int = 0
    # The file in timm's data/_info that lists the names on the disk.
    ids: str = ""


_DECLARED = read_yaml("classification")
CLASS_LISTS: Mapping[str, ClassList] = {
    name: ClassList(**fields) for name, fields in _DECLARED[".class_lists"].items()
}
"""Known lists of classes by name, such as `imagenet1k`."""
CLASSIFICATION: Mapping[str, ClassificationProtocol] = read_protocols(
    "classification",
    ClassificationProtocol,
    protocol_name="cosmos",
    source="github.com/ExplainableML/cosmos",
)
"""Classification data sets by name, under the protocol `cosmos`."""
_CLIP_BENCHMARK = "https://github.com/LAION-AI/CLIP_benchmark (datasets/builder.py)"
ROBUSTNESS: Mapping[str, ClassificationProtocol] = read_protocols(
    "robustness", ClassificationProtocol, protocol_name="clip-benchmark", source=_CLIP_BENCHMARK
)
"""Sets of ImageNet's classes, which only have the protocol `clip-benchmark`."""
VIDEOS: Mapping[str, ClassificationProtocol] = read_protocols(
    "videos", ClassificationProtocol, protocol_name="video", source="github.com/openai/CLIP"
)
"""Sets of videos with one action each, which only have the protocol `video`."""


# CLIP Benchmark has other class names and templates for some data sets.
_CLIP_BENCHMARK_CHANGES = _DECLARED[".clip-benchmark"]
CLASSIFICATION_BY_PROTOCOL: Mapping[str, Mapping[str, ClassificationProtocol]] = {
    "cosmos": CLASSIFICATION,
    "clip-benchmark": {
        name: replace(
            protocol,
            protocol_name="clip-benchmark",
            source=_CLIP_BENCHMARK,
            **_CLIP_BENCHMARK_CHANGES.get(name, {}),
        )
        for name, protocol in CLASSIFICATION.items()
    },
}
"""Protocols of classification sets by the name of the protocol, then by the data set."""


def _make_probe(name: str, n_training_images: int) -> ProbeProtocol:
    """Return the protocol of a probe on the training and the test images of a known data set.

    A probe is a classifier that is trained on the image features of a model.

    Args:
        name: The name of the data set, such as `food101`. The probe is called `food101-probe`.
        n_training_images: The number of training images of the complete data set.
    """
    # Class names do not matter for probes. Under `clip-benchmark`, they have no errors.
    test = replace(CLASSIFICATION_BY_PROTOCOL["clip-benchmark"][name], dataset=f"{name}-probe")
    from_torchvision = {"torchvision": f"{name}/train"}
    training_files = _DECLARED[".training_folders"].get(name, from_torchvision)
    train = replace(test, n_images=n_training_images, **fields_of(training_files))
    return ProbeProtocol(
        dataset=test.dataset,
        protocol_name="probe",
        source="Radford et al. 2021, arXiv 2103.00020, table 9; torchvision.datasets",
        download=test.download,
        train="training images",
        test="test images",
        splits=(train, test),
    )


PROBES: Mapping[str, ProbeProtocol] = {
    f"{name}-probe": _make_probe(name, n_images)
    for name, n_images in _DECLARED[".training_images"].items()
}
"""Probes on the training and test images of known sets, by name."""
