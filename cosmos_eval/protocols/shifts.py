"""Sets of shifted images: corruptions, typographic attacks, and what shifts.yaml declares.

Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import replace

from cosmos_eval.protocols.classification import CLASSIFICATION_BY_PROTOCOL
from cosmos_eval.protocols.declared import read_yaml
from cosmos_eval.types import ClassificationProtocol

ON_THE_FLY = "imagenet-c-on-the-fly"
"""The protocol whose corrupted images are made from ImageNet's, by a package."""
TYPOGRAPHIC = "typographic"
"""The protocol that writes the name of a wrong class on every image."""

_DECLARED = read_yaml("shifts")
_TYPOGRAPHIC_SUFFIX = f"-{TYPOGRAPHIC}"


def _make_imagenet_c() -> dict[str, dict[str, ClassificationProtocol]]:
    """Return the protocols of ImageNet-C by the name of the protocol, then by the data set.

    Every corruption is a data set, such as `imagenet-c/fog`, with all its severities. The protocol
    `imagenet-c` reads the published images, and the other one corrupts ImageNet's.
    """
    imagenet = CLASSIFICATION_BY_PROTOCOL["clip-benchmark"]["imagenet1k"]
    published, on_the_fly = {}, {}
    for archive, errors in _DECLARED[".imagenet-c"].items():
        for corruption, alexnet_error in errors.items():
            name = f"imagenet-c/{corruption}"
            published[name] = replace(
                imagenet,
                dataset=name,
                protocol_name="imagenet-c",
                source="arXiv 1903.12261; github.com/hendrycks/robustness",
                download="https://zenodo.org/records/2235448",
                folder=name,
                usual_folders=(
                    f"imagenet-c/{archive}/{corruption}",
                    f"ImageNet-C/{corruption}",
                    f"ImageNet-C/{archive}/{corruption}",
                ),
                layout="severities",
                n_images=imagenet.n_images and 5 * imagenet.n_images,
                alexnet_error=alexnet_error,
                main_metric="CE",
            )
            on_the_fly[name] = replace(
                imagenet,
                dataset=name,
                protocol_name=ON_THE_FLY,
                source="arXiv 1903.12261; imagecorruptions-imaug",
                corruption=corruption,
                alexnet_error=alexnet_error,
                main_metric="CE",
                remark="corrupted by this run: not comparable with the published JPEGs",
            )
    return {"imagenet-c": published, ON_THE_FLY: on_the_fly}


IMAGENET_C: Mapping[str, Mapping[str, ClassificationProtocol]] = _make_imagenet_c()
"""Protocols of ImageNet-C by the name of the protocol, then by the data set."""


def attacked_dataset(dataset: str) -> str | None:
    """Return the name of the data set that a typographic attack is made on, or None.

    Example:
        `imagenet1k-typographic` gives `imagenet1k`, and `imagenet1k` gives None.
    """
    if not dataset.endswith(_TYPOGRAPHIC_SUFFIX):
        return None
    return dataset.removesuffix(_TYPOGRAPHIC_SUFFIX)


def make_typographic(protocol: ClassificationProtocol) -> ClassificationProtocol:
    """Return the protocol of a typographic attack on the images of a data set.

    For `imagenet1k`, it is called `imagenet1k-typographic`.
    """
    return replace(
        protocol,
        dataset=protocol.dataset + _TYPOGRAPHIC_SUFFIX,
        protocol_name=TYPOGRAPHIC,
        source=f"written by this package on images of: {protocol.source or protocol.dataset}",
        typographic=True,
        main_metric=None,
    )
