"""Sets of shifted images: corruptions, typographic attacks, and what shifts.yaml declares.

Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import replace

from cosmos_eval.protocols.classification import CLASSIFICATION_BY_PROTOCOL
from cosmos_eval.protocols.declared import fields_of, read_yaml
from cosmos_eval.types import ClassificationProtocol, ImageTable, OodProtocol

ON_THE_FLY = "imagenet-c-on-the-fly"
"""The protocol whose corrupted images are made from ImageNet's, by a package."""
TYPOGRAPHIC = "typographic"
"""The protocol that writes the name of a wrong class on every image."""

_DECLARED = read_yaml("shifts")
_OOD_FOLDER = "ImageNet_OOD_dataset"
_TYPOGRAPHIC_SUFFIX = f"-{TYPOGRAPHIC}"


def _make_imagenet_c() -> dict[str, dict[str, ClassificationProtocol]]:
    """Return the protocols of ImageNet-C by the name of the protocol, then by the data set.

    Every corruption is a data set, such as `imagenet-c/fog`, with all its severities. The protocol
    `imagenet-c` reads the published images, and the other one corrupts ImageNet's.
    """
    published, on_the_fly = {}, {}
    for archive, errors in _DECLARED[".imagenet-c"].items():
        for corruption, alexnet_error in errors.items():
            imagenet = replace(
                CLASSIFICATION_BY_PROTOCOL["clip-benchmark"]["imagenet1k"],
                dataset=f"imagenet-c/{corruption}",
                alexnet_error=alexnet_error,
                main_metric="CE",
            )
            published[imagenet.dataset] = _make_published_corruption(imagenet, archive, corruption)
            on_the_fly[imagenet.dataset] = replace(
                imagenet,
                protocol_name=ON_THE_FLY,
                source="arXiv 1903.12261; imagecorruptions-imaug",
                corruption=corruption,
                remark="corrupted by this run: not comparable with the published JPEGs",
            )
    return {"imagenet-c": published, ON_THE_FLY: on_the_fly}


def _make_published_corruption(
    imagenet: ClassificationProtocol, archive: str, corruption: str
) -> ClassificationProtocol:
    """Return the protocol of the published images of a corruption, with five severities.

    Args:
        imagenet: The protocol of the clean images, already with the name of the data set.
        archive: The name of the published archive without `.tar`, such as `weather`.
        corruption: The name of the corruption.
    """
    folder = f"imagenet-c/{corruption}"
    return replace(
        imagenet,
        protocol_name="imagenet-c",
        source="arXiv 1903.12261; github.com/hendrycks/robustness",
        download="https://zenodo.org/records/2235448",
        folder=folder,
        usual_folders=(
            f"imagenet-c/{archive}/{corruption}",
            f"ImageNet-C/{corruption}",
            f"ImageNet-C/{archive}/{corruption}",
        ),
        layout="severities",
        n_images=imagenet.n_images and 5 * imagenet.n_images,
    )


IMAGENET_C: Mapping[str, Mapping[str, ClassificationProtocol]] = _make_imagenet_c()
"""Protocols of ImageNet-C by the name of the protocol, then by the data set."""


def _make_grouped_sets() -> dict[str, ClassificationProtocol]:
    """Return the protocols of the sets with groups that shifts.yaml declares, by name."""
    protocols = {}
    for name, entry in _DECLARED[".groups"].items():
        fields = fields_of(entry)
        table = ImageTable(**fields_of(fields.pop("table")))
        protocols[name] = ClassificationProtocol(
            dataset=name,
            protocol_name="groups",
            source="arXiv 1911.08731; prompts of github.com/chingyaoc/debias_vl",
            table=table,
            main_metric="worst_group_acc1",
            **fields,
        )
    return protocols


def _make_imagenet_9() -> dict[str, ClassificationProtocol]:
    """Return the protocols of the variations of ImageNet-9, such as `imagenet-9/mixed_rand`."""
    declared = _DECLARED[".imagenet-9"]
    protocols = {}
    for variation in declared["variations"]:
        name = f"imagenet-9/{variation}"
        protocols[name] = ClassificationProtocol(
            dataset=name,
            protocol_name="imagenet-9",
            source="arXiv 2006.09994; github.com/MadryLab/backgrounds_challenge",
            download=declared["download"],
            folder=f"bg_challenge/{variation}/val",
            usual_folders=(f"imagenet-9/{variation}/val",),
            names_in_order=tuple(declared["names"]),
            templates="openai-imagenet",
            n_classes=len(declared["names"]),
            n_images=declared["n_images"],
        )
    return protocols


def _make_ood_sets() -> dict[str, OodProtocol]:
    """Return the protocols of images outside of ImageNet's classes, such as `imagenet-ood/sun`."""
    imagenet = CLASSIFICATION_BY_PROTOCOL["clip-benchmark"]["imagenet1k"]
    protocols = {}
    for key, entry in _DECLARED[".ood"].items():
        name = f"imagenet-ood/{key}"
        fields = fields_of(entry)
        folders = (fields["folder"], *fields.get("usual_folders", ()))
        outside = ClassificationProtocol(
            dataset=name,
            protocol_name="mcm",
            download=fields["download"],
            folder=f"{_OOD_FOLDER}/{folders[0]}",
            usual_folders=folders,
            n_images=fields["n_images"],
        )
        protocol = OodProtocol(
            dataset=name,
            protocol_name="mcm",
            source="arXiv 2211.13445; github.com/deeplearning-wisc/MCM",
            download=fields["download"],
            inside=imagenet.folder,
            outside=outside.folder,
        )
        inside = replace(imagenet, templates=protocol.templates)
        protocols[name] = replace(protocol, splits=(inside, outside))
    return protocols


def _make_shifts() -> dict[str, ClassificationProtocol | OodProtocol]:
    """Return the protocols of all sets that shifts.yaml declares, by name."""
    protocols: dict[str, ClassificationProtocol | OodProtocol] = {}
    protocols.update(IMAGENET_C["imagenet-c"])
    protocols.update(_make_grouped_sets())
    protocols.update(_make_imagenet_9())
    protocols.update(_make_ood_sets())
    return protocols


SHIFTS: Mapping[str, ClassificationProtocol | OodProtocol] = _make_shifts()
"""All sets that shifts.yaml declares, by name, each in its usual protocol."""


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
