"""Probes of known sets: their training and test splits as torchvision reads them, and ImageNet's
folders. Numbers of training images: Radford et al. 2021, arXiv 2103.00020, table 9. Imports no
torch."""

from collections.abc import Mapping
from dataclasses import replace

from cosmos_eval.protocols.classification import CLASSIFICATION_FAMILIES
from cosmos_eval.types import ProbeProtocol

# Of dtd and flowers102 the training images are torchvision's splits `train` and `val`.
_TRAINING_IMAGES = {
    "imagenet1k": 1_281_167,
    "food101": 75_750,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "stanford_cars": 8_144,
    "fgvc_aircraft": 6_667,
    "dtd": 3_760,
    "oxford_pets": 3_680,
    "flowers102": 2_040,
}
_IMAGENET_TRAIN = ("train", "imagenet/train", "ILSVRC/Data/CLS-LOC/train")


def _probe(name: str, n_images: int) -> ProbeProtocol:
    # The family without errors in names of classes, which a probe does not read.
    test = replace(CLASSIFICATION_FAMILIES["clip-benchmark"][name], dataset=f"{name}-probe")
    train = replace(test, n_images=n_images)
    if name == "imagenet1k":
        folder, *others = _IMAGENET_TRAIN
        train = replace(train, folder=folder, usual_folders=tuple(others))
    else:
        train = replace(train, torchvision=f"{name}/train")
    return ProbeProtocol(
        dataset=test.dataset,
        family="probe",
        source="Radford et al. 2021, arXiv 2103.00020, table 9; torchvision.datasets",
        download=test.download,
        train="training images",
        test="test images",
        splits=(train, test),
    )


PROBES: Mapping[str, ProbeProtocol] = {
    f"{name}-probe": _probe(name, n_images) for name, n_images in _TRAINING_IMAGES.items()
}
"""Probes of known sets by name."""
